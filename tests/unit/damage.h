/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Images that are damaged, what a check has to find in them, and whether what
 * a guest reads from them has stayed the same.  Naive, as model.h is.
 */

#ifndef DAMAGE_H
#define DAMAGE_H

#include "model.h"

/* ---- building ---- */

/* A random image with that geometry: tables, some beyond the end of the disk;
 * data; leaked clusters and tables, mostly; L1 anywhere; and damage of the
 * kinds in the set DAMAGES (of 1U << QED_DAMAGE_...).  More of all with larger
 * STEPS, about as many clusters.
 */
#define ALL_DAMAGES ((1U << QED_NR_DAMAGES) - 1)
extern void damage_random (struct model *m, struct mem_file *f,
                           struct rng *rng, uint32_t cluster_size,
                           uint32_t table_size, unsigned damages,
                           unsigned steps);

/* Copy a range of a file, of whole chunks, to where DEST has a hole. */
extern void damage_copy (struct mem_file *f, struct mem_file *dest,
                         uint64_t from, uint64_t to, uint64_t length);

/* Move the L1 table, leaving what it was as a leak, to the end of the file. */
extern void damage_move_l1 (struct model *m);

/* ---- checking ---- */

/* As qed_check.  Which of the ranges that share something is the damaged one
 * is not said.  False: not a valid image.
 */
extern bool damage_check (struct mem_file *f, bool fixed_size,
                          struct qed_check_result *r);

extern void compare_results (const struct qed_check_result *a,
                             const struct qed_check_result *b);

/* qed_check finds that too, writes nothing, and calls for each entry. */
extern void compare_check (struct mem_file *f, bool fixed_size);

/* How many bytes the file has without leaks: what nothing refers to, and what
 * is after the last cluster.
 */
extern uint64_t damage_used (struct mem_file *f);

/* ---- comparing ---- */

/* What a guest reads, of all clusters that aren't unallocated, also those
 * beyond the end of the disk.  Entries of tables that are shared count for
 * each of their owners.
 */
struct guest_cluster {
  uint64_t cluster;             /* WHOLE_TABLE: the first one */
  enum qed_run_type type;
  bool whole_table;             /* the L1 entry is unsound */
  bool in_table;                /* data that is inside an L2 table */
  bool unfollowed;              /* its table overlaps with an earlier one */
  uint64_t file_offset, hash;   /* of data; the hash doesn't know holes */
};

struct snapshot {
  struct guest_cluster *c;      /* in order of CLUSTER */
  size_t n;
  uint64_t unsound, in_table;   /* of these */
  uint64_t shared;              /* data clusters that are an earlier one's */
};

extern void snapshot_take (struct snapshot *s, struct mem_file *f);
extern void snapshot_free (struct snapshot *s);

/* NULL, or how a guest has lost something between BEFORE and AFTER.  What was
 * unsound is that or unallocated, all else reads the same.  There may be less
 * damage, not more, and REPAIRED there is none.
 *
 * INTERRUPTED, or REPAIRED_LATER after that, what was inside a table, which is
 * being repaired, may be any data, or unallocated if its entry is in a table
 * that is not followed; and an unsound entry in such a table may point to
 * zeros: the file grew over the place past its end.
 */
enum snapshot_when { INTERRUPTED, REPAIRED, REPAIRED_LATER };
extern const char *snapshot_diff (const struct snapshot *before,
                                  const struct snapshot *after,
                                  enum snapshot_when when);

#endif /* DAMAGE_H */
