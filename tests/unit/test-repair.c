/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* qed_repair mends damaged images (damage.h), many of them random.
 *
 * After a repair the check finds nothing, the file ends with its last used
 * cluster, and a guest reads the same content as before; where an entry was
 * unsound it reads the backing file.  A second repair writes nothing.
 *
 * An error of the storage or a crash (recorder.h) can interrupt a repair at
 * any moment, even a repair after a crash.  Then the guest has lost nothing
 * and there is no more damage than before.  NEED_CHECK is set unless nothing
 * has been changed or the image is sound (I6).  Another repair has the result
 * that the first one would have had.
 *
 * The tests of lies show that a breach of these rules is noticed.
 */

#include <config.h>

#include "alloc.h"
#include "recorder.h"
#include "repaired.h"

#define CLUSTER UINT64_C (4096)

/* ---- whole repairs ---- */

/* The library's check of the file has the result of damage_check. */
static void
check_reading (struct mem_file *f)
{
  struct snapshot content;
  struct opened o;
  struct model m;

  CHECK (model_open (&m, f));
  snapshot_take (&content, f);
  open_over (&o, f, NULL);
  for (size_t i = 0; i < content.n; i++) {
    uint64_t offset = content.c[i].cluster * m.h.cluster_size;

    if (content.c[i].cluster <= (m.h.image_size - 1) / m.h.cluster_size &&
        m.h.image_size > offset)
      compare_pread (o.img, &m, offset,
                     m.h.image_size - offset < 3000 ?
                     m.h.image_size - offset : 3000);
  }
  close_image (&o);
  snapshot_free (&content);
}

/* The bytes between the header and the end of its clusters stay. */
static uint64_t
hash_header_clusters (struct mem_file *f)
{
  struct mem_file *copy = mem_file_new ();
  uint8_t zeros[QED_HEADER_BYTES] = { 0 };
  struct model m;
  uint64_t hash;

  CHECK (model_open (&m, f));
  damage_copy (f, copy, 0, 0, (uint64_t) m.h.header_size * m.h.cluster_size);
  mem_write (copy, zeros, sizeof zeros, 0);
  hash = mem_hash (copy);
  mem_file_free (copy);
  return hash;
}

static void
check_counts (const struct before *b, const struct qed_repair_result *r,
              struct mem_file *f)
{
  struct qed_check_result now;

  CHECK (damage_check (f, false, &now));
  compare_results (&r->before, &b->check);
  compare_results (&r->after, &now);
  CHECK_OP (r->corruptions_fixed, >=, b->check.corruptions);
  if (b->check.corruptions == 0) {
    CHECK_EQ (r->corruptions_fixed, 0);
    CHECK_EQ (r->leaks_fixed, b->check.leaks);
  }
}

/* Repair F, also a second time, which changes nothing. */
static void
repair_well (struct mem_file *f, enum qed_repair what)
{
  uint64_t bytes = damage_used (f), header = hash_header_clusters (f), hash;
  struct qed_repair_result r;
  const char *why;
  struct before b;

  take_before (&b, f, what);
  CHECK_EQ (repair (f, what, &r), 0);
  if (b.check.corruptions && what == QED_REPAIR_LEAKS) {
    CHECK_EQ (changes (f), 0);
    CHECK_EQ (mem_hash (f), b.hash);
    compare_results (&r.before, &b.check);
    compare_results (&r.after, &b.check);
    CHECK_EQ (r.corruptions_fixed + r.leaks_fixed, 0);
    free_before (&b);
    return;
  }
  why = check_repaired (&b, f);
  if (why)
    harness_fail (__FILE__, __LINE__, "%s", why);
  check_counts (&b, &r, f);
  if (b.check.corruptions == 0 && !mem_is_device (f))
    CHECK_EQ (mem_size (f), bytes);
  CHECK_EQ (hash_header_clusters (f), header);
  check_reading (f);
  compare_check (f, false);

  hash = mem_hash (f);
  CHECK_EQ (repair (f, what, &r), 0);
  CHECK_EQ (changes (f), 0);
  CHECK_EQ (mem_hash (f), hash);
  CHECK_EQ (r.corruptions_fixed + r.leaks_fixed, 0);
  free_before (&b);
}

static unsigned
rounds (unsigned n)
{
  return getenv ("NBDKIT_VALGRIND") ? n / 10 + 1 : n;
}

/* If it isn't 0 random images are in a device with so many bytes of old content
 * behind the image.  A damaged entry may point there, even as to a table, so
 * more space follows.
 */
#define DEVICE_BYTES (300 * CLUSTER)
static uint64_t behind;

static void
make_random (struct model *m, struct mem_file *f, uint64_t seed,
             unsigned damages, unsigned steps)
{
  struct rng rng = { seed };

  damage_random (m, f, &rng, 4096 << seed / 5 % 2, 1 << seed % 5, damages,
                 steps);
  if (behind > 0) {
    mem_truncate (f, (mem_size (f) + CLUSTER - 1) / CLUSTER * CLUSTER);
    mem_make_device (f, behind);
    mem_truncate (f, mem_size (f) + 10000 * CLUSTER);
  }
}

static void
test_leaks (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;

  for (uint64_t seed = 0; seed < rounds (250); seed++) {
    CONTEXT ("seed %" PRIu64, seed);
    make_random (&m, f, seed, 0, 10 + seed % 40);
    repair_well (f, seed % 2 ? QED_REPAIR_LEAKS : QED_REPAIR_ALL);
  }
  mem_file_free (f);
}

static void
test_each_damage (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;

  for (uint64_t seed = 0; seed < rounds (250); seed++) {
    CONTEXT ("seed %" PRIu64, seed);
    make_random (&m, f, seed, 1U << seed % QED_NR_DAMAGES, 10 + seed % 40);
    repair_well (f, QED_REPAIR_ALL);
  }
  mem_file_free (f);
}

static void
test_all_damages (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;

  for (uint64_t seed = 0; seed < rounds (250); seed++) {
    CONTEXT ("seed %" PRIu64, seed);
    make_random (&m, f, seed, ALL_DAMAGES, 10 + seed % 40);
    if (seed % 4 == 0)
      repair_well (f, QED_REPAIR_LEAKS);
    repair_well (f, QED_REPAIR_ALL);
  }
  mem_file_free (f);
}

static void
test_geometries (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;

  FOR_ALL_GEOMETRIES (cs, ts)
    for (uint64_t seed = 0; seed < 2; seed++) {
      struct rng rng = { cs + ts + seed };

      if (cs > 4096 << 6 && getenv ("NBDKIT_VALGRIND"))
        continue;
      CONTEXT ("clusters %" PRIu64 " * %" PRIu64 ", seed %" PRIu64, cs, ts,
               seed);
      damage_random (&m, f, &rng, (uint32_t) cs, (uint32_t) ts,
                     seed ? ALL_DAMAGES : 0, 20);
      repair_well (f, QED_REPAIR_ALL);
    }
  mem_file_free (f);
}

static void
test_large (void)
{
  struct mem_file *f = mem_file_new ();
  struct rng rng = { 1 };
  struct model m;

  damage_random (&m, f, &rng, 4096, 4, 0, rounds (3000));
  repair_well (f, QED_REPAIR_LEAKS);
  damage_random (&m, f, &rng, 4096, 16, ALL_DAMAGES, rounds (3000));
  repair_well (f, QED_REPAIR_ALL);
  mem_file_free (f);
}

/* ---- directed ---- */

/* Header, L1, a table, 3 leaks, data, a leak. */
static void
make_leaky (struct model *m, struct mem_file *f)
{
  model_create (m, f, 4096, 1, 1000 * CLUSTER);
  model_set (m, 1, 1);
  model_append (m, 3);
  model_data (m, 0);
  model_append (m, 1);
}

static void
test_counts (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_repair_result r;
  struct model m;

  make_leaky (&m, f);
  CHECK_EQ (repair (f, QED_REPAIR_LEAKS, &r), 0);
  CHECK_EQ (r.leaks_fixed, 4);
  CHECK_EQ (r.corruptions_fixed, 0);
  CHECK_EQ (r.before.leaks, 4);
  CHECK_EQ (r.after.leaks, 0);
  CHECK_EQ (r.after.file_size, 4 * CLUSTER);
  CHECK_EQ (mem_size (f), 4 * CLUSTER);

  make_leaky (&m, f);
  model_set (&m, 2, 4097);
  model_set (&m, 3, 6 * CLUSTER);
  model_set (&m, 4, 2 * CLUSTER + 8 * CLUSTER);
  CHECK_EQ (repair (f, QED_REPAIR_ALL, &r), 0);
  CHECK_EQ (r.before.corruptions, 3);
  CHECK_EQ (r.corruptions_fixed, 3);
  CHECK_EQ (r.after.corruptions, 0);
  CHECK_EQ (r.leaks_fixed, 4);
  CHECK_EQ (mem_size (f), 5 * CLUSTER);
  mem_file_free (f);
}

/* TABLES tables of 16 clusters, with leaked clusters between them, too few for
 * a table to fit in.  The L1 table is first, second, in the middle, or in the
 * middle of a gap that would otherwise be large enough.
 */
enum l1_place { L1_FIRST, L1_SECOND, L1_MIDDLE, L1_IN_HOLE, NR_L1_PLACES };

static void
make_no_hole (struct model *m, struct mem_file *f, unsigned tables,
              unsigned leaked, enum l1_place l1)
{
  static const uint64_t l1_clusters[] = { 1, 2, 2, 9 };

  model_create_at (m, f, 4096, 16, 1, l1_clusters[l1], 8192 * 10 * CLUSTER);
  for (unsigned i = 0; i < tables; i++) {
    model_append (m, i == 0 && l1 == L1_IN_HOLE ? 16 : leaked);
    model_set (m, i * 8192 + i, 1);
    if (leaked > 1)
      model_data (m, i * 8192);
    if (l1 == L1_MIDDLE && i == tables / 2)
      damage_move_l1 (m);
  }
}

static void
test_no_contiguous_hole (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;

  for (unsigned tables = 1; tables < 6; tables++)
    for (unsigned leaked = 1; leaked < 16; leaked += 7)
      for (unsigned l1 = 0; l1 < NR_L1_PLACES; l1++) {
        CONTEXT ("%u tables, %u leaked, L1 %u", tables, leaked, l1);
        make_no_hole (&m, f, tables, leaked, (enum l1_place) l1);
        repair_well (f, QED_REPAIR_LEAKS);
      }
  mem_file_free (f);
}

/* Data of other ranges that lies in an overlapping table which isn't followed
 * stays.
 */
static void
test_data_in_shared_table (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  uint64_t table;

  model_create (&m, f, 4096, 4, 5000 * CLUSTER);
  model_set (&m, 0, 1);
  table = model_get_l1 (&m, 0);
  for (unsigned i = 1; i < 5; i++)
    model_data (&m, i);
  model_set_l1 (&m, 1, table + 3 * CLUSTER);
  repair_well (f, QED_REPAIR_ALL);
  mem_file_free (f);
}

/* L1 entries that point to data clusters, of which one has an entry that
 * points to another: all of them keep their content.  Data looks like unsound
 * entries, and here partly like sound ones.
 */
static void
test_data_taken_for_table (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  uint64_t data[4];

  for (unsigned i = 0; i < 4; i++) {
    CONTEXT ("%u", i);
    model_create (&m, f, 4096, 1, 5000 * CLUSTER);
    for (unsigned j = 0; j < 4; j++)
      data[j] = model_data (&m, 5 + j);
    for (unsigned j = 0; j < 3; j++)
      model_put64 (&m, data[j] + 8 * j, data[j + 1]);
    if (i & 1)
      model_put64 (&m, data[2] + 40, data[0]); /* in circles */
    model_put64 (&m, data[0] + 56, mem_size (f) + 3 * CLUSTER);
    model_set_l1 (&m, 1, data[0]);
    model_set_l1 (&m, 2, data[1]);
    if (i & 2)
      model_set_l1 (&m, 3, data[2]);
    repair_well (f, QED_REPAIR_ALL);
  }
  mem_file_free (f);
}

/* An entry that points past the end doesn't become sound when the file grows,
 * nor one that points into its own table when that is moved.
 */
static void
test_stays_unsound (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;

  for (unsigned i = 0; i < 8; i++) {
    CONTEXT ("%u", i);
    model_create (&m, f, 4096, 2, 5000 * CLUSTER);
    model_append (&m, 2);
    model_data (&m, 0);
    model_data (&m, 1);
    model_set_l1 (&m, 1, model_get_l1 (&m, 0) +
                  (i % 2 ? CLUSTER : 0));
    model_set (&m, 2, mem_size (f) + (i & 2 ? CLUSTER : 0));
    model_set (&m, 3, model_get_l1 (&m, 0) + (i & 4 ? CLUSTER : 0));
    model_set_l1 (&m, 3, mem_size (f));
    model_set_l1 (&m, 2, mem_size (f) - CLUSTER);
    repair_well (f, QED_REPAIR_ALL);
  }
  mem_file_free (f);
}

static void
test_header_bits (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_repair_result r;
  struct model m;

  make_leaky (&m, f);
  m.h.compat_features = m.h.autoclear_features = UINT64_MAX;
  m.h.features = QED_F_NEED_CHECK;
  model_write_header (&m);
  CHECK_EQ (repair (f, QED_REPAIR_LEAKS, &r), 0);
  CHECK (model_open (&m, f));
  CHECK_EQ (m.h.compat_features, UINT64_MAX);
  CHECK_EQ (m.h.autoclear_features, 0);
  CHECK_EQ (m.h.features, 0);

  /* Marked, but nothing is wrong. */
  m.h.features = QED_F_NEED_CHECK;
  model_write_header (&m);
  CHECK_EQ (repair (f, QED_REPAIR_LEAKS, &r), 0);
  CHECK (r.before.need_check);
  CHECK (!r.after.need_check);
  CHECK (model_open (&m, f));
  CHECK_EQ (m.h.features, 0);

  m.h.features = 8;
  model_write_header (&m);
  CHECK_FAILS (repair (f, QED_REPAIR_ALL, &r), ENOTSUP, MEM_NAME);
  CHECK_EQ (changes (f), 0);
  mem_truncate (f, 10);
  CHECK_FAILS (repair (f, QED_REPAIR_ALL, &r), EINVAL, MEM_NAME);
  CHECK_EQ (changes (f), 0);
  mem_file_free (f);
}

/* A device keeps its length, and copies go behind what is in use, where there
 * is old content; used clusters move all the same.
 */
static void
test_device (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;

  behind = DEVICE_BYTES;
  for (uint64_t seed = 0; seed < rounds (100); seed++) {
    uint64_t size;

    CONTEXT ("seed %" PRIu64, seed);
    make_random (&m, f, seed, seed % 2 ? ALL_DAMAGES : 0, 20);
    size = mem_size (f);
    repair_well (f, seed % 3 ? QED_REPAIR_ALL : QED_REPAIR_LEAKS);
    CHECK_EQ (mem_size (f), size);
  }
  behind = 0;
  mem_file_free (f);
}

/* A device that is too small for the copies: nothing is lost, the message says
 * how much there is, and the same repair works in a larger one.
 */
static void
test_device_full (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_repair_result r;
  struct before b;
  struct model m;
  const char *why;
  uint64_t data;

  model_create (&m, f, 4096, 1, 100 * CLUSTER);
  data = model_data (&m, 0);
  for (uint64_t i = 1; i < 10; i++)
    model_set (&m, i, data);
  mem_make_device (f, 8 * CLUSTER);
  take_before (&b, f, QED_REPAIR_ALL);
  CHECK_FAILS (repair (f, QED_REPAIR_ALL, &r), ENOSPC, MEM_NAME, "9 tables",
               "32768 bytes", "larger device");
  mem_make_device (f, CLUSTER);
  why = check_interrupted (&b, f);
  if (why)
    harness_fail (__FILE__, __LINE__, "%s", why);
  free_before (&b);
  mem_file_free (f);
}

/* The file is read-only or in use: the repair does nothing. */
static void
test_not_writable (void)
{
  static const int errors[] = { EBUSY, EACCES, EROFS };
  struct mem_file *f = mem_file_new ();
  struct qed_repair_result r;
  struct model m;
  uint64_t hash;

  make_leaky (&m, f);
  hash = mem_hash (f);
  for (unsigned i = 0; i < 3; i++) {
    const struct mem_faults faults = {
      .op = MEM_MAKE_WRITABLE, .first = 1, .count = 1, .err = errors[i],
    };

    mem_set_faults (f, &faults);
    errno = 0;
    CHECK_EQ (repair (f, QED_REPAIR_ALL, &r), -1);
    CHECK_EQ (errno, errors[i]);
    CHECK_EQ (changes (f), 0);
    CHECK_EQ (mem_hash (f), hash);
  }
  mem_set_faults (f, NULL);
  mem_file_free (f);
}

/* There is no room for the copies: the repair does not start. */
static void
has_no_room (struct mem_file *f, uint64_t room)
{
  const struct mem_faults faults = { .free_space = room };
  struct qed_repair_result r;

  mem_set_faults (f, &faults);
  CHECK_FAILS (repair (f, QED_REPAIR_ALL, &r), ENOSPC, MEM_NAME);
  mem_set_faults (f, NULL);
  CHECK_OP (mem_bytes (f, MEM_PWRITE), <=, 1000);
  CHECK_OP (mem_bytes (f, MEM_PREAD), <=, 2 << 20);
}

static void
test_free_space (void)
{
  const struct mem_faults enough = { .free_space = 99 * CLUSTER };
  struct mem_file *f = mem_file_new ();
  const char *why;
  struct before b;
  struct model m;
  uint64_t data;

  model_create (&m, f, 4096, 16, 8192 * 8192 * CLUSTER);
  data = model_data (&m, 0);
  for (uint64_t i = 1; i < 100; i++)
    model_set (&m, i, data);
  take_before (&b, f, QED_REPAIR_ALL);
  has_no_room (f, enough.free_space - 1);
  mem_set_faults (f, &enough);
  why = check_interrupted (&b, f);
  if (why)
    harness_fail (__FILE__, __LINE__, "%s", why);
  free_before (&b);

  /* The most work that so few bytes can cause; it doesn't take long. */
  for (uint64_t i = 1; i < model_entries (&m); i++)
    model_set_l1 (&m, i, model_get_l1 (&m, 0));
  has_no_room (f, 8191 * 16 * CLUSTER - 1);
  mem_file_free (f);
}

struct seen {
  unsigned calls;
  uint64_t done, total;
};

static void
see_progress (void *opaque, uint64_t done, uint64_t total)
{
  struct seen *s = opaque;

  CHECK_OP (done, <=, total);
  if (s->calls++ > 0) {
    CHECK_OP (done, >=, s->done);
    CHECK_EQ (total, s->total);
  }
  s->done = done;
  s->total = total;
}

static void
test_progress (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;

  for (uint64_t seed = 0; seed < 20; seed++)
    for (int again = 0; again < 2; again++) {
      struct seen seen = { 0 };
      const struct qed_progress progress = { see_progress, &seen };
      const struct qed_check_options opts = { .progress = &progress };
      struct qed_storage *st = mem_open (f);
      struct qed_repair_result r;

      CONTEXT ("seed %" PRIu64, seed);
      if (!again)
        make_random (&m, f, seed, ALL_DAMAGES, 20);
      CHECK_EQ (qed_repair (st, QED_REPAIR_ALL, &opts, &r), 0);
      qed_storage_close (st);
      CHECK_OP (seen.calls, >, 0);
      CHECK_EQ (seen.done, seen.total);
    }
  mem_file_free (f);
}

/* ---- faults ---- */

/* Repair with the K-th call of an operation failing, and COUNT in all.
 * Returns false if there weren't so many.
 */
static bool
repair_with_fault (uint64_t seed, enum mem_op op, uint64_t k, uint64_t count,
                   int err)
{
  const struct mem_faults faults = {
    .op = op, .first = k, .count = count, .err = err,
  };
  struct mem_file *f = mem_file_new ();
  struct qed_repair_result r;
  const char *why = NULL;
  struct before b;
  struct model m;
  int ret;

  CONTEXT ("seed %" PRIu64 ", call %" PRIu64 " of %d, errno %d", seed, k,
           (int) op, err);
  make_random (&m, f, seed, seed % 3 ? ALL_DAMAGES : 0, 15);
  take_before (&b, f, QED_REPAIR_ALL);
  mem_set_faults (f, &faults);
  errno = 0;
  ret = repair (f, QED_REPAIR_ALL, &r);
  if (ret == -1) {
    CHECK_EQ (errno, err);
    CHECK (strstr (qed_get_error (), MEM_NAME));
  }
  else                          /* these operations have a fallback */
    CHECK (mem_calls (f, op) < k || op == MEM_PUNCH || op == MEM_ZERO ||
           op == MEM_NEXT_EXTENT || op == MEM_PREFETCH);
  mem_set_faults (f, NULL);
  why = ret == -1 ? check_interrupted (&b, f) : check_repaired (&b, f);
  if (why)
    harness_fail (__FILE__, __LINE__, "%s", why);
  free_before (&b);
  mem_file_free (f);
  return ret == -1 || k == 1;
}

static void
all_faults (enum mem_op op, int err)
{
  for (uint64_t seed = 0; seed < rounds (3); seed++)
    for (uint64_t count = 1; count != 0; count = count == 1 ? UINT64_MAX : 0)
      for (uint64_t k = 1; repair_with_fault (seed, op, k, count, err); k++)
        ;
}

static void
test_read_faults (void)
{
  all_faults (MEM_PREAD, EIO);
  all_faults (MEM_GET_SIZE, EIO);
}

static void
test_write_faults (void)
{
  all_faults (MEM_PWRITE, EIO);
  all_faults (MEM_PWRITE, ENOSPC);
}

static void
test_resize_faults (void)
{
  all_faults (MEM_RESIZE, EIO);
  all_faults (MEM_RESIZE, ENOSPC);
}

static void
test_sync_faults (void)
{
  all_faults (MEM_SYNC, EIO);
  all_faults (MEM_SYNC, ENOSPC);
}

static void
test_other_faults (void)
{
  all_faults (MEM_PUNCH, EIO);
  all_faults (MEM_PUNCH, EOPNOTSUPP);
  all_faults (MEM_NEXT_EXTENT, EIO);
  all_faults (MEM_PREFETCH, EIO);
}

static void
test_device_faults (void)
{
  behind = DEVICE_BYTES;
  all_faults (MEM_PWRITE, ENOSPC);
  all_faults (MEM_SYNC, EIO);
  all_faults (MEM_PUNCH, EIO);
  behind = 0;
}

/* There is no room for copies at the end of the file. */
static ssize_t
no_room (void *opaque, enum mem_op op, uint64_t offset, size_t count)
{
  const uint64_t *end = opaque;

  if (op != MEM_PWRITE || offset < *end)
    return (ssize_t) count;
  errno = ENOSPC;
  return -1;
}

/* The file is as long as before, so that it doesn't fill the filesystem. */
static void
test_full (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_repair_result r;
  struct before b;
  struct model m;
  const char *why;
  uint64_t end;

  make_leaky (&m, f);
  model_set (&m, 2, model_get64 (&m, model_get_l1 (&m, 0)));
  end = mem_size (f);
  mem_truncate (f, end + 100);
  take_before (&b, f, QED_REPAIR_ALL);
  mem_set_hook (f, no_room, &end);
  CHECK_FAILS (repair (f, QED_REPAIR_ALL, &r), ENOSPC, MEM_NAME);
  CHECK_EQ (mem_size (f), end);
  mem_set_hook (f, NULL, NULL);
  why = check_interrupted (&b, f);
  if (why)
    harness_fail (__FILE__, __LINE__, "%s", why);
  free_before (&b);
  mem_file_free (f);
}

static void
test_short_transfers (void)
{
  const struct mem_faults faults = {
    .max_transfer = 100, .eintr_every = 5, .no_punch = true, .no_zero = true,
  };
  struct mem_file *f = mem_file_new ();
  struct model m;

  for (uint64_t seed = 0; seed < rounds (20); seed++) {
    CONTEXT ("seed %" PRIu64, seed);
    make_random (&m, f, seed, ALL_DAMAGES, 20);
    mem_set_faults (f, &faults);
    repair_well (f, QED_REPAIR_ALL);
    mem_set_faults (f, NULL);
  }
  mem_file_free (f);
}

/* Returns false if there weren't K allocations. */
static bool
repair_without_memory (uint64_t seed, unsigned k)
{
  struct mem_file *f = mem_file_new ();
  struct qed_repair_result r;
  const char *why;
  struct before b;
  struct model m;
  bool failed;
  int ret;

  CONTEXT ("seed %" PRIu64 ", allocation %u", seed, k);
  make_random (&m, f, seed, ALL_DAMAGES, 20);
  take_before (&b, f, QED_REPAIR_ALL);
  alloc_fail (k);
  ret = repair (f, QED_REPAIR_ALL, &r);
  failed = alloc_failed ();
  alloc_fail (0);
  if (ret == -1)
    CHECK (failed && errno == ENOMEM);
  why = ret == -1 ? check_interrupted (&b, f) : check_repaired (&b, f);
  if (why)
    harness_fail (__FILE__, __LINE__, "%s", why);
  free_before (&b);
  mem_file_free (f);
  return failed;
}

static void
test_no_memory (void)
{
  for (uint64_t seed = 0; seed < rounds (2); seed++)
    for (unsigned k = 1; repair_without_memory (seed, k); k++)
      ;
}

/* ---- crashes ---- */

static uint64_t states_checked;

static void
report_states (void)
{
  printf ("  %" PRIu64 " states\n", states_checked);
  states_checked = 0;
}

/* Repair F, and record it. */
static struct recorder *
record (struct mem_file *f, struct before *b, enum qed_repair what,
        enum recorder_lie lie)
{
  struct recorder *r;
  struct qed_repair_result result;
  struct qed_storage *st;

  take_before (b, f, what);
  r = recorder_new (f, lie);
  st = recorder_open (r);
  CHECK_EQ (qed_repair (st, what, NULL, &result), 0);
  qed_storage_close (st);
  return r;
}

/* Look at about MAX states.  Returns NULL, or what is wrong with the state
 * whose cut *BAD gets.
 */
static const char *
check_states (struct recorder *r, const struct before *b, uint64_t max,
              uint64_t seed, size_t *bad)
{
  static const enum recorder_keep keeps[] = {
    KEEP_NOTHING, KEEP_ALL, KEEP_SOME, KEEP_SOME, KEEP_SOME, KEEP_SOME,
  };
  const size_t n_keeps = sizeof keeps / sizeof keeps[0];
  struct rng rng = { seed }, choice = { ~seed };
  const char *why = NULL;

  for (size_t cut = 0; cut <= recorder_length (r) && !why; cut++)
    for (size_t i = 0;
         i < n_keeps && !recorder_same_as_next (r, cut) && !why; i++) {
      struct mem_file *f;

      if (rng_below (&choice, (recorder_length (r) + 1) * n_keeps) >= max)
        continue;
      f = mem_file_new ();
      recorder_rebuild (r, cut, keeps[i], &rng, f);
      why = cut == recorder_length (r) ? check_repaired (b, f) :
        check_interrupted (b, f);
      *bad = cut;
      states_checked++;
      mem_file_free (f);
    }
  return why;
}

/* Make F a state that one of the crashes leaves. */
static void
crash_somewhere (struct recorder *r, struct rng *rng, struct mem_file *f)
{
  size_t cut = rng_below (rng, recorder_length (r) + 1);

  mem_truncate (f, 0);
  recorder_rebuild (r, cut, KEEP_SOME, rng, f);
}

/* Check and free. */
static void
all_states_are_good (struct recorder *r, struct before *b, uint64_t max,
                     uint64_t seed)
{
  size_t cut;
  const char *why = check_states (r, b, max, seed, &cut);

  if (why) {
    recorder_print (r, cut, stderr);
    harness_fail (__FILE__, __LINE__, "crash at %zu: %s", cut, why);
  }
  recorder_free (r);
  free_before (b);
}

/* Crashes of the repair of random images, and of the repair after that, and
 * once more.
 */
static void
crashes (uint64_t wanted, unsigned damages, enum qed_repair what)
{
  for (uint64_t seed = 0; states_checked < wanted; seed++) {
    struct mem_file *f = mem_file_new ();
    struct rng rng = { seed };
    struct model m;

    make_random (&m, f, seed, damages, 10 + seed % 10);
    for (unsigned depth = 0; depth < 3; depth++) {
      struct before b;
      struct recorder *r = record (f, &b, what, LIE_NONE);

      CONTEXT ("seed %" PRIu64 ", depth %u", seed, depth);
      crash_somewhere (r, &rng, f);
      all_states_are_good (r, &b, 200, seed);
    }
    mem_file_free (f);
  }
  report_states ();
}

static void
test_crash_leaks (void)
{
  crashes (recorder_states_wanted (10), 0, QED_REPAIR_LEAKS);
}

static void
test_crash_unsound (void)
{
  crashes (recorder_states_wanted (5), 1U << QED_DAMAGE_UNSOUND,
           QED_REPAIR_ALL);
}

static void
test_crash_tables (void)
{
  crashes (recorder_states_wanted (10), 1U << QED_DAMAGE_SHARED_TABLE |
           1U << QED_DAMAGE_IN_TABLE, QED_REPAIR_ALL);
}

static void
test_crash_all (void)
{
  crashes (recorder_states_wanted (10), ALL_DAMAGES, QED_REPAIR_ALL);
}

static void
test_crash_device (void)
{
  behind = DEVICE_BYTES;
  crashes (recorder_states_wanted (5), 0, QED_REPAIR_LEAKS);
  crashes (recorder_states_wanted (5), ALL_DAMAGES, QED_REPAIR_ALL);
  behind = 0;
}

/* The file grows for the copy of a table that isn't followed, and entries of
 * that table point past the old end: no other data may be put there.
 */
static void
test_crash_growing (void)
{
  for (unsigned i = 0; i < 4; i++) {
    struct mem_file *f = mem_file_new ();
    struct before b;
    struct model m;
    uint64_t table;

    CONTEXT ("%u", i);
    model_create (&m, f, 4096, 2, 5000 * CLUSTER);
    model_data (&m, 0);
    table = model_get_l1 (&m, 0);
    model_append (&m, 2);
    model_set_l1 (&m, 1, table + CLUSTER);
    /* In both, so that the copy isn't zeros. */
    model_set (&m, 512, 1);
    /* In the second one's own cluster, which is data if I is odd. */
    mem_write (f, &(uint8_t[CLUSTER]) { 0 }, CLUSTER, table + 2 * CLUSTER);
    model_put64 (&m, table + 2 * CLUSTER, mem_size (f));
    model_put64 (&m, table + 2 * CLUSTER + 8, mem_size (f) + CLUSTER);
    if (i % 2 == 0)
      model_set (&m, 0, 0);
    if (i / 2)
      model_set_l1 (&m, 2, table);
    all_states_are_good (record (f, &b, QED_REPAIR_ALL, LIE_NONE), &b,
                         recorder_states_wanted (10), i);
    mem_file_free (f);
  }
  report_states ();
}

/* The same in a table that is followed: they are cleared before, for good. */
static void
test_crash_clearing (void)
{
  struct mem_file *f = mem_file_new ();
  struct before b;
  struct model m;

  model_create (&m, f, 4096, 1, 1000 * CLUSTER);
  model_set (&m, 1, model_data (&m, 0));
  for (unsigned i = 0; i < 4; i++)
    model_set (&m, 10 + i, mem_size (f) + i * CLUSTER);
  all_states_are_good (record (f, &b, QED_REPAIR_ALL, LIE_NONE), &b,
                       recorder_states_wanted (10), 0);
  mem_file_free (f);
  report_states ();
}

/* Clusters must be moved out of the way, in most cases for the L1 table. */
static void
test_crash_no_hole (void)
{
  for (unsigned i = 0; i < 10; i++) {
    enum l1_place l1 = i < NR_L1_PLACES ? (enum l1_place) i : L1_IN_HOLE;
    struct mem_file *f = mem_file_new ();
    struct before b;
    struct model m;

    CONTEXT ("%u", i);
    make_no_hole (&m, f, 1 + i % 2, 8, l1);
    all_states_are_good (record (f, &b, QED_REPAIR_LEAKS, LIE_NONE), &b,
                         recorder_states_wanted (1), i);
    mem_file_free (f);
  }
  report_states ();
}

/* ---- lies ---- */

/* With a storage that lies the check fails for one of the images, with a
 * description that begins with WORDS.
 */
static void
is_noticed (enum recorder_lie lie, unsigned damages, const char *words)
{
  bool noticed = false;

  for (uint64_t seed = 0; seed < 100 && !noticed; seed++) {
    struct mem_file *f = mem_file_new ();
    struct recorder *r;
    const char *why;
    struct before b;
    struct model m;
    size_t cut;

    make_random (&m, f, seed, damages, 15);
    r = record (f, &b, QED_REPAIR_ALL, lie);
    why = check_states (r, &b, 200, seed, &cut);
    noticed = why && strncmp (why, words, strlen (words)) == 0;
    if (noticed)
      printf ("  seed %" PRIu64 ", crash at %zu: %s\n", seed, cut, why);
    recorder_free (r);
    free_before (&b);
    mem_file_free (f);
  }
  CHECK (noticed);
  states_checked = 0;
}

static void
test_lie_sync (void)
{
  is_noticed (LIE_SYNC, 0, "content:");
  is_noticed (LIE_SYNC, ALL_DAMAGES, "clean");
}

static void
test_lie_late_entries (void)
{
  is_noticed (LIE_LATE_ENTRIES, 0, "content:");
}

static void
test_lie_early_entries (void)
{
  is_noticed (LIE_EARLY_ENTRIES, 0, "content:");
}

static void
test_lie_dirty_unsynced (void)
{
  is_noticed (LIE_DIRTY_UNSYNCED, 0, "clean, but");
}

static void
test_lie_clean_early (void)
{
  is_noticed (LIE_CLEAN_EARLY, 0, "clean");
}

HARNESS_MAIN (
  TEST (test_leaks),
  TEST (test_each_damage),
  TEST (test_all_damages),
  TEST (test_geometries),
  TEST (test_large),
  TEST (test_counts),
  TEST (test_no_contiguous_hole),
  TEST (test_data_in_shared_table),
  TEST (test_data_taken_for_table),
  TEST (test_stays_unsound),
  TEST (test_header_bits),
  TEST (test_device),
  TEST (test_device_full),
  TEST (test_not_writable),
  TEST (test_free_space),
  TEST (test_progress),
  TEST (test_read_faults),
  TEST (test_write_faults),
  TEST (test_resize_faults),
  TEST (test_sync_faults),
  TEST (test_other_faults),
  TEST (test_device_faults),
  TEST (test_full),
  TEST (test_short_transfers),
  TEST (test_no_memory),
  TEST (test_crash_leaks),
  TEST (test_crash_unsound),
  TEST (test_crash_tables),
  TEST (test_crash_all),
  TEST (test_crash_device),
  TEST (test_crash_growing),
  TEST (test_crash_clearing),
  TEST (test_crash_no_hole),
  TEST (test_lie_sync),
  TEST (test_lie_late_entries),
  TEST (test_lie_early_entries),
  TEST (test_lie_dirty_unsynced),
  TEST (test_lie_clean_early),
)
