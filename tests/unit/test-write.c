/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Writes cost a bounded number of storage operations and allocate clusters
 * that read as zeros (I2), without leaks when a request fails.  NEED_CHECK is
 * durable before the first change and cleared when the image is clean (I6).
 * Invalid requests are refused, and the check at open repairs an image that
 * was not closed.  test-crash and test-fault show that nothing is lost.
 */

#include <config.h>

#include <unistd.h>

#include "alloc.h"
#include "harness.h"
#include "memory-storage.h"
#include "model.h"

#define CS UINT64_C (4096)      /* clusters, with tables of 512 entries */
#define DISK (UINT64_C (1) << 24)

static const struct qed_write_options no_thread;

static struct qed_image *
open_writable (struct mem_file *f, const struct qed_write_options *opts)
{
  struct qed_image *img = qed_open (mem_open (f), QED_MIN_CACHE_SIZE);

  CHECK (img != NULL);
  CHECK_EQ (qed_make_writable (img, opts), 0);
  return img;
}

static struct qed_image *
new_image (struct model *m, struct mem_file *f)
{
  model_create (m, f, CS, 1, DISK);
  return open_writable (f, &no_thread);
}

/* The image closes without an error and clean, and its file ends after END
 * clusters.
 */
static void
close_clean (struct qed_image *img, struct mem_file *f, uint64_t end)
{
  struct model m;

  CHECK_EQ (qed_close (img), 0);
  CHECK (model_open (&m, f));
  CHECK_EQ (m.h.features & QED_F_NEED_CHECK, 0);
  CHECK_EQ (mem_size (f), end * CS);
}

static uint64_t
features (struct mem_file *f)
{
  struct model m;

  CHECK (model_open (&m, f));
  return m.h.features;
}

static uint8_t *
filled (size_t count, int c)
{
  static uint8_t buf[1 << 22];

  CHECK_OP (count, <=, sizeof buf);
  return memset (buf, c, count);
}

static void
check_content (struct qed_image *img, uint64_t offset, size_t count, int c)
{
  static uint8_t buf[1 << 22];

  CHECK_OP (count, <=, sizeof buf);
  CHECK_EQ (qed_pread (img, buf, count, offset), 0);
  for (size_t i = 0; i < count; i++)
    if (buf[i] != c)
      harness_fail (__FILE__, __LINE__, "byte %#" PRIx64 " is %d, not %d",
                    offset + i, buf[i], c);
}

/* ---- what a request costs ---- */

/* The operations since the counters were reset, which this does. */
static void
check_cost (int line, struct mem_file *f, uint64_t pwrites, uint64_t resizes,
            uint64_t syncs, uint64_t others)
{
  CONTEXT ("from line %d", line);
  CHECK_EQ (mem_calls (f, MEM_PWRITE), pwrites);
  CHECK_EQ (mem_calls (f, MEM_RESIZE), resizes);
  CHECK_EQ (mem_calls (f, MEM_SYNC), syncs);
  /* Flushes and extensions query the file's length; writes don't. */
  if (resizes + syncs == 0)
    CHECK_EQ (mem_calls (f, MEM_GET_SIZE), 0);
  CHECK_EQ (mem_calls (f, MEM_ANY) - mem_calls (f, MEM_GET_SIZE),
            pwrites + resizes + syncs + others);
  mem_reset_counters (f);
}
#define CHECK_COST(...) check_cost (__LINE__, __VA_ARGS__)

static void
test_cost_of_writes (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct qed_image *img = new_image (&m, f);

  /* The first: NEED_CHECK and its sync, the file's length, L1 entry, data, L2
   * entry; one slice of each table is read, and all of them checked, for
   * which the L1 table is read twice.
   */
  mem_reset_counters (f);
  CHECK_EQ (qed_pwrite (img, filled (100, 1), 100, 50, 0), 0);
  CHECK_COST (f, 1 + 3, 1, 1, 4);

  CHECK_EQ (qed_pwrite (img, filled (CS, 2), CS, 0, 0), 0); /* in place */
  CHECK_COST (f, 1, 0, 0, 0);
  CHECK_EQ (qed_pwrite (img, filled (1, 3), 1, 2 * CS - 1, 0), 0); /* fresh */
  CHECK_COST (f, 2, 0, 0, 0);

  /* Contiguous clusters: up to the slice's, here the table's, end. */
  CHECK_EQ (qed_pwrite (img, filled (100 * CS, 4), 100 * CS, 10 * CS + 7, 0),
            0);
  CHECK_COST (f, 2, 0, 0, 0);
  CHECK_EQ (qed_pwrite (img, filled (20 * CS, 5), 20 * CS, 502 * CS, 0), 0);
  CHECK_COST (f, 5, 0, 0, 1);
  /* Two fresh runs and one in place between them. */
  CHECK_EQ (qed_pwrite (img, filled (300 * CS, 6), 300 * CS, 5 * CS, 0), 0);
  CHECK_COST (f, 5, 0, 0, 0);

  CHECK_EQ (qed_pwrite (img, filled (1, 7), 1, 0, QED_FUA), 0);
  CHECK_COST (f, 1, 0, 1, 0);
  CHECK_EQ (qed_pwrite (img, filled (1, 7), 1, 0, 0), 0);
  CHECK_EQ (qed_flush (img), 0);
  CHECK_EQ (qed_flush (img), 0); /* nothing was written meanwhile */
  CHECK_COST (f, 1, 0, 1, 0);
  CHECK_EQ (qed_pwrite (img, NULL, 0, DISK, QED_FUA), 0);

  close_clean (img, f, 2 + 2 + 2 + 101 + 20 + 199);
  mem_file_free (f);
}

static void
test_cost_of_zeros (void)
{
  static const struct mem_faults no_punch = { .no_punch = true },
    neither = { .no_punch = true, .no_zero = true };
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct qed_image *img = new_image (&m, f);

  /* Unallocated clusters are zeros. */
  mem_reset_counters (f);
  CHECK_EQ (qed_zero (img, DISK, 0, 0), 0);
  CHECK_EQ (qed_trim (img, DISK, 0, 0), 0);
  CHECK_EQ (mem_calls (f, MEM_ANY), 1); /* L1 */
  CHECK_EQ (features (f), 0);

  CHECK_EQ (qed_pwrite (img, filled (9 * CS, 1), 9 * CS, 0, 0), 0);
  mem_reset_counters (f);
  CHECK_EQ (qed_zero (img, DISK - 1, 1, QED_MAY_TRIM | QED_FAST_ZERO), 0);
  CHECK_EQ (mem_calls (f, MEM_PUNCH), 1);
  CHECK_EQ (mem_bytes (f, MEM_PUNCH), 9 * CS - 1);
  check_content (img, 0, 1, 1);
  check_content (img, 1, 10 * CS, 0);

  CHECK_EQ (qed_pwrite (img, filled (9 * CS, 2), 9 * CS, 0, 0), 0);
  mem_reset_counters (f);
  CHECK_EQ (qed_zero (img, 8 * CS, CS, QED_FAST_ZERO), 0);
  CHECK_COST (f, 0, 0, 0, 1);
  CHECK_EQ (qed_trim (img, CS + 1, 0, QED_FUA), 0);
  CHECK_EQ (mem_calls (f, MEM_PUNCH), 1);
  CHECK_COST (f, 0, 0, 1, 1);
  check_content (img, 0, 10 * CS, 0);

  /* A file without holes: zeros are written, and a trim does nothing. */
  CHECK_EQ (qed_pwrite (img, filled (9 * CS, 3), 9 * CS, 0, 0), 0);
  mem_set_faults (f, &no_punch);
  CHECK_EQ (qed_trim (img, DISK, 0, 0), 0);
  check_content (img, 0, 9 * CS, 3);
  mem_reset_counters (f);
  CHECK_EQ (qed_zero (img, CS, CS, QED_MAY_TRIM), 0);
  CHECK_COST (f, 0, 0, 0, 2);
  mem_set_faults (f, &neither);
  CHECK_FAILS (qed_zero (img, CS, 0, QED_FAST_ZERO), ENOTSUP, "zero of 4096");
  CHECK_FAILS (qed_zero (img, CS, 0, QED_FAST_ZERO | QED_MAY_TRIM), ENOTSUP,
               "zero of 4096");
  check_content (img, 0, CS, 3);
  CHECK_EQ (qed_zero (img, CS, 0, 0), 0);
  CHECK_EQ (qed_zero (img, CS, 5 * CS, QED_MAY_TRIM), 0);
  check_content (img, 0, 2 * CS, 0);
  check_content (img, 2 * CS, 3 * CS, 3);
  check_content (img, 5 * CS, CS, 0);
  mem_set_faults (f, NULL);
  close_clean (img, f, 2 + 1 + 9);
  mem_file_free (f);
}

/* Extents see punched holes, although an earlier extent there was data. */
static int
count_extents (void *opaque, uint64_t offset, uint64_t length, bool zero)
{
  unsigned *n = opaque;

  (void) offset;
  (void) length;
  (void) zero;
  ++*n;
  return 0;
}

static void
test_extents_after_trim (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct qed_image *img = new_image (&m, f);
  unsigned n = 0;

  CHECK_EQ (qed_pwrite (img, filled (9 * CS, 1), 9 * CS, 0, 0), 0);
  CHECK_EQ (qed_extents (img, 0, 9 * CS, count_extents, &n), 0);
  CHECK_EQ (n, 1);
  CHECK_EQ (qed_trim (img, CS, 4 * CS, 0), 0);
  n = 0;
  CHECK_EQ (qed_extents (img, 0, 9 * CS, count_extents, &n), 0);
  CHECK_EQ (n, 3);
  CHECK_EQ (qed_close (img), 0);
  mem_file_free (f);
}

/* ---- space (I2) ---- */

static void
test_space (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct qed_image *img;

  /* Bytes after the last whole cluster are no part of the image, and not to
   * be seen in the fresh cluster that takes their place.
   */
  model_create (&m, f, CS, 1, DISK);
  mem_write (f, filled (1000, 0xee), 1000, 2 * CS);
  img = open_writable (f, &no_thread);
  CHECK_EQ (qed_pwrite (img, filled (1, 1), 1, CS - 1, 0), 0);
  check_content (img, 0, CS - 1, 0);
  CHECK_EQ (model_get_l1 (&m, 0), 2 * CS);
  close_clean (img, f, 4);

  /* If nothing is allocated, the file keeps its length. */
  mem_truncate (f, 4 * CS + 10);
  img = open_writable (f, &no_thread);
  CHECK_EQ (qed_pwrite (img, filled (1, 1), 1, CS - 2, 0), 0);
  CHECK_EQ (qed_close (img), 0);
  CHECK_EQ (mem_size (f), 4 * CS + 10);
  mem_file_free (f);
}

/* A write that fails before it links a cluster gives its space back, however
 * often that happens.
 */
static void
test_space_after_failures (void)
{
  const struct mem_faults full = {
    .op = MEM_PWRITE, .first = 1, .count = UINT64_MAX, .err = ENOSPC
  };
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct qed_image *img = new_image (&m, f);

  CHECK_EQ (qed_pwrite (img, filled (1, 1), 1, 0, 0), 0);
  mem_set_faults (f, &full);
  for (int i = 0; i < 100; i++)
    CHECK_FAILS (qed_pwrite (img, filled (CS, 2), CS, CS, 0), ENOSPC,
                 MEM_NAME, "write of 4096 bytes");
  mem_set_faults (f, NULL);
  CHECK_EQ (qed_pwrite (img, filled (1, 3), 1, CS, 0), 0);
  check_content (img, CS + 1, CS - 1, 0);
  close_clean (img, f, 5);
  mem_file_free (f);
}

/* Clusters that were written in part: a write to N unallocated ones from C on
 * fails after one sector.
 */
static void
fail_half_way (struct qed_image *img, struct mem_file *f, uint64_t c,
               uint64_t n, bool no_holes)
{
  const struct mem_faults none = { .no_punch = no_holes, .no_zero = no_holes };
  struct mem_faults faults = none;

  faults.op = MEM_PWRITE;
  faults.first = 2;
  faults.count = 1;
  faults.err = ENOSPC;
  faults.max_transfer = 512;
  mem_set_faults (f, &faults);
  CHECK_FAILS (qed_pwrite (img, filled (n * CS, 0xee), n * CS, c * CS, 0),
               ENOSPC, MEM_NAME);
  mem_set_faults (f, &none);
}

static void
check_leaks (struct mem_file *f, uint64_t leaks)
{
  struct qed_storage *st = mem_open (f);
  struct qed_check_result result;

  CHECK_EQ (qed_check (st, NULL, &result), 0);
  CHECK_EQ (result.corruptions, 0);
  CHECK_EQ (result.leaks, leaks);
  qed_storage_close (st);
}

/* The clusters become a hole again.  They can be reused once that is durable
 * (I2); the next allocation that needs them syncs the file.
 */
static void
test_space_written_in_part (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct qed_image *img = new_image (&m, f);

  CHECK_EQ (qed_pwrite (img, filled (1, 1), 1, 0, 0), 0); /* at 3 */
  fail_half_way (img, f, 1, 1, false);                    /* 4 */
  mem_reset_counters (f);
  CHECK_EQ (qed_pwrite (img, filled (1, 2), 1, 2 * CS, 0), 0);
  CHECK_COST (f, 2, 0, 1, 0);
  CHECK_EQ (model_get64 (&m, 2 * CS + 2 * 8), 4 * CS);
  check_content (img, 2 * CS + 1, CS - 1, 0);

  /* Neighbours become one. */
  fail_half_way (img, f, 6, 1, false);
  mem_reset_counters (f);
  fail_half_way (img, f, 6, 2, false);
  CHECK_EQ (mem_calls (f, MEM_SYNC), 0);
  CHECK_EQ (qed_flush (img), 0);
  mem_reset_counters (f);
  CHECK_EQ (qed_pwrite (img, filled (3 * CS, 4), 3 * CS, 8 * CS, 0), 0);
  CHECK_COST (f, 2, 0, 0, 0);
  CHECK_EQ (model_get64 (&m, 2 * CS + 8 * 8), 5 * CS);

  /* At the end of the file they are cut off, durable or not. */
  fail_half_way (img, f, 6, 2, false);
  fail_half_way (img, f, 6, 1, true);
  close_clean (img, f, 8);
  check_leaks (f, 0);
  mem_file_free (f);
}

/* If they can't become a hole again, qed_close gives them back, however many
 * there are.
 */
static void
test_space_is_given_back (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct qed_image *img = new_image (&m, f);

  for (unsigned i = 0; i < 2 * 50; i += 2) {
    fail_half_way (img, f, i, 1, true);
    CHECK_EQ (qed_pwrite (img, filled (CS, 5), CS, (i + 1) * CS, 0), 0);
  }
  fail_half_way (img, f, 0, 1, true);
  CHECK_EQ (qed_flush (img), 0);
  for (unsigned i = 0; i < 2 * 50; i += 2)
    check_content (img, i * CS, CS, 0);
  close_clean (img, f, 2 + 1 + 50);
  check_leaks (f, 0);

  img = open_writable (f, &no_thread);
  for (unsigned i = 0; i < 2 * 50; i += 2) {
    check_content (img, i * CS, CS, 0);
    check_content (img, (i + 1) * CS, CS, 5);
  }
  CHECK_EQ (qed_close (img), 0);
  mem_file_free (f);
}

/* If that fails too, the image stays marked and nothing is lost. */
static void
test_space_is_not_given_back (void)
{
  const struct mem_faults faults = {
    .op = MEM_PREAD, .first = 3, .count = UINT64_MAX, .err = EIO,
  };
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct qed_image *img = new_image (&m, f);

  CHECK_EQ (qed_pwrite (img, filled (1, 1), 1, 0, 0), 0);
  fail_half_way (img, f, 1, 1, true);
  CHECK_EQ (qed_pwrite (img, filled (CS, 2), CS, 2 * CS, 0), 0);
  mem_set_faults (f, &faults);
  CHECK_EQ (qed_close (img), 0);
  mem_set_faults (f, NULL);
  CHECK_EQ (features (f), QED_F_NEED_CHECK);
  check_leaks (f, 1);

  img = open_writable (f, &no_thread);
  check_content (img, 0, 1, 1);
  check_content (img, CS, CS, 0);
  check_content (img, 2 * CS, CS, 2);
  close_clean (img, f, 6);
  mem_file_free (f);
}

static ssize_t
limit_size (void *opaque, enum mem_op op, uint64_t offset, size_t count)
{
  const uint64_t *limit = opaque;

  if (op == MEM_RESIZE && offset > *limit) {
    errno = EFBIG;
    return -1;
  }
  return (ssize_t) count;
}

/* Large steps aren't needed, and a device that is full can't take any. */
static void
test_space_is_limited (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct qed_image *img = new_image (&m, f);
  struct qed_storage *st;
  uint64_t limit = 5 * CS;

  mem_set_hook (f, limit_size, &limit);
  CHECK_EQ (qed_pwrite (img, filled (2 * CS, 1), 2 * CS, 0, 0), 0);
  CHECK_FAILS (qed_pwrite (img, filled (CS, 1), CS, 2 * CS, 0), EFBIG,
               "change of length");
  CHECK_EQ (qed_pwrite (img, filled (CS, 2), CS, 0, 0), 0);
  mem_set_hook (f, NULL, NULL);
  close_clean (img, f, 5);

  st = mem_open (f);
  st->fixed_size = true;
  img = qed_open (st, QED_MIN_CACHE_SIZE);
  CHECK (img != NULL);
  CHECK_EQ (qed_make_writable (img, &no_thread), 0);
  CHECK_EQ (qed_pwrite (img, filled (CS, 3), CS, CS, 0), 0);
  CHECK_FAILS (qed_pwrite (img, filled (CS, 1), CS, 2 * CS, 0), ENOSPC,
               "device or export");
  mem_reset_counters (f);
  CHECK_FAILS (qed_pwrite (img, filled (CS, 1), CS, 2 * CS, 0), ENOSPC,
               "device or export");
  CHECK_EQ (mem_calls (f, MEM_PREAD) + mem_calls (f, MEM_NEXT_EXTENT), 0);
  close_clean (img, f, 5);
  mem_file_free (f);
}

/* If the filesystem is known to be full, a write that needs new clusters
 * changes none of the allocated ones either.
 */
static void
check_nothing_changed (struct qed_image *img, struct mem_file *f,
                       uint64_t offset, size_t count, int err)
{
  uint64_t hash = mem_hash (f);

  mem_reset_counters (f);
  CHECK_FAILS (qed_pwrite (img, filled (count, 9), count, offset, QED_FUA),
               err, "no more clusters");
  CHECK_EQ (mem_calls (f, MEM_PWRITE), 0);
  CHECK_EQ (mem_hash (f), hash);
}

static void
test_no_room_is_known (void)
{
  const uint64_t last = (UINT64_MAX / 2 + 1) - CS; /* no cluster ends beyond */
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct qed_image *img = new_image (&m, f);
  struct qed_storage *st;

  CHECK_EQ (qed_pwrite (img, filled (2 * CS, 1), 2 * CS, CS, 0), 0);
  close_clean (img, f, 5);

  st = mem_open (f);
  st->fixed_size = true;
  img = qed_open (st, QED_MIN_CACHE_SIZE);
  CHECK (img != NULL);
  CHECK_EQ (qed_make_writable (img, &no_thread), 0);
  check_nothing_changed (img, f, 0, CS + 1, ENOSPC);
  check_nothing_changed (img, f, 2 * CS + 1, CS, ENOSPC);
  CHECK_EQ (qed_pwrite (img, filled (2 * CS, 2), 2 * CS, CS, 0), 0);
  CHECK_EQ (qed_zero (img, DISK, 0, QED_FAST_ZERO), 0);
  close_clean (img, f, 5);

  /* Room for three clusters more, and for two after the first of them. */
  mem_truncate (f, last - 3 * CS);
  img = open_writable (f, &no_thread);
  CHECK_EQ (qed_pwrite (img, filled (CS, 3), CS, 3 * CS, 0), 0);
  check_nothing_changed (img, f, CS, 6 * CS, EFBIG);
  check_nothing_changed (img, f, 511 * CS, 2 * CS, EFBIG); /* and a table */
  CHECK_EQ (qed_pwrite (img, filled (4 * CS, 4), 4 * CS, 2 * CS, 0), 0);
  check_nothing_changed (img, f, 2 * CS, 5 * CS, EFBIG);
  check_content (img, 2 * CS, 4 * CS, 4);
  CHECK_EQ (qed_close (img), 0);
  mem_file_free (f);
}

/* Another process cuts the file while it is open.  The next extension, flush
 * or qed_close notices that.  Then nothing more is written, and the file isn't
 * extended again.
 */
static struct qed_image *
open_cut (struct mem_file *f, bool fresh, bool fixed_size, uint64_t size)
{
  struct qed_storage *st;
  struct qed_image *img;
  struct model m;

  img = new_image (&m, f);
  CHECK_EQ (qed_pwrite (img, filled (5 * CS, 1), 5 * CS, 0, 0), 0);
  CHECK_EQ (qed_close (img), 0);
  st = mem_open (f);
  st->fixed_size = fixed_size;
  img = qed_open (st, QED_MIN_CACHE_SIZE);
  CHECK (img != NULL);
  CHECK_EQ (qed_make_writable (img, &no_thread), 0);
  if (fresh)
    CHECK_EQ (qed_pwrite (img, filled (CS, 2), CS, 10 * CS, 0), 0);
  CHECK_EQ (qed_flush (img), 0);
  mem_truncate (f, size);
  CHECK_EQ (qed_pwrite (img, filled (1, 3), 1, 0, 0), 0);
  return img;
}

static void
test_cut_by_others (void)
{
  static const char *const message = "cut short while in use: it has 20480 "
    "bytes, and should have";
  struct mem_file *f = mem_file_new ();
  struct qed_image *img;

  for (int i = 0; i < 6; i++) {
    CONTEXT ("%d", i);
    img = open_cut (f, i < 3, i == 5, 5 * CS);
    switch (i) {
    case 0: case 3: case 5:
      CHECK_FAILS (qed_flush (img), EIO, MEM_NAME, message);
      break;
    case 1:
      CHECK_FAILS (qed_pwrite (img, filled (1, 1), 1, 0, QED_FUA), EIO,
                   MEM_NAME, message);
      break;
    case 4: /* extends the file */
      CHECK_FAILS (qed_pwrite (img, filled (1, 1), 1, 11 * CS, 0), EIO,
                   MEM_NAME, message);
      break;
    case 2:
      CHECK_FAILS (qed_close (img), EIO, MEM_NAME, message);
      img = NULL;
    }
    if (img) {
      CHECK_FAILS (qed_pwrite (img, filled (1, 1), 1, 0, 0), EIO, message);
      CHECK_FAILS (qed_flush (img), EIO, message);
      CHECK_FAILS (qed_close (img), EIO, message);
    }
    CHECK_EQ (mem_size (f), 5 * CS);
    CHECK_EQ (features (f), i < 3 || i == 4 ? QED_F_NEED_CHECK : 0);
  }

  /* Only in-place writes, and no flush. */
  img = open_cut (f, false, false, 5 * CS);
  CHECK_FAILS (qed_close (img), EIO, MEM_NAME, message, "have 32768: ");
  CHECK_EQ (mem_size (f), 5 * CS);
  mem_file_free (f);
}

/* ---- NEED_CHECK (I6) ---- */

/* NEED_CHECK is set and synced before the first write outside the header. */
struct order {
  struct mem_file *f;
  bool header_written, synced;
};

static ssize_t
check_order (void *opaque, enum mem_op op, uint64_t offset, size_t count)
{
  struct order *o = opaque;

  if (op == MEM_PWRITE && offset == 0)
    o->header_written = true;
  else if (op == MEM_SYNC && o->header_written) {
    CHECK_EQ (features (o->f), QED_F_NEED_CHECK);
    o->synced = true;
  }
  else if (op == MEM_PWRITE || op == MEM_RESIZE)
    CHECK (o->synced);
  return (ssize_t) count;
}

static void
test_need_check_comes_first (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct qed_image *img = new_image (&m, f);
  struct order o = { .f = f };

  CHECK_EQ (features (f), 0);
  mem_set_hook (f, check_order, &o);
  CHECK_EQ (qed_pwrite (img, filled (CS, 1), CS, 0, 0), 0);
  CHECK (o.synced);
  mem_set_hook (f, NULL, NULL);
  CHECK_EQ (features (f), QED_F_NEED_CHECK);
  close_clean (img, f, 4);

  /* In-place writes don't set it. */
  img = open_writable (f, &no_thread);
  CHECK_EQ (qed_pwrite (img, filled (10, 2), 10, 9, 0), 0);
  CHECK_EQ (qed_zero (img, 10, 30, QED_MAY_TRIM), 0);
  CHECK_EQ (features (f), 0);
  close_clean (img, f, 4);
  mem_file_free (f);
}

/* The background thread marks the image as clean, cuts the file, and does both
 * again.
 */
static void
test_need_check_idle (void)
{
  const struct qed_write_options opts = { .idle_ms = 20 };
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct qed_image *img;

  model_create (&m, f, CS, 1, DISK);
  img = open_writable (f, &opts);
  for (uint64_t i = 0; i < 3; i++) {
    CHECK_EQ (qed_pwrite (img, filled (CS, 1), CS, i * CS, 0), 0);
    while (features (f) != 0)
      usleep (1000);
    CHECK_EQ (mem_size (f), (4 + i) * CS);
  }
  close_clean (img, f, 6);
  mem_file_free (f);
}

/* While *OPAQUE is set one write of data is done in part, and then fails. */
static ssize_t
fail_data_half_way (void *opaque, enum mem_op op, uint64_t offset,
                    size_t count)
{
  atomic_int *armed = opaque;
  int expected = 1;

  if (op != MEM_PWRITE || offset < 3 * CS) /* header and tables */
    return (ssize_t) count;
  if (atomic_compare_exchange_strong (armed, &expected, 2))
    return 512;
  if (expected == 2) {
    atomic_store (armed, 0);
    errno = ENOSPC;
    return -1;
  }
  return (ssize_t) count;
}

/* While only qed_close can give some space back, the file is cut but
 * NEED_CHECK isn't cleared.
 */
static void
test_need_check_stays (void)
{
  const struct qed_write_options opts = { .idle_ms = 5 };
  const struct mem_faults no_holes = { .no_punch = true, .no_zero = true };
  struct mem_file *f = mem_file_new ();
  atomic_int armed;
  struct model m;
  struct qed_image *img;

  model_create (&m, f, CS, 1, DISK);
  img = open_writable (f, &no_thread);
  CHECK_EQ (qed_pwrite (img, filled (1, 1), 1, 0, 0), 0);
  CHECK_EQ (qed_close (img), 0);
  atomic_init (&armed, 0);
  mem_set_faults (f, &no_holes);
  mem_set_hook (f, fail_data_half_way, &armed);
  img = open_writable (f, &opts);
  for (uint64_t i = 1; i < 4; i++) {
    uint64_t end = mem_size (f);

    atomic_store (&armed, 1);
    CHECK_FAILS (qed_pwrite (img, filled (CS, 0xee), CS, (10 + i) * CS, 0),
                 ENOSPC, MEM_NAME);
    CHECK_EQ (qed_pwrite (img, filled (CS, 1), CS, i * CS, 0), 0);
    while (mem_size (f) > 20 * CS)
      usleep (1000);
    usleep (20000);
    /* If the thread wasn't so fast as to cut the file between the two. */
    if (mem_size (f) == end + 2 * CS)
      CHECK_EQ (features (f), QED_F_NEED_CHECK);
  }
  close_clean (img, f, 4 + 3);
  mem_set_hook (f, NULL, NULL);
  check_leaks (f, 0);
  mem_file_free (f);
}

static void
test_autoclear (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct qed_image *img;

  model_create (&m, f, CS, 1, DISK);
  m.h.autoclear_features = 0x8001;
  m.h.compat_features = 0x77;
  model_write_header (&m);
  mem_write (f, filled (100, 0xaa), 100, QED_HEADER_BYTES);

  img = qed_open (mem_open (f), QED_MIN_CACHE_SIZE);
  CHECK (img != NULL);
  CHECK (model_open (&m, f));
  CHECK_EQ (m.h.autoclear_features, 0x8001);
  mem_reset_counters (f);
  CHECK_EQ (qed_make_writable (img, &no_thread), 0);
  CHECK_EQ (mem_calls (f, MEM_SYNC), 1);
  CHECK (model_open (&m, f));
  CHECK_EQ (m.h.autoclear_features, 0);
  CHECK_EQ (qed_pwrite (img, filled (CS, 1), CS, 0, 0), 0);
  close_clean (img, f, 4);

  /* The library doesn't write to the rest of the header clusters. */
  CHECK (model_open (&m, f));
  CHECK_EQ (m.h.compat_features, 0x77);
  for (uint64_t i = QED_HEADER_BYTES; i < QED_HEADER_BYTES + 96; i += 8)
    CHECK_EQ (model_get64 (&m, i), UINT64_C (0xaaaaaaaaaaaaaaaa));
  mem_file_free (f);
}

/* ---- refusals ---- */

static void
test_not_writable (void)
{
  static const struct { int err, r; } makes[] = {
    { EACCES, 1 }, { EPERM, 1 }, { EROFS, 1 }, { EBUSY, -1 }, { EIO, -1 },
  };
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct qed_image *img;

  model_create (&m, f, CS, 1, DISK);
  img = qed_open (mem_open (f), QED_MIN_CACHE_SIZE);
  CHECK (img != NULL);
  for (size_t i = 0; i < sizeof makes / sizeof makes[0]; i++) {
    const struct mem_faults faults = {
      .op = MEM_MAKE_WRITABLE, .first = 1, .count = 1, .err = makes[i].err
    };

    mem_set_faults (f, &faults);
    CHECK_EQ (qed_make_writable (img, &no_thread), makes[i].r);
    CHECK_EQ (errno, makes[i].err);
    CHECK_FAILS (qed_pwrite (img, "", 1, 0, 0), EROFS, "not open for writing");
    CHECK_FAILS (qed_zero (img, 1, 0, 0), EROFS, "not open for writing");
    CHECK_FAILS (qed_trim (img, 1, 0, 0), EROFS, "not open for writing");
    CHECK_FAILS (qed_flush (img), EROFS, "not open for writing");
  }
  mem_set_faults (f, NULL);
  CHECK_EQ (mem_calls (f, MEM_PWRITE), 0);
  CHECK_EQ (qed_make_writable (img, &no_thread), 0);
  CHECK_EQ (qed_make_writable (img, &no_thread), 0);

  CHECK_FAILS (qed_pwrite (img, "", 1, DISK, 0), EINVAL, "inside the disk");
  CHECK_FAILS (qed_zero (img, 2, DISK - 1, 0), EINVAL, "inside the disk");
  CHECK_FAILS (qed_trim (img, UINT64_MAX, 2, 0), EINVAL, "inside the disk");
  CHECK_EQ (qed_close (img), 0);
  mem_file_free (f);
}

static void
test_header_changed (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct qed_image *img;

  model_create (&m, f, CS, 1, DISK);
  img = qed_open (mem_open (f), QED_MIN_CACHE_SIZE);
  CHECK (img != NULL);
  m.h.image_size = DISK / 2;
  model_write_header (&m);
  CHECK_FAILS (qed_make_writable (img, &no_thread), EBUSY, "changed");
  CHECK_EQ (qed_close (img), 0);
  mem_file_free (f);
}

/* I5: a failed sync is sticky, though the storage works again. */
static void
test_sync_fails (void)
{
  const struct mem_faults faults = {
    .op = MEM_SYNC, .first = 1, .count = 1, .err = EIO
  };
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct qed_image *img = new_image (&m, f);

  CHECK_EQ (qed_pwrite (img, filled (CS, 1), CS, 0, 0), 0);
  mem_set_faults (f, &faults);
  CHECK_FAILS (qed_flush (img), EIO, MEM_NAME ": sync");
  mem_set_faults (f, NULL);
  mem_reset_counters (f);
  CHECK_FAILS (qed_flush (img), EIO, "nothing more is written", "sync");
  CHECK_FAILS (qed_pwrite (img, "", 1, 0, 0), EIO, "nothing more is written");
  CHECK_FAILS (qed_zero (img, 1, 0, 0), EIO, "nothing more is written");
  CHECK_FAILS (qed_trim (img, 1, 0, 0), EIO, "nothing more is written");
  CHECK_FAILS (qed_make_writable (img, &no_thread) + qed_flush (img), EIO,
               "nothing more is written");
  check_content (img, 0, CS, 1);
  CHECK_FAILS (qed_close (img), EIO, "nothing more is written");
  CHECK_EQ (mem_calls (f, MEM_PWRITE), 0);
  CHECK_EQ (features (f), QED_F_NEED_CHECK);
  mem_file_free (f);
}

/* I4: lookups don't see an entry that couldn't be written.  If it was written
 * in part, the old entry is written back; if that fails too, nothing more is
 * written.
 */
struct torn {
  bool tear;                    /* write a half of the next entry */
  unsigned fail;                /* then let so many writes fail */
};

static ssize_t
tear_entry (void *opaque, enum mem_op op, uint64_t offset, size_t count)
{
  struct torn *torn = opaque;

  (void) offset;
  if (op != MEM_PWRITE)
    return (ssize_t) count;
  if (torn->tear && count == 8) {
    torn->tear = false;
    return 4;
  }
  if (!torn->tear && torn->fail > 0) {
    torn->fail--;
    errno = EIO;
    return -1;
  }
  return (ssize_t) count;
}

static void
test_link_fails (void)
{
  const struct mem_faults faults = {
    .op = MEM_PWRITE, .first = 2, .count = 1, .err = EIO
  };
  struct mem_file *f = mem_file_new ();
  struct torn torn;
  struct model m;
  struct qed_image *img = new_image (&m, f);

  CHECK_EQ (qed_pwrite (img, filled (CS, 1), CS, 0, 0), 0);
  mem_set_faults (f, &faults);
  CHECK_FAILS (qed_pwrite (img, filled (CS, 2), CS, CS, 0), EIO, "write of 8");
  mem_set_faults (f, NULL);
  check_content (img, CS, CS, 0);

  mem_set_hook (f, tear_entry, &torn);
  torn = (struct torn) { .tear = true, .fail = 1 };
  CHECK_FAILS (qed_pwrite (img, filled (CS, 2), CS, CS, 0), EIO, "write of 4");
  check_content (img, CS, CS, 0);
  CHECK_EQ (model_get64 (&m, 2 * CS + 8), 0);
  CHECK_EQ (qed_pwrite (img, filled (CS, 3), CS, CS, 0), 0);

  torn = (struct torn) { .tear = true, .fail = 2 };
  CHECK_FAILS (qed_pwrite (img, filled (CS, 2), CS, 3 * CS, 0), EIO,
               "write of 8");
  mem_set_hook (f, NULL, NULL);
  check_content (img, 3 * CS, CS, 0);
  CHECK_FAILS (qed_pwrite (img, "", 1, 0, 0), EIO, "nothing more is written");
  CHECK_FAILS (qed_close (img), EIO, "nothing more is written");
  mem_file_free (f);
}

/* A full filesystem has no block for a hole, neither for data nor for entries
 * in a fresh table.  Nothing is lost, nothing leaks however often the write is
 * tried, and writes succeed again when there is space.
 */
struct full {
  struct mem_file *f;
  unsigned blocks;              /* so many more holes may be filled */
};

static ssize_t
fill_holes (void *opaque, enum mem_op op, uint64_t offset, size_t count)
{
  struct full *full = opaque;
  bool hole;

  if (op != MEM_PWRITE)
    return (ssize_t) count;
  mem_next_extent (full->f, offset, &hole);
  if (!hole)
    return (ssize_t) count;
  if (full->blocks == 0) {
    errno = ENOSPC;
    return -1;
  }
  full->blocks--;
  return (ssize_t) count;
}

static void
test_full (void)
{
  struct mem_file *f = mem_file_new ();
  struct full full = { .f = f };
  struct model m;
  struct qed_image *img = new_image (&m, f);

  CHECK_EQ (qed_pwrite (img, filled (1, 1), 1, 0, 0), 0);
  mem_set_hook (f, fill_holes, &full);
  for (unsigned i = 0; i < 300; i++) {
    /* The L1 entry has its block; next is one for data, if anything. */
    full.blocks = i == 100;
    CHECK_FAILS (qed_pwrite (img, filled (512, 2), 512, 600 * CS, 0), ENOSPC,
                 MEM_NAME);
    check_content (img, 600 * CS, CS, 0);
  }
  CHECK_EQ (qed_pwrite (img, filled (1, 3), 1, 0, 0), 0);
  CHECK_EQ (qed_flush (img), 0);
  mem_set_hook (f, NULL, NULL);
  CHECK_EQ (qed_pwrite (img, filled (CS, 4), CS, 600 * CS, 0), 0);
  /* Two tables and two clusters. */
  close_clean (img, f, 2 + 2 + 2);
  mem_file_free (f);
}

/* ---- unsound entries (I9) ---- */

static void
test_unsound (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct qed_image *img;

  /* Entries past the end stay that when the file grows over them, and beside
   * them nothing is allocated; other tables are not concerned.
   */
  model_create (&m, f, CS, 1, DISK);
  model_set (&m, 3, 8 * CS);
  model_data (&m, 4);
  model_set_l1 (&m, 3, 9 * CS);
  img = open_writable (f, &no_thread);
  mem_reset_counters (f);
  CHECK_FAILS (qed_pwrite (img, "", 1, 3 * CS, 0), EIO, "L2 entry 0x8000",
               "past the end");
  CHECK_FAILS (qed_pwrite (img, "", 1, 0, 0), EIO, "L2 entry 0x8000",
               "past the end", "qed-img check -r all");
  CHECK_FAILS (qed_zero (img, 1, 3 * CS, 0), EIO, "L2 entry 0x8000");
  CHECK_FAILS (qed_trim (img, 1, 3 * CS, 0), EIO, "L2 entry 0x8000");
  CHECK_FAILS (qed_pwrite (img, "", 1, 3 * 512 * CS, 0), EIO,
               "L1 entry 0x9000");
  CHECK_FAILS (qed_pwrite (img, "", 1, 600 * CS, 0), EIO, "L1 entry 0x9000",
               "qed-img check -r all");
  CHECK_EQ (mem_calls (f, MEM_PWRITE), 0);
  CHECK_EQ (mem_calls (f, MEM_RESIZE), 0);
  CHECK_EQ (qed_pwrite (img, filled (1, 1), 1, 4 * CS, 0), 0);
  CHECK_EQ (qed_close (img), 0);

  model_set_l1 (&m, 3, 0);
  img = open_writable (f, &no_thread);
  CHECK_EQ (qed_pwrite (img, filled (90 * CS, 1), 90 * CS, 600 * CS, 0), 0);
  CHECK_OP (mem_size (f), >, 20 * CS);
  CHECK_FAILS (qed_pread (img, filled (1, 0), 1, 3 * CS), EIO, "past the end");
  CHECK_FAILS (qed_pwrite (img, "", 1, 3 * CS, 0), EIO, "past the end");
  check_content (img, 600 * CS, 90 * CS, 1);
  CHECK_EQ (qed_close (img), 0);

  /* I6: an image that is known to be corrupt isn't marked as clean. */
  CHECK_EQ (features (f), QED_F_NEED_CHECK);
  mem_file_free (f);
}

/* I9, from one session to the next: space past the end of the file to which an
 * entry points is never allocated to another entry.
 */
static void
test_past_the_end (void)
{
  const uint64_t far = UINT64_C (200) << 30; /* a multiple of 64 MiB */
  struct mem_file *f = mem_file_new ();
  struct qed_image *img;
  struct model m;

  model_create (&m, f, CS, 1, DISK);
  model_data (&m, 0);
  model_set (&m, 100, 5 * CS);                  /* the file ends at 4 */
  model_set (&m, 101, 9 * CS);
  img = open_writable (f, &no_thread);
  CHECK_EQ (qed_pwrite (img, filled (30 * CS, 1), 30 * CS, 600 * CS, 0), 0);
  CHECK_FAILS (qed_pread (img, filled (1, 0), 1, 100 * CS), EIO, "past the");
  CHECK_FAILS (qed_pread (img, filled (1, 0), 1, 101 * CS), EIO, "past the");
  check_content (img, 600 * CS, 30 * CS, 1);
  CHECK_EQ (qed_close (img), 0);
  CHECK_EQ (features (f), QED_F_NEED_CHECK);
  CHECK_EQ (model_get_l1 (&m, 1), 10 * CS);
  img = open_writable (f, &no_thread);
  check_content (img, 100 * CS, 2 * CS, 0);
  close_clean (img, f, 41);

  /* Too far to skip: the file may not grow up to there. */
  model_create (&m, f, QED_MAX_CLUSTER_SIZE, 16, UINT64_C (1) << 62);
  model_set (&m, 100, far);
  img = open_writable (f, &no_thread);
  for (uint64_t i = 1; i < 200; i++)
    if (qed_pwrite (img, filled (1, 1), 1, i << 53, 0) == -1)
      break;
  CHECK_FAILS (qed_pwrite (img, "", 1, UINT64_C (1) << 61, 0), EFBIG,
               "corrupt entry", "qed-img check -r all");
  CHECK_OP (mem_size (f), <=, far);
  CHECK_OP (mem_size (f), >, far - (UINT64_C (2) << 30));
  CHECK_FAILS (qed_pread (img, filled (1, 0), 1,
                          100 * (uint64_t) QED_MAX_CLUSTER_SIZE), EIO,
               "past the");
  CHECK_EQ (qed_close (img), 0);
  mem_file_free (f);
}

/* ---- the check at open ---- */

static void
create_dirty (struct model *m, struct mem_file *f)
{
  model_create (m, f, CS, 1, DISK);
  m->h.features = QED_F_NEED_CHECK;
  model_write_header (m);
  model_data (m, 0);
  model_data (m, 5);
}

static void
test_check_repairs (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct qed_image *img;
  uint8_t data[CS], got[CS];

  create_dirty (&m, f);
  model_set (&m, 1, 12345);                     /* unaligned */
  model_set (&m, 2, 999 * CS);                  /* past the end */
  model_set (&m, 3, 0x1000);                    /* L1 */
  model_set (&m, 4, model_get_l1 (&m, 0));      /* its own table */
  model_data (&m, 600);
  model_set (&m, 6, model_get_l1 (&m, 1));      /* another table */
  model_set (&m, 7, 1);
  model_set_l1 (&m, 4, 5);
  mem_read (f, data, CS, 4 * CS);
  model_append (&m, 7);                         /* leaked */
  img = open_writable (f, &no_thread);

  CHECK_EQ (mem_size (f), 7 * CS);
  CHECK_EQ (features (f), QED_F_NEED_CHECK);
  for (uint64_t i = 1; i < 7; i++)
    if (i != 5) {
      uint64_t entry;

      CONTEXT ("cluster %" PRIu64, i);
      CHECK_EQ (model_lookup (&m, i, &entry), QED_RUN_UNALLOCATED);
      check_content (img, i * CS, CS, 0);
    }
  CHECK_EQ (model_get_l1 (&m, 4), 0);
  CHECK_EQ (qed_pread (img, got, CS, 5 * CS), 0);
  CHECK (memcmp (data, got, CS) == 0);
  CHECK_EQ (qed_pwrite (img, filled (CS, 1), CS, CS, 0), 0);
  close_clean (img, f, 8);
  mem_file_free (f);
}

static void
test_check_refuses (void)
{
  const struct qed_write_options never = { .no_check = true };
  struct mem_file *f = mem_file_new ();
  struct qed_image *img;
  struct model m;

  for (int i = 0; i < 3; i++) {
    uint64_t hash;

    CONTEXT ("case %d", i);
    create_dirty (&m, f);
    m.h.autoclear_features = 1;
    model_write_header (&m);
    model_set (&m, 9, 77);
    if (i == 0)
      model_set (&m, 8, 3 * CS);
    else if (i == 1)
      model_set_l1 (&m, 2, model_get_l1 (&m, 0));
    hash = mem_hash (f);
    img = qed_open (mem_open (f), QED_MIN_CACHE_SIZE);
    CHECK (img != NULL);
    if (i < 2)
      CHECK_FAILS (qed_make_writable (img, &no_thread), EIO,
                   "referenced twice", "qed-img check -r all");
    else
      CHECK_FAILS (qed_make_writable (img, &never), EIO, "NEED_CHECK",
                   "check=never");
    CHECK_EQ (mem_hash (f), hash);
    CHECK_EQ (qed_pread (img, filled (CS, 0), CS, 0), 0);
    CHECK_EQ (qed_close (img), 0);
    CHECK_EQ (mem_hash (f), hash);
  }
  mem_file_free (f);
}

/* Clusters far apart, more than one window of the bitmaps holds: the same is
 * found, and memory stays bounded.
 */
static void
test_check_far_apart (void)
{
  const uint64_t far = UINT64_C (1) << 41;
  struct mem_file *f = mem_file_new ();
  struct qed_image *img;
  struct model m;

  create_dirty (&m, f);
  mem_truncate (f, 5 * far);
  model_set (&m, 1, far);
  model_set (&m, 2, 3 * far);
  model_set_l1 (&m, 1, 2 * far);
  model_set (&m, 600, 2 * far);                 /* its own table */
  model_set (&m, 8, 2 * far);                   /* another one */
  model_set (&m, 9, 5 * far);                   /* past the end */
  img = open_writable (f, &no_thread);
  CHECK_EQ (mem_size (f), 3 * far + CS);
  CHECK_EQ (model_get64 (&m, 2 * CS + 8 * 8), 0);
  CHECK_EQ (model_get64 (&m, 2 * CS + 9 * 8), 0);
  CHECK_EQ (model_get64 (&m, 2 * far + (600 - 512) * 8), 0);
  close_clean (img, f, 3 * far / CS + 1);

  m.h.features = QED_F_NEED_CHECK;
  model_write_header (&m);
  model_set (&m, 3, 3 * far);
  img = qed_open (mem_open (f), QED_MIN_CACHE_SIZE);
  CHECK (img != NULL);
  alloc_reset_peak ();
  CHECK_FAILS (qed_make_writable (img, &no_thread), EIO, "referenced twice");
  CHECK_OP (alloc_peak () - alloc_bytes (), <, 65 << 20);
  CHECK_EQ (qed_close (img), 0);

  mem_file_free (f);
}

/* Each allocation of memory fails in turn. */
static void
test_no_memory (void)
{
  const struct qed_write_options opts = { .idle_ms = 1000 };
  struct mem_file *f = mem_file_new ();
  struct model m;
  int r = -1;

  for (unsigned k = 1; r == -1; k++) {
    struct qed_image *img;
    int64_t before;

    create_dirty (&m, f);
    img = qed_open (mem_open (f), QED_MIN_CACHE_SIZE);
    CHECK (img != NULL);
    before = alloc_bytes ();
    alloc_fail (k);
    r = qed_make_writable (img, &opts);
    alloc_fail (0);
    CONTEXT ("k %u", k);
    if (r == -1) {
      CHECK_EQ (errno, ENOMEM);
      CHECK_EQ (alloc_bytes (), before);
      CHECK_FAILS (qed_flush (img), EROFS, MEM_NAME);
    }
    else
      CHECK_OP (k, >, 3);
    CHECK_EQ (qed_close (img), 0);
  }
  mem_file_free (f);
}

HARNESS_MAIN (
  TEST (test_cost_of_writes),
  TEST (test_cost_of_zeros),
  TEST (test_extents_after_trim),
  TEST (test_space),
  TEST (test_space_after_failures),
  TEST (test_space_written_in_part),
  TEST (test_space_is_given_back),
  TEST (test_space_is_not_given_back),
  TEST (test_space_is_limited),
  TEST (test_no_room_is_known),
  TEST (test_cut_by_others),
  TEST (test_need_check_comes_first),
  TEST (test_need_check_idle),
  TEST (test_need_check_stays),
  TEST (test_autoclear),
  TEST (test_not_writable),
  TEST (test_header_changed),
  TEST (test_sync_fails),
  TEST (test_link_fails),
  TEST (test_full),
  TEST (test_unsound),
  TEST (test_past_the_end),
  TEST (test_check_repairs),
  TEST (test_check_refuses),
  TEST (test_check_far_apart),
  TEST (test_no_memory),
)
