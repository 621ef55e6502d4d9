/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* No fault of the storage corrupts an image or makes a failed request look
 * like a success.  In a session of writes, zeros, trims and flushes the k-th
 * storage operation fails, for k = 1, 2, ... until no operation is left to
 * fail: once, twice or from then on, with several errors, alone and together
 * with short transfers, EINTR, and no support for punching and zeroing.
 *
 * After each operation of the guest:
 *
 *   - If it succeeded the disk has the new content (no false success).
 *   - If it failed, the errno is that of the fault, and each sector of its
 *     range is old or new, the others as they were (I4).
 *   - Unless the image failed for good, it reads the same when it is opened a
 *     second time: memory and the file agree (I4).  In an overlay they agree
 *     on the content that was flushed.
 *   - Once a sync failed the image has failed for good: every request that
 *     changes the disk fails (I5).  The same goes for a commit that couldn't
 *     write entries, and possibly for a failed write that couldn't be undone;
 *     but not for any other single fault, nor for faults of the backing file
 *     (backing-files.h).
 *
 * After closing, the image can be opened for writing, has the same content,
 * and closes clean.  In an overlay that failed, content that wasn't flushed
 * may be older.  Failed requests leak nothing, unless the image or its close
 * failed and left it marked NEED_CHECK.
 */

#include <config.h>

#include <pthread.h>

#include "backing-files.h"
#include "model.h"
#include "recorder.h"

/* The smallest geometry; writes are around the border of two L2 tables. */
#define CLUSTER UINT64_C (4096)
#define BORDER UINT64_C (512)
#define FIRST (BORDER - 4)
#define WINDOW (FIRST * CLUSTER)
#define WINDOW_BYTES (10 * CLUSTER)
#define DEVICE_CLUSTERS UINT64_C (40)
#define SHORT_SIZE (WINDOW + 6 * CLUSTER + 700)

enum kind { WRITE, ZERO, TRIM, FLUSH };

static const struct step {
  enum kind kind;
  uint64_t offset, length;      /* in the window */
  unsigned flags;
} steps[] = {
  { WRITE, 4 * CLUSTER + 300, 1500, 0 },                /* new table */
  { WRITE, 4 * CLUSTER + 1000, 2000, 0 },               /* in place */
  { WRITE, 5 * CLUSTER, CLUSTER, 0 },                   /* new cluster */
  { WRITE, 1, 100, 0 },                                 /* in place */
  { FLUSH, 0, 0, 0 },
  { WRITE, 2 * CLUSTER + 3000, 3 * CLUSTER, 0 },        /* both tables */
  { ZERO, 4 * CLUSTER, 2 * CLUSTER, QED_MAY_TRIM },
  { ZERO, 700, 5000, 0 },
  { TRIM, 5 * CLUSTER, CLUSTER, 0 },
  { WRITE, 6 * CLUSTER + 512, 3 * CLUSTER, QED_FUA },   /* new clusters */
  { TRIM, 3 * CLUSTER + 10, 2 * CLUSTER, QED_FUA },
  { ZERO, 8 * CLUSTER, 2 * CLUSTER, QED_FUA },
  { WRITE, 0, 10 * CLUSTER, 0 },                        /* everything */
  { FLUSH, 0, 0, 0 },
  { WRITE, 5 * CLUSTER + 5, 5, 0 },
};
#define STEPS (sizeof steps / sizeof steps[0])

/* Which storage operations are to fail: COUNT of this kind, from number FIRST
 * on.
 */
struct fault {
  bool device;                  /* the image is in one: mem_make_device */
  enum backing_kind backing;
  bool is_backing;              /* in the lowest file there */
  enum mem_op op;               /* or MEM_ANY */
  uint64_t first, count;        /* FIRST 0: none */
  int err;
  struct mem_faults others;
  size_t max_small;             /* as max_transfer, for small writes only,
                                   such as those of table entries; or 0 */
  unsigned eintr_every;         /* > 1: every n-th call gets EINTR */
  bool off;
  uint64_t calls, failed, eintr_calls;
  bool sync_failed, write_failed;
};

struct run {
  struct mem_file *f;
  struct backing backing;
  struct fault fault;
  struct qed_image *img;
  bool failed;                  /* for good */
  uint8_t now[WINDOW_BYTES];

  /* What the disk may read instead after reopening, if FAILED: before and
   * after each step that failed; in an overlay, before each one since the last
   * flush.
   */
  uint8_t others[2 * STEPS][WINDOW_BYTES];
  size_t n_others;
};

/* Opening a file for writing isn't repeated. */
static bool
is_interrupted (struct fault *f, enum mem_op op)
{
  return f->eintr_every > 1 && op != MEM_MAKE_WRITABLE &&
    ++f->eintr_calls % f->eintr_every == 0;
}

static bool
is_to_fail (struct fault *f, enum mem_op op)
{
  if (f->off || f->first == 0 || (f->op != MEM_ANY && f->op != op))
    return false;
  f->calls++;
  return f->calls >= f->first && f->calls - f->first < f->count;
}

static ssize_t
hook (void *opaque, enum mem_op op, uint64_t offset, size_t count)
{
  struct fault *f = opaque;

  (void) offset;
  if (is_interrupted (f, op)) {
    errno = EINTR;
    return -1;
  }
  if (is_to_fail (f, op)) {
    f->failed++;
    f->sync_failed |= op == MEM_SYNC;
    f->write_failed |= op == MEM_PWRITE;
    errno = f->err;
    return -1;
  }
  return op == MEM_PWRITE && f->max_small && count < QED_SECTOR_SIZE &&
    count > f->max_small ? (ssize_t) f->max_small : (ssize_t) count;
}

/* Bytes that depend on the offset and on the step. */
static void
fill (uint8_t *buf, const struct step *step)
{
  uint8_t number = (uint8_t) ((step - steps) * 38);

  for (uint64_t i = 0; i < step->length; i++)
    buf[i] = step->kind == WRITE ? (uint8_t) (i / 251 + i * 7 + number) | 1 :
      0;
}

/* With a data cluster, a zero cluster, one table; and if DIRTY, leaks and
 * unsound entries.  A DEVICE has old content behind that.
 */
static void
make_image (struct mem_file *f, bool dirty, bool device,
            const struct backing *backing, uint8_t window[WINDOW_BYTES])
{
  const uint64_t behind = device ? DEVICE_CLUSTERS * CLUSTER : 0;
  struct model m;

  model_create (&m, f, CLUSTER, 1, WINDOW + WINDOW_BYTES);
  backing_name (backing, &m);
  model_data (&m, FIRST);
  model_set (&m, FIRST + 1, 1);
  if (dirty)
    model_pattern (&m, model_append (&m, 2), 2 * CLUSTER);
  CHECK (model_open (&m, f));
  m.backing = backing_model (backing);
  CHECK_EQ (model_pread (&m, window, WINDOW_BYTES, WINDOW), 0);
  if (dirty) {
    model_set (&m, FIRST + 3, mem_size (f) + behind + 2 * CLUSTER);
    model_set_l1 (&m, 1, mem_size (f) + behind + CLUSTER);
    m.h.features |= QED_F_NEED_CHECK;
    model_write_header (&m);
  }
  if (device)
    mem_make_device (f, behind);
}

/* ---- opening ---- */

static struct qed_image *
open_read_only (struct run *r)
{
  struct qed_storage *st = mem_open (r->f);
  struct qed_backing *backing;
  struct qed_image *img;
  bool off = r->fault.off;
  int err;

  /* Opening the backing file succeeds; test-backing makes it fail. */
  r->fault.off |= r->fault.is_backing;
  backing = backing_open (&r->backing);
  r->fault.off = off;
  img = qed_open_overlay (st, backing, QED_MIN_CACHE_SIZE);
  err = errno;
  if (img == NULL) {
    qed_storage_close (st);
    qed_backing_close (backing);
  }
  errno = err;
  return img;
}

/* A step failed: a fault was due, and errno is the fault's. */
static void
check_failure (const struct run *r, uint64_t failed_before)
{
  int err = errno;

  if (r->fault.failed == failed_before)
    CHECK (r->failed);
  if (err != r->fault.err)
    CHECK (r->failed && err == EIO);
}

/* Opening may be tried again after it failed. */
static void
open_for_writing (struct run *r)
{
  const struct qed_write_options opts = { .idle_ms = 0 };
  struct fault *f = &r->fault;

  r->img = open_read_only (r);
  if (r->img == NULL) {
    check_failure (r, 0);
    f->off = true;
    r->img = open_read_only (r);
    CHECK (r->img != NULL);
    f->off = false;
  }
  if (qed_make_writable (r->img, &opts) != 0) {
    check_failure (r, 0);
    f->off = true;
    CHECK_EQ (qed_make_writable (r->img, &opts), 0);
    f->off = f->sync_failed = false;
  }
  CHECK (!f->sync_failed);
}

/* ---- judging ---- */

/* Are SIZE bytes at OFFSET what they are in one of the N alternatives? */
static bool
is_one_of (const uint8_t *got, size_t offset, size_t size,
           const uint8_t *const alternatives[], size_t n)
{
  while (n-- > 0)
    if (memcmp (got + offset, alternatives[n] + offset, size) == 0)
      return true;
  return false;
}

/* The same for each sector; or for each byte, if short transfers can end
 * anywhere.
 */
static void
check_one_of (const struct run *r, const uint8_t *got,
              const uint8_t *const alternatives[], size_t n)
{
  for (size_t i = 0; i < WINDOW_BYTES; i += QED_SECTOR_SIZE) {
    size_t end = i + QED_SECTOR_SIZE, j = i;

    if (is_one_of (got, i, QED_SECTOR_SIZE, alternatives, n))
      continue;
    while ((r->fault.others.max_transfer || r->fault.max_small) && j < end &&
           is_one_of (got, j, 1, alternatives, n))
      j++;
    if (j < end)
      harness_fail (__FILE__, __LINE__, "wrong content at %#zx (%02x)", j,
                    got[j]);
  }
}

static void
check_same_on_disk (struct run *r, const uint8_t *got)
{
  uint8_t disk[WINDOW_BYTES];
  struct qed_image *img = open_read_only (r);

  CHECK (img != NULL);
  CHECK_EQ (qed_pread (img, disk, WINDOW_BYTES, WINDOW), 0);
  CHECK_EQ (qed_close (img), 0);
  CHECK (memcmp (got, disk, WINDOW_BYTES) == 0);
}

static bool
is_overlay (const struct run *r)
{
  return r->fault.backing != BACKING_NONE;
}

/* After a step that returned RET; if it failed there has been a flush. */
static void
judge (struct run *r, const struct step *step, int ret)
{
  bool flushed = !is_overlay (r) || ret == -1 || step->kind == FLUSH ||
    step->flags & QED_FUA;
  uint8_t want[WINDOW_BYTES], got[WINDOW_BYTES];
  const uint8_t *const alternatives[] = { want, r->now };
  bool sure = ret == 0 && step->kind != TRIM;

  memcpy (want, r->now, WINDOW_BYTES);
  fill (want + step->offset, step);
  CHECK_EQ (qed_pread (r->img, got, WINDOW_BYTES, WINDOW), 0);
  check_one_of (r, got, alternatives, sure ? 1 : 2);
  if (!r->failed && flushed)
    check_same_on_disk (r, got);

  if (ret == 0 && !is_overlay (r))
    for (size_t i = 0; i < r->n_others; i++)
      memcpy (r->others[i] + step->offset, got + step->offset, step->length);
  else {
    memcpy (r->others[r->n_others++], r->now, WINDOW_BYTES);
    memcpy (r->others[r->n_others++], want, WINDOW_BYTES);
  }
  if (is_overlay (r) && !r->failed && flushed)
    r->n_others = 0;
  memcpy (r->now, got, WINDOW_BYTES);
}

static void
check_closed (const struct run *r, bool leaks)
{
  const char *why = audit_closed (r->f, leaks);
  struct audit a;

  CHECK_STR (why ? why : "", "");
  CHECK (audit_image (r->f, &a));
  if (!leaks)
    CHECK_EQ (a.leaked, 0);
}

/* Without faults the image can be repaired, has the content, and can be
 * written.  MARKED: it may be marked NEED_CHECK and then have leaks.
 */
static void
check_reopened (struct run *r, bool marked)
{
  const struct qed_write_options opts = { .idle_ms = 0 };
  const uint8_t *alternatives[2 * STEPS + 1] = { r->now };
  struct qed_image *img;
  uint8_t got[WINDOW_BYTES];
  struct audit a;

  CHECK (audit_image (r->f, &a));
  if (!a.need_check)
    CHECK (!a.unsound && !a.duplicate);
  if (!marked || !a.need_check)
    check_closed (r, false);

  img = open_read_only (r);
  CHECK (img != NULL);
  CHECK_EQ (qed_make_writable (img, &opts), 0);
  CHECK_EQ (qed_pread (img, got, WINDOW_BYTES, WINDOW), 0);
  for (size_t i = 0; i < r->n_others; i++)
    alternatives[i + 1] = r->others[i];
  check_one_of (r, got, alternatives, r->failed ? r->n_others + 1 : 1);

  CHECK_EQ (qed_pwrite (img, got, 1000, WINDOW + 9 * CLUSTER + 9, 0), 0);
  CHECK_EQ (qed_close (img), 0);
  check_closed (r, a.need_check);
}

/* ---- running ---- */

static int
do_step (struct run *r, const struct step *step)
{
  uint64_t offset = WINDOW + step->offset;
  uint8_t buf[WINDOW_BYTES];

  switch (step->kind) {
  case ZERO: return qed_zero (r->img, step->length, offset, step->flags);
  case TRIM: return qed_trim (r->img, step->length, offset, step->flags);
  case FLUSH: return qed_flush (r->img);
  default:
    fill (buf, step);
    return qed_pwrite (r->img, buf, step->length, offset, step->flags);
  }
}

/* After a step that failed: has the image failed for good? */
static void
check_failed (struct run *r, const struct step *step)
{
  const struct fault *f = &r->fault;
  bool in_commit = is_overlay (r) && f->write_failed;
  bool before = r->failed;

  r->failed = qed_flush (r->img) == -1;
  if (before || f->sync_failed || (in_commit && step->kind == FLUSH))
    CHECK (r->failed);
  else if ((f->failed == 1 && !in_commit) || f->is_backing)
    CHECK (!r->failed);
}

static void
check_step (struct run *r, const struct step *step)
{
  uint64_t failed_before = r->fault.failed;
  int ret;

  r->fault.write_failed = false;
  ret = do_step (r, step);

  if (ret == -1)
    check_failure (r, failed_before);
  else
    CHECK (!r->failed && !r->fault.sync_failed);

  r->fault.off = true;
  if (ret == -1)
    check_failed (r, step);
  judge (r, step, ret);
  r->fault.off = false;
}

static void
make_backing (struct run *r)
{
  backing_init (&r->backing, r->fault.backing, WINDOW + WINDOW_BYTES,
                SHORT_SIZE);
  backing_fill (&r->backing, WINDOW, UINT64_MAX);
}

/* Returns whether anything failed. */
static bool
run_with_fault (const struct fault *fault, bool dirty)
{
  struct run *r = calloc (1, sizeof *r);
  struct mem_file *target;
  uint64_t failed_before;
  bool any, clean;

  CHECK (r != NULL);
  r->f = mem_file_new ();
  r->fault = *fault;
  make_backing (r);
  make_image (r->f, dirty, fault->device, &r->backing, r->now);
  target = fault->is_backing ? r->backing.files[0] : r->f;
  mem_set_faults (target, &fault->others);
  mem_set_hook (target, hook, &r->fault);
  open_for_writing (r);
  for (size_t i = 0; i < STEPS; i++) {
    CONTEXT ("operation %d, call %" PRIu64 " and on: %" PRIu64 ", errno %d, "
             "dirty %d, on %d, backing %d, step %zu", fault->op, fault->first,
             fault->count, fault->err, dirty, fault->backing, fault->is_backing,
             i);
    check_step (r, &steps[i]);
  }

  failed_before = r->fault.failed;
  clean = qed_close (r->img) == 0;
  if (r->fault.sync_failed)
    CHECK (!clean);
  if (!clean)
    CHECK (r->failed || r->fault.failed > failed_before);
  CHECK_EQ (mem_open_storages (r->f), 0);
  mem_set_hook (target, NULL, NULL);
  mem_set_faults (target, NULL);
  /* Or the space of failed requests couldn't be given back. */
  check_reopened (r, !clean || r->fault.failed > failed_before);

  any = r->fault.failed > 0;
  backing_check (&r->backing);
  backing_free (&r->backing);
  mem_file_free (r->f);
  free (r);
  return any;
}

struct failing { enum mem_op op; int err; };

/* Make the first operation fail, then the second, ... until none is left. */
static void
run_with_each_of (const struct fault *base, const struct failing *kinds,
                  size_t n)
{
  static const uint64_t counts[] = { 1, 2, UINT64_MAX };
  const bool valgrind = getenv ("NBDKIT_VALGRIND") != NULL;
  struct fault fault = *base;
  unsigned runs = 0;

  for (size_t i = 0; i < (valgrind ? 1 : n); i++)
    for (size_t j = 0; j < 2 * sizeof counts / sizeof counts[0]; j++) {
      fault.op = kinds[i].op;
      fault.err = kinds[i].err;
      fault.count = counts[j / 2];
      fault.first = 0;
      do {
        fault.first += valgrind ? 5 : 1;
        runs++;
      } while (run_with_fault (&fault, j % 2));
    }
  printf ("  %u runs\n", runs);
}

static void
run_with_each_fault (const struct fault *base)
{
  static const struct failing kinds[] = {
    { MEM_ANY, EIO }, { MEM_ANY, ENOSPC }, { MEM_PREAD, EIO },
    { MEM_PWRITE, EIO }, { MEM_PWRITE, ENOSPC }, { MEM_RESIZE, EFBIG },
    { MEM_SYNC, EIO }, { MEM_SYNC, ENOSPC }, { MEM_PUNCH, EIO },
    { MEM_ZERO, ENOSPC },
  };

  run_with_each_of (base, kinds, sizeof kinds / sizeof kinds[0]);
}

/* In overlays and devices these faults show most. */
static void
run_with_some_faults (const struct fault *base)
{
  static const struct failing kinds[] = {
    { MEM_ANY, EIO }, { MEM_PWRITE, ENOSPC }, { MEM_SYNC, EIO },
    { MEM_PUNCH, EIO },
  };

  run_with_each_of (base, kinds, sizeof kinds / sizeof kinds[0]);
}

static void
run_with_backing_faults (const struct fault *base)
{
  static const struct failing kinds[] = {
    { MEM_ANY, EIO }, { MEM_PREAD, ENOSPC }, { MEM_NEXT_EXTENT, EIO },
  };

  run_with_each_of (base, kinds, sizeof kinds / sizeof kinds[0]);
}

/* ---- tests ---- */

static void
test_each_operation (void)
{
  run_with_each_fault (&(struct fault) { 0 });
}

/* Faults after a part of a request was transferred. */
static void
test_each_short_transfer (void)
{
  run_with_each_fault (&(struct fault) { .others.max_transfer = 1000 });
}

/* Transfers so short that even an entry may be written in part. */
static void
test_each_part_of_an_entry (void)
{
  run_with_each_fault (&(struct fault) { .max_small = 5 });
}

/* Signals interrupt operations, and zeros must be written as data. */
static void
test_each_interrupted (void)
{
  run_with_each_fault (&(struct fault) {
      .others.no_punch = true, .others.no_zero = true, .eintr_every = 3,
    });
}

/* A device needs zeroing before anything is allocated there. */
static void
test_device_each_operation (void)
{
  run_with_each_fault (&(struct fault) { .device = true });
  run_with_some_faults (&(struct fault) {
      .device = true, .others.no_holes = true,
    });
}

static void
test_device_each_interrupted (void)
{
  run_with_some_faults (&(struct fault) {
      .device = true, .others.no_punch = true, .others.no_holes = true,
      .others.max_transfer = 50000,
    });
  run_with_some_faults (&(struct fault) {
      .device = true, .others.no_punch = true, .others.no_zero = true,
      .others.no_holes = true, .eintr_every = 3,
    });
}

static void
test_device_overlay_each_operation (void)
{
  run_with_some_faults (&(struct fault) {
      .device = true, .backing = BACKING_FULL,
    });
  run_with_some_faults (&(struct fault) {
      .device = true, .backing = BACKING_SHORT, .others.no_punch = true,
      .others.no_zero = true, .others.no_holes = true,
    });
}

static void
test_overlay_each_operation (void)
{
  run_with_each_fault (&(struct fault) { .backing = BACKING_FULL });
  run_with_some_faults (&(struct fault) { .backing = BACKING_CHAIN });
}

static void
test_overlay_each_short_transfer (void)
{
  run_with_some_faults (&(struct fault) {
      .backing = BACKING_HOLES, .others.max_transfer = 1000,
    });
}

static void
test_overlay_each_interrupted (void)
{
  run_with_some_faults (&(struct fault) {
      .backing = BACKING_SHORT, .max_small = 5, .eintr_every = 3,
      .others.no_punch = true, .others.no_zero = true,
    });
}

static void
test_overlay_each_backing_operation (void)
{
  for (int kind = BACKING_FULL; kind < NR_BACKING; kind++)
    run_with_backing_faults (&(struct fault) {
        .backing = (enum backing_kind) kind, .is_backing = true,
        .others.max_transfer = kind == BACKING_FULL ? 1000 : 0,
        .eintr_every = kind == BACKING_HOLES ? 3 : 0,
      });
}

/* Short transfers and EINTR alone are not failures. */
static void
test_tolerated (void)
{
  static const size_t transfers[] = { 0, 1, 7, 511, 513, 4095 };
  unsigned runs = 0;

  for (size_t i = 0; i < sizeof transfers / sizeof transfers[0]; i++)
    for (unsigned eintr = 1; eintr < 5; eintr++)
      for (unsigned j = 0; j < 8; j++, runs++) {
        const struct fault fault = {
          .backing = (enum backing_kind) (runs % NR_BACKING),
          .others = {
            .max_transfer = transfers[i],
            .no_punch = j & 1, .no_zero = j & 2,
          },
          .device = eintr & 1,
          .eintr_every = eintr,
        };

        CHECK (!run_with_fault (&fault, j & 4));
      }
  printf ("  %u runs\n", runs);
}

/* If the storage can neither punch nor zero, a zero with FAST_ZERO fails and
 * changes nothing, and a trim does nothing.
 */
static void
test_no_punch (void)
{
  const struct mem_faults none = { .no_punch = true, .no_zero = true };
  struct run *r = calloc (1, sizeof *r);
  uint8_t got[WINDOW_BYTES];

  CHECK (r != NULL);
  r->f = mem_file_new ();
  make_image (r->f, false, r->fault.device, &r->backing, r->now);
  mem_set_faults (r->f, &none);
  open_for_writing (r);
  CHECK_FAILS (qed_zero (r->img, CLUSTER, WINDOW, QED_FAST_ZERO), ENOTSUP,
               MEM_NAME);
  CHECK_FAILS (qed_zero (r->img, CLUSTER, WINDOW,
                         QED_FAST_ZERO | QED_MAY_TRIM), ENOTSUP, MEM_NAME);
  CHECK_EQ (qed_trim (r->img, CLUSTER, WINDOW, 0), 0);
  CHECK_EQ (qed_pread (r->img, got, WINDOW_BYTES, WINDOW), 0);
  CHECK (memcmp (got, r->now, WINDOW_BYTES) == 0);
  CHECK_EQ (qed_close (r->img), 0);
  CHECK_EQ (mem_calls (r->f, MEM_PWRITE), 0);
  mem_file_free (r->f);
  free (r);
}

/* ---- many threads ---- */

#define THREADS 8

struct thread {
  pthread_t id;
  struct qed_image *img;
  pthread_barrier_t *written;
  uint64_t offset;
};

static ssize_t
slow_sync_fails (void *opaque, enum mem_op op, uint64_t offset, size_t count)
{
  (void) opaque;
  (void) offset;
  if (op != MEM_SYNC)
    return (ssize_t) count;
  usleep (5000);                /* so that other threads wait for it */
  errno = EIO;
  return -1;
}

/* Writes of entries fail, which are known by their size: clusters are larger,
 * and "data" is smaller.
 */
static ssize_t
slow_commit_fails (void *opaque, enum mem_op op, uint64_t offset, size_t count)
{
  (void) opaque;
  (void) offset;
  if (op == MEM_SYNC)
    usleep (5000);
  if (op != MEM_PWRITE || count < 8 || count >= QED_SECTOR_SIZE)
    return (ssize_t) count;
  errno = EIO;
  return -1;
}

static void *
write_and_flush (void *arg)
{
  struct thread *t = arg;

  CHECK_EQ (qed_pwrite (t->img, "data", 4, t->offset, 0), 0);
  pthread_barrier_wait (t->written);
  CHECK_FAILS (qed_flush (t->img), EIO, MEM_NAME);
  return NULL;
}

static void
share_failure (enum backing_kind kind, mem_hook *fails)
{
  struct run *r = calloc (1, sizeof *r);
  struct thread threads[THREADS];
  pthread_barrier_t written;

  CHECK (r != NULL);
  CHECK (pthread_barrier_init (&written, NULL, THREADS) == 0);
  r->f = mem_file_new ();
  r->fault.backing = kind;
  make_backing (r);
  make_image (r->f, false, r->fault.device, &r->backing, r->now);
  open_for_writing (r);
  if (kind != BACKING_NONE)     /* so that it's marked and has both tables */
    for (unsigned i = 2; i <= 9; i += 7)
      CHECK_EQ (qed_pwrite (r->img, "data", 4, WINDOW + i * CLUSTER, 0), 0);
  mem_set_hook (r->f, fails, NULL);
  for (unsigned i = 0; i < THREADS; i++) {
    threads[i] = (struct thread) {
      .img = r->img, .written = &written,
      .offset = kind == BACKING_NONE ? WINDOW + 4 * i :
        WINDOW + (2 + i) * CLUSTER,
    };
    CHECK (pthread_create (&threads[i].id, NULL, write_and_flush,
                           &threads[i]) == 0);
  }
  for (unsigned i = 0; i < THREADS; i++)
    CHECK (pthread_join (threads[i].id, NULL) == 0);
  CHECK_FAILS (qed_pwrite (r->img, "data", 4, WINDOW, 0), EIO, MEM_NAME);
  CHECK_EQ (qed_close (r->img), -1);
  pthread_barrier_destroy (&written);
  backing_free (&r->backing);
  mem_file_free (r->f);
  free (r);
}

/* I5: when a sync or a commit fails, so do all flushes that waited for it. */
static void
test_shared_sync (void)
{
  share_failure (BACKING_NONE, slow_sync_fails);
}

static void
test_overlay_shared_commit (void)
{
  share_failure (BACKING_FULL, slow_sync_fails);
  share_failure (BACKING_FULL, slow_commit_fails);
}

HARNESS_MAIN (
  TEST (test_tolerated),
  TEST (test_no_punch),
  TEST (test_each_operation),
  TEST (test_each_short_transfer),
  TEST (test_each_part_of_an_entry),
  TEST (test_each_interrupted),
  TEST (test_device_each_operation),
  TEST (test_device_each_interrupted),
  TEST (test_device_overlay_each_operation),
  TEST (test_overlay_each_operation),
  TEST (test_overlay_each_short_transfer),
  TEST (test_overlay_each_interrupted),
  TEST (test_overlay_each_backing_operation),
  TEST (test_shared_sync),
  TEST (test_overlay_shared_commit),
)
