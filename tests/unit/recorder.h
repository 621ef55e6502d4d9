/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* What a power failure can leave of an image file: a storage that records
 * what the library does to a file, the states of the file that a crash at
 * any moment leads to, and an audit of such a state.
 *
 * The log holds each operation that changed the file, in the order in which
 * they took effect, with its data; and marks of the test.  A crash happens
 * between two of them, at a cut: those before the cut have taken effect in
 * the page cache, those after it have not.  What the disk has by then:
 *
 *   - Durable is what an operation did that had returned before a sync began
 *     that has returned.  The rest is volatile.
 *   - Sectors of 512 bytes are written wholly or not at all, by the disk
 *     as it likes.  So of the contents that a sector had in the page cache,
 *     from the last durable one to that at the cut, a crash leaves any one,
 *     independently of all other sectors.  An 8-byte write that is lost
 *     leaves what was in its sector; of several volatile ones to a sector a
 *     later one brings the earlier ones with it.  Zeroing without giving the
 *     space back is such a write too.
 *   - The file's length and which parts are holes is metadata of the file
 *     system, which journals it in order.  So of the volatile resizes (also
 *     the implicit ones, by writing past the end) and punches a crash
 *     leaves the first few.  What one that is left cut off or punched out
 *     never comes back.  With one that is lost all is lost that was written
 *     to its range after it: that went to places on the disk that the
 *     journal knows nothing of.
 *   - What is past the file's length is lost.
 *
 * A storage can be told to lie: each lie breaks one of the library's
 * invariants (qed.h) without touching the library, so that a test can show
 * that it would notice.
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
  LIE_EARLY_ENTRIES,   /* I3: the syncs of a commit before its L2 entries are
                          as if they came after these: data to which entries
                          point isn't durable yet */
  LIE_STALE_SPACE,     /* I2, I3: what is lost in fresh space isn't zeros */
  LIE_DIRTY_UNSYNCED,  /* I6: nor after the sync that follows on setting
                          NEED_CHECK */
  LIE_CLEAN_EARLY,     /* I6: nor after those between the last mark and
                          clearing NEED_CHECK */
};

struct recorder;

/* Record what happens to F, whose content now is durable. */
extern struct recorder *recorder_new (struct mem_file *f,
                                      enum recorder_lie lie);
extern void recorder_free (struct recorder *r);

/* A storage on the file.  It is for many threads, but the log orders them;
 * races in the library aren't seen with it.
 */
extern struct qed_storage *recorder_open (struct recorder *r);

/* Put a mark into the log; returns its place. */
extern size_t recorder_mark (struct recorder *r);

/* How many entries the log has: cuts are 0 .. this. */
extern size_t recorder_length (struct recorder *r);

/* Nothing but marks would be between this cut and the next one, which says
 * more, then.
 */
extern bool recorder_same_as_next (struct recorder *r, size_t cut);

/* Into the empty file OUT write what a crash at CUT leaves, with KEEP all or
 * nothing of what is volatile, or a subset.  Returns a number that is the
 * same for equal states at the same mark.
 */
enum recorder_keep { KEEP_NOTHING, KEEP_ALL, KEEP_SOME };
extern uint64_t recorder_rebuild (struct recorder *r, size_t cut,
                                  enum recorder_keep keep, struct rng *rng,
                                  struct mem_file *out);

/* How many states a test is to look at, which gets PERCENT of all: those that
 * QED_CRASH_STATES in the environment says.
 */
extern uint64_t recorder_states_wanted (unsigned percent);

/* Print the log up to CUT. */
extern void recorder_print (struct recorder *r, size_t cut, FILE *fp);

/* The tables of an image, looked at with model.h, in which the library has
 * no part.
 */
struct audit {
  bool need_check;
  unsigned unsound;             /* entries */
  unsigned duplicate;           /* clusters with more than one use */
  uint64_t leaked;              /* clusters without */
  uint64_t end;                 /* of the last used cluster */
  uint64_t size;                /* of the file */
  uint64_t first, last;         /* guest clusters that have data */
};

/* False: not a valid image. */
extern bool audit_image (struct mem_file *f, struct audit *a);

/* Audit an image that was closed without an error: NULL if it is clean and,
 * unless LEAKS are to be expected, ends with its last used cluster; else what
 * isn't so.
 */
extern const char *audit_closed (struct mem_file *f, bool leaks);

#endif /* RECORDER_H */
