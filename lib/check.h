/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */


/* Walks over all tables of an image, and checks built on them.  No other thread
 * or process changes the image meanwhile.
 */

#ifndef QED_CHECK_H
#define QED_CHECK_H

#include "bitmap.h"
#include "format.h"
#include "qed.h"

/* ---- walks: walk.c ---- */

/* An L2 table that a sound L1 entry points to. */
struct qed_place {
  uint64_t offset;              /* of the table in the file */
  uint64_t l1_index;            /* the least one that points there */
  uint64_t data_end;            /* where the file's stretch of data ends that
                                   the table starts in; or 0 */
};

/* Bytes of the file that are a hole, or aren't; none if END is 0. */
struct qed_stretch_seen {
  uint64_t start, end;
  bool hole;
};

/* How many of MAX bytes from OFFSET of the file on are in a hole, or (*HOLE
 * false) may not be?  SEEN keeps what the file said last, so that it is asked
 * once for each stretch that is gone through.
 */
extern uint64_t qed_bytes_alike (struct qed_storage *st,
                                 struct qed_stretch_seen *seen,
                                 uint64_t offset, uint64_t max, bool *hole);

struct qed_walk {
  struct qed_storage *st;
  struct qed_geometry g;
  uint64_t file_end;            /* in whole clusters */
  const struct qed_progress *progress; /* of walks over L2 tables; or NULL */

  /* A bit for each L1 entry that isn't followed, or NULL: unsound ones never
   * are.
   */
  const uint8_t *skip;

  /* For speed; or NULL.  How many of the first of N L2 entries at PIECE, as
   * they are in the file, need not go to the function, which OPAQUE is that of?
   */
  uint64_t (*bulk) (void *opaque, const uint64_t *piece, uint64_t n);

  /* Where the entry is that a function gets: */
  uint64_t table;               /* the offset of its table */
  uint64_t l1_index;            /* of that table, if it's an L2 table */
  uint64_t next_table;          /* the same: where the next table starts, which
                                   may be inside this one */

  /* The walk's own: */
  uint64_t *piece;              /* entries being looked at */
  struct qed_place *places;     /* the L2 tables */
  size_t nr_places, allocated;
  struct qed_stretch_seen seen, advised;
  bool zeros;                   /* what was read last was nothing else */
  uint64_t asked_ms;            /* when qed_interrupted was called last */
};

/* Look at an entry that isn't 0, number INDEX of its table.  0: go on; 1: it
 * has changed *ENTRY, which is to be written, not durably; -1: failed.
 */
typedef int qed_entry_fn (void *opaque, uint64_t index, uint64_t *entry);

/* FILE_SIZE may end with part of a cluster. */
extern int qed_walk_init (struct qed_walk *w, struct qed_storage *st,
                          const struct qed_header *h, uint64_t file_size);
extern void qed_walk_free (struct qed_walk *w);

/* All L1 entries, in their order; and the entries of all L2 tables that sound
 * L1 entries point to, in the order of their places in the file.  No place is
 * read twice: where tables overlap, an entry is one of the table that starts
 * first.  Holes of the file are jumped over.  ESHUTDOWN: qed_interrupted said
 * so.
 */
extern int qed_walk_l1 (struct qed_walk *w, qed_entry_fn *fn, void *opaque);
extern int qed_walk_l2 (struct qed_walk *w, qed_entry_fn *fn, void *opaque);

/* The file offset of the entry that a function got. */
static inline uint64_t
qed_entry_place (const struct qed_walk *w, uint64_t index)
{
  return w->table + index * sizeof (uint64_t);
}

/* ---- check.c ---- */

/* As qed_check, of an image with the valid header H in a file of FILE_SIZE
 * bytes.  Entries with a damage in the set CLEAR (of 1U << QED_DAMAGE_...)
 * become 0, not durably.
 */
extern int qed_check_tables (struct qed_storage *st,
                             const struct qed_header *h, uint64_t file_size,
                             const struct qed_check_options *opts,
                             unsigned clear, struct qed_check_result *result);

/* Tell FN of each L2 entry whose cluster has an owner already: an L2 table or,
 * unless IN_TABLES, another entry.  Entries are as in a walk, and it may not
 * change them.
 */
extern int qed_find_shared (struct qed_walk *w, bool in_tables,
                            qed_entry_fn *fn, void *opaque);

/* Set *SKIP to a new bitmap of the L1 entries (1 << table_bits) that point to a
 * table that overlaps with an earlier one.  Returns whether there are any, or
 * -1.
 */
extern int qed_find_shared_tables (struct qed_walk *w, uint8_t **skip);

/* Entries that are unsound only because they point past the end of the file,
 * so that they would be sound if it grew over them: those up to QED_NEAR_END
 * behind its end, and the least of the others.
 */
#define QED_NEAR_END (UINT64_C (1) << 36)
struct qed_past_end {
  uint64_t count;
  uint64_t near_end;            /* where the last near one ends; else the
                                   file's end */
  uint64_t far;                 /* UINT64_MAX: there is none */
};

extern int qed_find_past_end (struct qed_storage *st,
                              const struct qed_header *h, uint64_t file_size,
                              struct qed_past_end *past_end);

/* ---- map.c ---- */

/* For what goes through all of a disk.  EIO: L2 tables of IMG, or of an image
 * below it, overlap, so that a small file might stand for any number of
 * tables.  Only L1 tables are read.  IMG may be NULL.
 */
extern int qed_refuse_shared_tables (const struct qed_image *img);

/* ---- repair.c ---- */

/* Take leaked space back: move what is at the end of the file into it and cut
 * the file.  The image in ST, with H, has no corruption, is open for writing
 * and marked NEED_CHECK durably, and all is durable.  H->l1_table_offset may
 * change (in the file too); H->features is kept as the file has it.
 * *FILE_SIZE is brought up to date, *FREED, if not NULL, is how many clusters
 * were leaked.  All is durable afterwards but the file's last length.
 */
extern int qed_reclaim (struct qed_storage *st, struct qed_header *h,
                        uint64_t *file_size,
                        const struct qed_progress *progress,
                        uint64_t *freed);

#endif /* QED_CHECK_H */
