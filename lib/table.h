/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* L1 and L2 entries in a bounded cache of table slices.  See table.c. */

#ifndef QED_TABLE_H
#define QED_TABLE_H

#include "qed.h"

struct qed_table;

/* Where in the file what entries point to may lie (I9): up to the end that the
 * file had when it was opened, or in what it was extended by since.  Between
 * the two there may be a gap that belongs to nobody (space.c).
 */
struct qed_ends {
  uint64_t at_open;
  uint64_t fresh;               /* where clusters are taken from on */
  uint64_t now;
};

/* Where what ENTRY points to must end. */
static inline uint64_t
qed_end_for (const struct qed_ends *ends, uint64_t entry)
{
  return entry < ends->fresh ? ends->at_open : ends->now;
}

/* What table_find says about a guest cluster. */
enum qed_view_type {
  QED_VIEW_ENTRIES,             /* it has L2 entries, in the view */
  QED_VIEW_ABSENT,              /* there is no L2 table: L1 entry 0 */
  QED_VIEW_UNSOUND,             /* the L1 entry may not be followed */
};
struct qed_view {
  enum qed_view_type type;
  uint64_t clusters;            /* how many, from the one asked for, the
                                   view speaks of: at least 1 */

  /* ENTRIES: as many entries, valid until qed_table_unlock. */
  const uint64_t *entries;
  bool whole_slice;             /* the view starts at a slice's start */

  uint64_t l2_offset;           /* ENTRIES: of the L2 table in the file.
                                   UNSOUND: the L1 entry's value */
  const struct qed_ends *ends;  /* valid as long as the entries */
};

/* A cache for the tables of an image with this geometry in a file whose
 * length, rounded down to a cluster, is FILE_END.  It takes at most
 * CACHE_SIZE bytes.
 */
extern struct qed_table *qed_table_new (struct qed_storage *st,
                                        const struct qed_geometry *g,
                                        uint64_t file_end, size_t cache_size);
extern void qed_table_free (struct qed_table *t);

/* Look up guest cluster CLUSTER, which is inside the disk.  On success the
 * cache is locked: look at the view, quickly and without I/O, and call
 * qed_table_unlock.  On failure (-1: a table can't be read) it isn't.
 * Called and returns without the lock in that case.
 */
extern int qed_table_find (struct qed_table *t, uint64_t cluster,
                           struct qed_view *view);
extern void qed_table_unlock (struct qed_table *t);

/* CLUSTER starts a slice of the L2 table at L2_OFFSET: how many clusters
 * from there on are known to be unallocated because the image file has a
 * hole where their entries are?  0 if none.  Called without the lock.
 */
extern uint64_t qed_table_hole (struct qed_table *t, uint64_t l2_offset,
                                uint64_t cluster);

/* Forget all slices, because the file may have been repaired, and that its end
 * is FILE_END.  Called without the lock, before any of the calls below; other
 * threads may be reading.
 */
extern void qed_table_reset (struct qed_table *t, uint64_t file_end);

/* Clusters are taken from FRESH on, and the file ends at FILE_END now. */
extern void qed_table_grow (struct qed_table *t, uint64_t fresh,
                            uint64_t file_end);

/* May CLUSTER's entry be linked?  EIO and *UNSOUND: its slice (of the L1 table
 * if *ABSENT: there is no L2 table) has an unsound entry, so nothing is linked
 * there (I9).
 */
extern int qed_table_prepare (struct qed_table *t, uint64_t cluster,
                              bool *absent, bool *unsound);

/* Set the L2 entries of N guest clusters from CLUSTER on, all in one slice
 * (QED_SLICE_ENTRIES), to OFFSET and what follows it, or all to
 * QED_ENTRY_ZERO; or the L1 entry for CLUSTER to the L2 table at OFFSET.
 * First in the file, with one write, then in memory (I4).  qed_table_prepare
 * has said that it may be done, and the caller has a claim on the clusters
 * (writer.h), so nobody else changes these entries.  After a failure *HOW
 * tells what the file has.
 */
enum qed_link_failure {
  QED_LINK_UNTOUCHED,           /* the old entries, all the time */
  QED_LINK_RESTORED,            /* the old ones again, but maybe not durably */
  QED_LINK_LOST,                /* that isn't known */
};
extern int qed_table_link (struct qed_table *t, uint64_t cluster, uint64_t n,
                           uint64_t offset, enum qed_link_failure *how);
extern int qed_table_link_l2 (struct qed_table *t, uint64_t cluster,
                              uint64_t offset, enum qed_link_failure *how);

/* Before the first pending link in the slice of CLUSTER's L2 entry: make the
 * filesystem give the slice its space, so that a commit doesn't find it full.
 * The caller has a claim on CLUSTER.
 */
extern int qed_table_reserve (struct qed_table *t, uint64_t cluster);

/* Pending links (I3): the entries, which were 0 or QED_ENTRY_ZERO, are set in
 * memory, where lookups see them, and stay what they were in the file until
 * a commit.  Returns 1, and sets nothing, if as many slices have pending links
 * as the cache may keep: commit and call it again.  *FIRST: the next
 * commit had none so far.
 */
extern int qed_table_link_later (struct qed_table *t, uint64_t cluster,
                                 uint64_t n, uint64_t offset, bool *first);

/* Are there pending links that no commit has begun with?  If not, then there
 * are none that were made before this call.
 */
extern bool qed_table_pending (const struct qed_table *t);

/* A commit: the links that are pending now, and none that follow, are those
 * that the next call of qed_table_commit writes.  In between what they point to
 * has to be made durable.  Only one commit at a time, and none after one that
 * failed.
 */
extern void qed_table_begin_commit (struct qed_table *t);
extern int qed_table_commit (struct qed_table *t);

#define QED_SLICE_BITS 9
#define QED_SLICE_ENTRIES (UINT64_C (1) << QED_SLICE_BITS)

#endif /* QED_TABLE_H */
