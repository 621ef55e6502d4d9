/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* What has to be so after qed_repair, whether it ended or was interrupted. */

#ifndef REPAIRED_H
#define REPAIRED_H

#include "damage.h"

/* Call qed_repair for the image in F, and count from then on. */
extern int repair (struct mem_file *f, enum qed_repair what,
                   struct qed_repair_result *result);

/* How often F was changed or synced since. */
extern uint64_t changes (struct mem_file *f);

/* What is known of an image before it is repaired in one way. */
struct before {
  enum qed_repair what;
  uint8_t header[QED_HEADER_BYTES];
  struct qed_header h;
  struct snapshot content;
  struct qed_check_result check;
  uint64_t hash;
};
extern void take_before (struct before *b, struct mem_file *f,
                         enum qed_repair what);
extern void free_before (struct before *b);

/* Is F what may be left of it?  If not: a description.  After an interruption
 * F is repaired again, in the same way.
 */
extern const char *check_repaired (const struct before *b,
                                   struct mem_file *f);
extern const char *check_interrupted (const struct before *b,
                                      struct mem_file *f);

#endif /* REPAIRED_H */
