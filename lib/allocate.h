/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Allocation, in parts that write.c and zero.c share: see allocate.c and
 * copyup.c.
 */

#ifndef QED_ALLOCATE_H
#define QED_ALLOCATE_H

#include <sys/types.h>

#include "image.h"
#include "qed.h"

/* A part of a request: its clusters aren't allocated, and their entries are in
 * one slice of an L2 table.  The thread has a claim on them while it changes
 * anything.  Offsets and counts are bytes.
 */
struct qed_piece {
  const void *buf;              /* NULL: zeros */
  uint64_t offset, count;       /* of the disk */
  uint64_t cluster, n;          /* the guest clusters that it touches */
  uint64_t head, tail;          /* bytes of these before and after it; not
                                   what is past the end of the disk */
  bool absent;                  /* there was no L2 table when last seen */
  bool backed;                  /* they read as the backing file does; else
                                   as zeros */
  bool sparse;                  /* zeros in BUF needn't be written */
};

/* Flags of qed_allocate, beside those of qed.h: see keep.c. */
#define QED_KEEP (1U << 8)      /* BUF is what the backing file has there.  Not
                                   where another thread has a claim */
#define QED_KEEP_COPY (1U << 9) /* the same, to be read: BUF is NULL */

/* ---- copyup.c ---- */

/* Write P with the backing file's content around it.  FILE_OFFSET is where its
 * first cluster is.  P->buf NULL: P itself is left as the zeros it is.
 */
extern int qed_write_with_copies (struct qed_image *img,
                                  const struct qed_piece *p,
                                  uint64_t file_offset);

/* ---- allocate.c ---- */

/* As much of COUNT bytes at OFFSET as is one piece: what is in the slice; and
 * for zeros (BUF NULL), whole clusters or a part of one.
 */
extern void qed_cut_piece (const struct qed_image *img, struct qed_piece *p,
                           const void *buf, uint64_t count, uint64_t offset);

/* OFFSET isn't allocated: write there or, with BUF NULL, zero, as far as that
 * is one piece.  Returns the bytes that were done: 0 if another thread was
 * first (I8), or -1.  FLAGS: QED_FAST_ZERO, see qed_look_at_backing; QED_KEEP
 * and QED_KEEP_COPY, for whole clusters.
 */
extern ssize_t qed_allocate (struct qed_image *img, const void *buf,
                             uint64_t count, uint64_t offset, unsigned flags);

/* P is a part of an unallocated cluster.  *ZEROS: it reads as zeros already.
 * *COPY: zeroing it takes a copy of the rest, which is ENOTSUP for a fast zero
 * (FLAGS).
 */
extern int qed_look_at_backing (struct qed_image *img,
                                const struct qed_piece *p, unsigned flags,
                                bool *zeros, bool *copy);

/* *DATA: has the backing file anything there that may not be zeros? */
extern int qed_data_in_backing (struct qed_image *img, uint64_t count,
                                uint64_t offset, bool *data);

/* Add to *CLUSTERS those of the L2 tables that a range needs and that are
 * absent.
 */
extern int qed_add_tables (struct qed_image *img, uint64_t count,
                           uint64_t offset, uint64_t *clusters);

/* How a call that may have written ends: R is its result.  QED_FUA in FLAGS: a
 * flush, unless it has failed.
 */
extern int qed_finish (struct qed_image *img, int r, unsigned flags);

#endif /* QED_ALLOCATE_H */
