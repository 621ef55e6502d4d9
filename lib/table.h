/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* L1 and L2 entries in a bounded cache of table slices.  See table.c and, for
 * what changes entries, link.c.
 */

#ifndef QED_TABLE_H
#define QED_TABLE_H

#include <stdatomic.h>

#include "qed.h"

struct qed_table;

#define QED_SLICE_BITS 9
#define QED_SLICE_ENTRIES (UINT64_C (1) << QED_SLICE_BITS)
#define QED_GROUP 8U            /* entries for a bit of a slice's groups */

/* A cached entry, decoded. */
typedef _Atomic uint64_t qed_entry;

/* Where in the file what entries point to may lie (I9): up to the end that the
 * file had when it was opened, or in what it was extended by since.  Between
 * the two there may be a gap that is never allocated (space.c).
 */
struct qed_ends {
  _Atomic uint64_t at_open;
  _Atomic uint64_t fresh;       /* where clusters are taken from on */
  _Atomic uint64_t now;
};

/* Where what ENTRY, which was loaded with acquire, points to must end.
 *
 * The ends may be growing, which stores fresh, then now.  So the now that is
 * loaded first comes with its fresh or a later one, never with an older one,
 * which would let an entry point into the gap.  An entry that was linked in
 * fresh space was stored after both of them.
 */
static inline uint64_t
qed_end_for (const struct qed_ends *ends, uint64_t entry)
{
  uint64_t now = atomic_load_explicit (&ends->now, memory_order_acquire);
  uint64_t fresh = atomic_load_explicit (&ends->fresh, memory_order_acquire);

  return entry >= fresh ? now :
    atomic_load_explicit (&ends->at_open, memory_order_acquire);
}

/* What qed_table_find says about a guest cluster. */
enum qed_view_type {
  QED_VIEW_ENTRIES,             /* it has L2 entries, in the view */
  QED_VIEW_ABSENT,              /* there is no L2 table: L1 entry 0 */
  QED_VIEW_UNSOUND,             /* the L1 entry may not be followed */
};
struct qed_view {
  bool locked;                  /* set false before the first call */

  /* Of table.c, if it isn't locked: the view is valid as long as *SEQ is what
   * was SEEN.
   */
  const _Atomic uint64_t *seq;
  uint64_t seen;

  enum qed_view_type type;
  uint64_t clusters;            /* how many, from the one asked for, the
                                   view speaks of: at least 1 */

  /* ENTRIES: as many entries, to be loaded with qed_load_entry, until
   * qed_table_end.  They may change meanwhile, as I1 permits, or become
   * those of any other slice, and then qed_table_end says so.
   */
  const qed_entry *entries;
  uint64_t index;               /* of the first one in its slice */
  const _Atomic uint64_t *groups; /* of the slice: a bit for each 8 entries
                                     that aren't all 0 */

  uint64_t l2_offset;           /* ENTRIES: of the L2 table in the file.
                                   UNSOUND: the L1 entry's value */
  const struct qed_ends *ends;  /* valid as long as the entries */
};

static inline uint64_t
qed_load_entry (const qed_entry *e)
{
  return atomic_load_explicit (e, memory_order_acquire);
}

/* The entries at the start of a view, the first of which is 0, that are 0, MAX
 * at most.  Most slices of a sparse image are nearly empty, so groups without
 * an entry are jumped over.  A group that gets its first entry meanwhile was
 * empty when this call began (I1).
 */
extern uint64_t qed_count_unallocated (const struct qed_view *view,
                                       uint64_t max);

/* A cache for the tables of an image with this geometry in a file whose
 * length, rounded down to a cluster, is FILE_END.  It takes at most
 * CACHE_SIZE bytes.  ST is borrowed.  NULL: ENOMEM.  T may be NULL for free.
 */
extern struct qed_table *qed_table_new (struct qed_storage *st,
                                        const struct qed_geometry *g,
                                        uint64_t file_end, size_t cache_size);
extern void qed_table_free (struct qed_table *t);

/* Look up guest cluster CLUSTER, which is inside the disk: a hit takes no lock
 * (I7).  On success look at the view, quickly and without I/O, and call
 * qed_table_end.  If that returns false, what was seen is worth nothing: do it
 * all again with the same view, which takes the lock, so that it succeeds.
 * On failure (-1: a table can't be read) there is nothing to end.
 *
 *     struct qed_view view = { .locked = false };
 *
 *     do {
 *       if (qed_table_find (t, cluster, &view) == -1)
 *         return -1;
 *       ...
 *     } while (!qed_table_end (t, &view));
 */
extern int qed_table_find (struct qed_table *t, uint64_t cluster,
                           struct qed_view *view);
extern bool qed_table_end (struct qed_table *t, struct qed_view *view);

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
 * that the next call of qed_table_commit writes.  In between what they point
 * to has to be made durable; the entries are written, not durably.  Only one
 * commit at a time, and none after one that failed.
 */
extern void qed_table_begin_commit (struct qed_table *t);
extern int qed_table_commit (struct qed_table *t);

#endif /* QED_TABLE_H */
