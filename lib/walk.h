/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Walks over all tables of an image that no other thread or process changes
 * meanwhile.  See walk.c.
 */

#ifndef QED_WALK_H
#define QED_WALK_H

#include "bitmap.h"
#include "format.h"
#include "qed.h"

/* An L2 table that a sound L1 entry points to. */
struct qed_place {
  uint64_t offset;              /* of the table in the file */
  uint64_t l1_index;            /* the least one that points there */
  uint64_t data_end;            /* where the file's stretch of data ends that
                                   the table starts in; or 0 */
};

/* A stretch of the file that is a hole, or isn't; none if END is 0. */
struct qed_stretch_seen {
  uint64_t start, end;
  bool hole;
};

/* How many of MAX bytes of the file, from OFFSET on, are in a hole, or (*HOLE
 * false) may be data?  SEEN keeps the last answer of the file, so that each
 * stretch takes one question.
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
   * INDEX is the number of the first one in its table.
   */
  uint64_t (*bulk) (void *opaque, uint64_t index, const uint64_t *piece,
                    uint64_t n);

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

/* FILE_SIZE may end with part of a cluster.  ST is borrowed.  After a failure
 * there is nothing to free.
 */
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

#endif /* QED_WALK_H */
