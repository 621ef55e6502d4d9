/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The states of an image file that a power failure can leave: a storage that
 * records what the library does to a file, the states that a crash at any
 * moment leads to, and an audit of such a state.
 *
 * The log holds each operation that changed the file, with its data, in the
 * order in which they took effect, and marks of the test.  A crash happens at
 * a cut between two events of the log: those before the cut have taken effect
 * in the page cache, those after it have not.  The disk then has:
 *
 *   - An operation is durable if it returned before a sync began, and that
 *     sync returned before the cut.  All other operations are volatile.
 *   - The disk writes a sector of 512 bytes entirely or not at all, and
 *     sectors in any order.  So a crash leaves any one of the contents that a
 *     sector had in the page cache, from the last durable one to the one at
 *     the cut, independently of all other sectors.  If an 8-byte write is
 *     lost, its sector keeps its old content; if a later volatile write to
 *     the same sector survives, so do the earlier ones.  Zeroing that doesn't
 *     give the space back is such a write too.
 *   - The file's length and its holes are metadata of the filesystem, which
 *     journals them in order.  So a crash leaves the first few of the
 *     volatile resizes (including those implied by a write past the end) and
 *     punches.  What a surviving one cut off or punched out never comes back.
 *     If one is lost, all later writes to its range are lost too: they went
 *     to blocks that the journal doesn't know.
 *   - Everything past the file's length is lost.
 *   - A device (mem_make_device) has no such metadata: its length never
 *     changes, and a hole is a write of zeros.
 *
 * A storage can be told to lie: each lie breaks one of the library's
 * invariants (qed.h) without changing the library, so that a test can show
 * that it would notice the breach.
 *
 * Any thread may use the storages and set marks while recording.  All other
 * functions are for one thread and take no lock on the log: call them while no
 * operation is under way.
 */

#ifndef RECORDER_H
#define RECORDER_H

#include <stdio.h>

#include "harness.h"
#include "memory-storage.h"

enum recorder_lie {
  LIE_NONE,
  LIE_SYNC,            /* I5: sync returns and nothing is durable */
  LIE_LATE_ENTRIES,    /* I3, I5: table entries miss the next sync */
  LIE_EARLY_ENTRIES,   /* I3: the syncs of a commit before its L2 entries act
                          as if they came after these: the data to which
                          entries point isn't durable yet */
  LIE_STALE_SPACE,     /* I2, I3: a lost write to fresh space leaves other
                          bytes than zeros */
  LIE_DIRTY_UNSYNCED,  /* I6: the sync after setting NEED_CHECK returns and
                          nothing is durable */
  LIE_FRESH_UNSYNCED,  /* I2: the sync after zeroing space of a device returns
                          and nothing is durable */
  LIE_CLEAN_EARLY,     /* I6: the same for the syncs between the last mark and
                          clearing NEED_CHECK */
  LIE_ALONE_EARLY,     /* I3: the same for the syncs before the header names no
                          backing file any more */
};

struct recorder;

/* Start to record what happens to F, whose content now is durable.  F stays
 * the caller's.  Free the result with recorder_free.
 */
extern struct recorder *recorder_new (struct mem_file *f,
                                      enum recorder_lie lie);
/* Free the recorder and its log.  Its storages must be closed. */
extern void recorder_free (struct recorder *r);

/* Open a storage that records.  The caller owns it and closes it before it
 * frees the recorder.  The log's lock orders the operations of all threads,
 * so ThreadSanitizer can't see races in the library here.
 */
extern struct qed_storage *recorder_open (struct recorder *r);

/* Put a mark into the log, under its lock.  Returns its index there. */
extern size_t recorder_mark (struct recorder *r);

/* The number of events in the log, N: the cuts are 0 to N. */
extern size_t recorder_length (struct recorder *r);

/* Is the event between CUT and the next cut a mark or the begin of a sync?
 * Then the file is the same at both, and looking at the next one suffices.
 */
extern bool recorder_same_as_next (struct recorder *r, size_t cut);

/* Write the state that a crash at CUT leaves into OUT, an empty file of the
 * caller's.  KEEP is what survives of the volatile operations: none, all, or a
 * subset that RNG chooses; only KEEP_SOME uses RNG.  Returns a hash, which is
 * the same for equal states after the same mark.  The log must not grow after
 * the first call.
 */
enum recorder_keep { KEEP_NOTHING, KEEP_ALL, KEEP_SOME };
extern uint64_t recorder_rebuild (struct recorder *r, size_t cut,
                                  enum recorder_keep keep, struct rng *rng,
                                  struct mem_file *out);

/* The number of states that a test should look at: PERCENT of the number in
 * QED_CRASH_STATES in the environment, or of its default, and at least 1.
 */
extern uint64_t recorder_states_wanted (unsigned percent);

/* Print the events before CUT, a line for each, to FP. */
extern void recorder_print (struct recorder *r, size_t cut, FILE *fp);

/* The state of an image's tables, found with model.h and not with the
 * library.
 */
struct audit {
  bool need_check;
  unsigned unsound;             /* entries */
  unsigned duplicate;           /* clusters with more than one use */
  uint64_t leaked;              /* clusters with none */
  uint64_t end;                 /* of the last used cluster: a file offset */
  uint64_t size;                /* of the file, in bytes */
  uint64_t first, last;         /* guest clusters that have data */
};

/* Audit the image in F into *A, which needs no freeing.  False: not a valid
 * image.  Nothing may change F meanwhile.
 */
extern bool audit_image (struct mem_file *f, struct audit *a);

/* Audit an image that was closed without an error.  NULL: it is clean and
 * sound and, unless LEAKS are expected, ends with its last used cluster.
 * Otherwise a description of what is wrong, in a static buffer that the next
 * call overwrites.
 */
extern const char *audit_closed (struct mem_file *f, bool leaks);

#endif /* RECORDER_H */
