/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Damaged images, the results that a check of them must return, and a
 * comparison of the content that a guest sees before and after a repair.  The
 * checker here is built on model.h and as simple.
 *
 * Only the calling thread may use the files.  Offsets and lengths are bytes.
 */

#ifndef DAMAGE_H
#define DAMAGE_H

#include "model.h"

/* ---- building ---- */

/* Make F a random image with this geometry, CLUSTER_SIZE in bytes and
 * TABLE_SIZE in clusters.  It has tables, some of them beyond the end of the
 * disk; data; in most cases leaked clusters and tables; an L1 table anywhere;
 * and damage of the kinds in the set DAMAGES, of 1U << QED_DAMAGE_...  The
 * number of clusters grows with STEPS and is about that.  *M is the image; it
 * doesn't own F.
 */
#define ALL_DAMAGES ((1U << QED_NR_DAMAGES) - 1)
extern void damage_random (struct model *m, struct mem_file *f,
                           struct rng *rng, uint32_t cluster_size,
                           uint32_t table_size, unsigned damages,
                           unsigned steps);

/* Copy LENGTH bytes of F at FROM to TO in DEST, which has a hole there and may
 * be F.  All three are multiples of MEM_CHUNK.  Holes stay holes.
 */
extern void damage_copy (struct mem_file *f, struct mem_file *dest,
                         uint64_t from, uint64_t to, uint64_t length);

/* Move the L1 table to the end of the file.  Its old clusters are leaked. */
extern void damage_move_l1 (struct model *m);

/* ---- checking ---- */

/* Compute what qed_check must find in F, into *R, which needs no freeing.
 * FIXED_SIZE is as in struct qed_storage, and true for a device.  Doesn't say
 * which one of several ranges that share a cluster counts as damaged.  False:
 * not a valid image.
 */
extern bool damage_check (struct mem_file *f, bool fixed_size,
                          struct qed_check_result *r);

/* Check that the two results are equal. */
extern void compare_results (const struct qed_check_result *a,
                             const struct qed_check_result *b);

/* Check that qed_check finds in F, a valid image, what damage_check does, that
 * it writes nothing, and that it calls back for each damaged entry.
 */
extern void compare_check (struct mem_file *f, bool fixed_size);

/* The bytes of the whole clusters of F, a valid image, that aren't leaked. */
extern uint64_t damage_used (struct mem_file *f);

/* ---- comparing ---- */

/* A cluster that isn't unallocated, on the disk or beyond its end.  An entry
 * of a table with several owners counts once for each owner.
 */
struct guest_cluster {
  uint64_t cluster;             /* WHOLE_TABLE: the first one */
  enum qed_run_type type;
  bool whole_table;             /* the L1 entry is unsound */
  bool in_table;                /* its data lies in an L2 table */
  bool unfollowed;              /* its table overlaps an earlier one */
  uint64_t file_offset, hash;   /* of data; the hash doesn't know holes */
};

/* The content that a guest sees.  Owns C. */
struct snapshot {
  struct guest_cluster *c;      /* in order of CLUSTER */
  size_t n;
  uint64_t unsound, in_table;   /* of these */
  uint64_t shared;              /* data clusters that are an earlier one's */
};

/* Fill *S from the image in F.  Call snapshot_free when done. */
extern void snapshot_take (struct snapshot *s, struct mem_file *f);

/* Free what *S owns, but not *S. */
extern void snapshot_free (struct snapshot *s);

/* Check that a guest has lost nothing between BEFORE and AFTER.  Returns NULL
 * or a description of the loss, which is constant or in a static buffer that
 * the next call overwrites.
 *
 * A cluster that was unsound still is, or is unallocated; all others read the
 * same.  There is no more damage than before, and none after REPAIRED.
 *
 * After INTERRUPTED, and REPAIRED_LATER which follows it, a cluster whose data
 * lay in a table under repair may have any data, or be unallocated if its
 * entry is in a table that is not followed.  An unsound entry in such a table
 * may point to zeros, because the file has grown past its offset.
 */
enum snapshot_when { INTERRUPTED, REPAIRED, REPAIRED_LATER };
extern const char *snapshot_diff (const struct snapshot *before,
                                  const struct snapshot *after,
                                  enum snapshot_when when);

#endif /* DAMAGE_H */
