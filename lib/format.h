/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Geometry arithmetic, inline for the hot paths.  Everything here is 64-bit
 * and can't overflow for the geometry of a validated header: see format.c.
 * No function sets errno.
 */

#ifndef QED_FORMAT_H
#define QED_FORMAT_H

#include "qed.h"

/* Special L2 entries: QED-FORMAT.md, Tables and clusters. */
#define QED_ENTRY_UNALLOCATED UINT64_C (0)
#define QED_ENTRY_ZERO UINT64_C (1)

/* CLUSTER is a guest cluster number.  The index of its entry in its L2 table,
 * and the index of that table's entry in the L1 table.
 */
static inline uint64_t
qed_l2_index (const struct qed_geometry *g, uint64_t cluster)
{
  return cluster & ((UINT64_C (1) << g->table_bits) - 1);
}

static inline uint64_t
qed_l1_index (const struct qed_geometry *g, uint64_t cluster)
{
  return cluster >> g->table_bits;
}

/* The number of clusters of the disk, whose end may cut the last one, and the
 * number of L1 entries that map them: at most 2^51 and 2^27.
 */
static inline uint64_t
qed_clusters (const struct qed_geometry *g)
{
  return (g->image_size + g->cluster_size - 1) >> g->cluster_bits;
}

static inline uint64_t
qed_l1_entries (const struct qed_geometry *g)
{
  return (qed_clusters (g) + (UINT64_C (1) << g->table_bits) - 1) >>
    g->table_bits;
}

/* Do A_LEN bytes at A and B_LEN bytes at B have a byte in common?  No sum is
 * formed, so that any values will do.
 */
static inline bool
qed_overlaps (uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
  return a < b ? b - a < a_len : a - b < b_len;
}

/* Write to BUF the options of qed-img create for the smallest geometry that
 * can map SIZE bytes with tables and clusters no smaller than those of H.
 * Returns BUF, or NULL (BUF is not touched) if there is no such geometry.
 */
#define QED_ADVICE_BYTES 64
extern const char *qed_advise_geometry (const struct qed_header *h,
                                        uint64_t size,
                                        char buf[QED_ADVICE_BYTES]);

/* Does qed_entry_unsound return NULL for these arguments? */
static inline bool
qed_entry_sound (const struct qed_geometry *g, uint64_t entry,
                 uint64_t length, uint64_t file_end, uint64_t own_table)
{
  return (entry & (g->cluster_size - 1)) == 0 &&
    entry >= g->header_bytes &&
    length <= file_end && entry <= file_end - length &&
    !qed_overlaps (entry, length, g->l1_offset, g->table_bytes) &&
    (own_table == 0 ||
     !qed_overlaps (entry, length, own_table, g->table_bytes));
}

#endif /* QED_FORMAT_H */
