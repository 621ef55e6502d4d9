/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The fuzz target of check and repair: any file as an image (I9).  What
 * qed_check finds is compared with the simple check of tests/unit/damage.h.
 * A repair is refused, or the check finds nothing afterwards, a second repair
 * changes nothing, and a guest reads the same content as before.
 *
 * The cost of a check depends only on the size of the input, not on the disk
 * that it describes.  The cost of a repair grows with the number of entries
 * that refer to one cluster, so the target skips inputs with which a few bytes
 * make it very large.
 */

#include <config.h>

#include "damage.h"
#include "input.h"
#include "repaired.h"

#define MAX_COPIES 4000
#define MAX_COPIED (4 << 20)    /* bytes */

static int
check (struct mem_file *f)
{
  struct qed_storage *st = mem_open (f);
  struct qed_check_result r;
  int ret = qed_check (st, NULL, &r), err = errno;

  qed_storage_close (st);
  errno = err;
  return ret;
}

/* An image that can't be checked: there is an error message, and it isn't
 * repaired either.
 */
static void
check_refused (struct mem_file *f, bool valid, int err)
{
  struct qed_repair_result r;

  CHECK (valid ? err == EFBIG : err == EINVAL || err == ENOTSUP || err == EIO);
  CHECK_FAILS (repair (f, QED_REPAIR_ALL, &r), err, MEM_NAME ": ");
  CHECK_EQ (changes (f), 0);
}

/* Does a repair make no more copies than we allow? */
static bool
is_small (struct mem_file *f, size_t size)
{
  struct qed_check_result r;
  struct snapshot s;
  bool small;

  CHECK (damage_check (f, false, &r));
  if (r.damages[QED_DAMAGE_SHARED_TABLE] * (size / 8 + 1) > 10 * MAX_COPIES)
    return false;
  snapshot_take (&s, f);
  small = s.shared + s.in_table <= MAX_COPIES &&
    (s.shared + s.in_table) * size <= MAX_COPIED;
  snapshot_free (&s);
  return small;
}

/* Repair F, which may be as long as a file can be, so that nothing can be
 * added to it.
 */
static void
check_repair (struct mem_file *f, enum qed_repair what)
{
  struct qed_repair_result r;
  const char *why = NULL;
  struct before b;

  take_before (&b, f, what);
  if (repair (f, what, &r) == -1) {
    CHECK (errno == EFBIG || errno == EINVAL);
    why = check_interrupted (&b, f);
    if (why && strncmp (why, "again: ", 7) == 0)
      why = NULL;
  }
  else if (what == QED_REPAIR_LEAKS && b.check.corruptions) {
    CHECK_EQ (changes (f), 0);
    CHECK_EQ (mem_hash (f), b.hash);
  }
  else {
    uint64_t hash = mem_hash (f);

    why = check_repaired (&b, f);
    compare_check (f, false);
    CHECK_EQ (repair (f, what, &r), 0);
    CHECK_EQ (changes (f), 0);
    CHECK_EQ (mem_hash (f), hash);
  }
  if (why)
    harness_fail (__FILE__, __LINE__, "%s", why);
  free_before (&b);
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  struct mem_file *f = input_load (data, size);
  struct model m;
  bool valid = model_open (&m, f);
  bool fixed_size = mem_hash (f) % 2;

  CONTEXT ("the model finds the header %svalid", valid ? "" : "in");
  mem_reset_counters (f);
  if (check (f) == -1)
    check_refused (f, valid, errno);
  else {
    CHECK (valid);
    CHECK_OP (mem_calls (f, MEM_ANY), <=, 2000 + size);
    compare_check (f, fixed_size);
    if (is_small (f, size)) {
      check_repair (f, QED_REPAIR_LEAKS);
      check_repair (f, QED_REPAIR_ALL);
    }
  }
  mem_file_free (f);
  return 0;
}
