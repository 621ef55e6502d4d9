/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Checks of all tables of an image that nothing changes meanwhile (check.c),
 * and what is built on them for more than one caller.
 */

#ifndef QED_CHECK_H
#define QED_CHECK_H

#include "qed.h"
#include "walk.h"

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
 * table that overlaps with an earlier one, which the caller frees with
 * qed_bitmap_free.  Returns whether there are any, or -1, and then *SKIP isn't
 * set.
 */
extern int qed_find_shared_tables (struct qed_walk *w, uint8_t **skip);

/* Where what sound entries point to ends; all of them, also those of tables
 * that overlap.  And entries that are unsound only because they point past the
 * end of the file, so that they would be sound if it grew over them: those up
 * to QED_NEAR_END behind its end, and the least of the others.
 */
#define QED_NEAR_END (UINT64_C (1) << 36)
struct qed_past_end {
  uint64_t end;                 /* of what is in use, in bytes */
  uint64_t count;               /* entries past the end of the file */
  uint64_t near_end;            /* where the last near one ends; else the
                                   file's end */
  uint64_t far;                 /* UINT64_MAX: there is none */
};

extern int qed_find_past_end (struct qed_storage *st,
                              const struct qed_header *h, uint64_t file_size,
                              struct qed_past_end *past_end);

/* ---- map.c ---- */

/* For calls that read all of a disk.  EIO: L2 tables of IMG, or of an image
 * below it, overlap, so that a small file might stand for any number of
 * tables.  Only L1 tables are read.  IMG may be NULL.
 */
extern int qed_refuse_shared_tables (const struct qed_image *img);

/* ---- reclaim.c ---- */

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
