/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Repair: of corruption, and of leaks.
 *
 * The steps are ordered so that an interruption at any moment is safe.
 * NEED_CHECK is durable before anything else changes, and is cleared, durably,
 * at the end, if all is well (I6).  In between, if ALL is to be repaired,
 * corrupt entries are cleared or get copies of what they share (unshare.c),
 * and then leaked clusters are reclaimed (reclaim.c).  A later repair begins
 * with whatever an interrupted one has left.
 */

#include <config.h>

#include "header.h"
#include "repair.h"
#include "storage.h"

/* Is there anything to repair? */
static bool
is_needed (const struct repair *r, enum qed_repair what,
           const struct qed_check_result *found)
{
  if (found->corruptions > 0)
    return what == QED_REPAIR_ALL;
  return found->leaks > 0 || found->need_check ||
    (!r->st->fixed_size && found->file_size > found->end);
}

/* Write the header with NEED_CHECK set or not, durably. */
static int
write_need_check (struct repair *r, bool set)
{
  r->h.features = (r->h.features & ~QED_F_NEED_CHECK) |
    (set ? QED_F_NEED_CHECK : 0);
  r->h.autoclear_features = 0; /* none is known */
  return qed_write_header (r->st, &r->h) == -1 ? -1 :
    qed_storage_sync (r->st);
}

/* RESULT->before has what the check found. */
static int
do_repair (struct repair *r, struct qed_repair_result *result)
{
  const struct qed_progress progress = { qed_repair_report, r };
  const struct qed_check_options opts = { .progress = &progress };
  uint64_t freed = 0;

  if (write_need_check (r, true) == -1)
    return -1;
  if (result->before.corruptions > 0 &&
      qed_fix_corruptions (r, &result->corruptions_fixed) == -1)
    return -1;
  qed_repair_stage (r, 850);
  if (qed_reclaim_space (r, &freed) == -1)
    return -1;
  result->leaks_fixed = freed;
  qed_repair_stage (r, 1000);
  /* This also makes durable what a crashed writer has left. */
  if (qed_storage_sync (r->st) == -1 ||
      qed_check_tables (r->st, &r->h, r->file_size, &opts, 0,
                        &result->after) == -1)
    return -1;
  if (result->after.corruptions > 0)
    return 0;
  result->after.need_check = false;
  return write_need_check (r, false);
}

static int
check_and_repair (struct repair *r, enum qed_repair what,
                  const struct qed_check_options *opts,
                  struct qed_repair_result *result)
{
  const struct qed_progress progress = { qed_repair_report, r };
  const struct qed_check_options first = {
    .progress = &progress,
    .damage = opts ? opts->damage : NULL, .told = opts ? opts->told : NULL,
    .opaque = opts ? opts->opaque : NULL,
  };

  qed_repair_stage (r, 300);
  if (qed_check_tables (r->st, &r->h, r->file_size, &first, 0,
                        &result->before) == -1)
    return -1;
  result->after = result->before;
  if (is_needed (r, what, &result->before) && do_repair (r, result) == -1)
    return -1;
  r->first = r->last = 1000;
  qed_repair_report (r, 0, 0);
  return 0;
}

int
qed_repair (struct qed_storage *st, enum qed_repair what,
            const struct qed_check_options *opts,
            struct qed_repair_result *result)
{
  struct repair r;
  struct qed_header h;
  int64_t size;
  int res;

  *result = (struct qed_repair_result) { .leaks_fixed = 0 };
  if (st->ops->make_writable && st->ops->make_writable (st) == -1)
    return -1;
  /* Only now, with the lock, is the header final. */
  if (qed_read_header (st, &h, NULL) == -1)
    return -1;
  size = qed_storage_size (st);
  if (size == -1 ||
      qed_repair_init (&r, st, &h, (uint64_t) size,
                       opts ? opts->progress : NULL) == -1)
    return -1;
  res = check_and_repair (&r, what, opts, result);
  qed_repair_free (&r);
  return res;
}
