/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* What must hold after qed_repair, whether it finished or was interrupted.
 *
 * Only the calling thread may use the file.  Descriptions of violations are
 * constant or in a static buffer that the next call overwrites: don't free
 * them.
 */

#ifndef REPAIRED_H
#define REPAIRED_H

#include "damage.h"

/* Call qed_repair for the image in F, through a storage that is opened and
 * closed here, and reset the counters of F before that.  Returns what
 * qed_repair returns, with its errno; *RESULT is the caller's.
 */
extern int repair (struct mem_file *f, enum qed_repair what,
                   struct qed_repair_result *result);

/* The number of operations that changed or synced F, since the last repair or
 * mem_reset_counters.
 */
extern uint64_t changes (struct mem_file *f);

/* An image before it is repaired.  Owns its snapshot. */
struct before {
  enum qed_repair what;
  uint8_t header[QED_HEADER_BYTES];
  struct qed_header h;
  struct snapshot content;
  struct qed_check_result check;
  uint64_t hash;                /* of the file's content */
};

/* Describe the image in F, which must have a valid header, in *B; WHAT is the
 * kind of repair that is to follow.  Call free_before when done.
 */
extern void take_before (struct before *b, struct mem_file *f,
                         enum qed_repair what);

/* Free what *B owns, but not *B. */
extern void free_before (struct before *b);

/* Check that F is what a repair that returned success may leave of *B.
 * Returns NULL or a description of what is wrong.
 */
extern const char *check_repaired (const struct before *b,
                                   struct mem_file *f);

/* Check that F is what an interrupted repair may leave of *B.  Then repair F
 * in the same way, and check the result of that.  Returns NULL or a
 * description of what is wrong.
 */
extern const char *check_interrupted (const struct before *b,
                                      struct mem_file *f);

#endif /* REPAIRED_H */
