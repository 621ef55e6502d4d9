/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* qed_check finds every kind of damage and leak: its results equal numbers
 * that are given here, and those of the simple check in damage.h.  It reports
 * an image that it can't check and every read that fails, and its reads and
 * memory stay bounded however large a disk the tables describe.
 */

#include <config.h>

#include "alloc.h"
#include "damage.h"

#define CLUSTER UINT64_C (4096)

static struct qed_check_result
check (struct mem_file *f)
{
  struct qed_storage *st = mem_open (f);
  struct qed_check_result r;

  CHECK_EQ (qed_check (st, NULL, &r), 0);
  qed_storage_close (st);
  return r;
}

static int
check_fails (struct mem_file *f)
{
  struct qed_storage *st = mem_open (f);
  struct qed_check_result r;
  int ret = qed_check (st, NULL, &r), err = errno;

  qed_storage_close (st);
  errno = err;
  return ret;
}

/* ---- directed ---- */

/* A disk of 3 tables in the smallest geometry: header, L1, a table, two data
 * clusters, a table, data.
 */
static void
make_sound (struct model *m, struct mem_file *f)
{
  model_create (m, f, 4096, 1, 3 * 512 * CLUSTER - 512);
  model_data (m, 0);
  model_data (m, 1);
  model_data (m, 512);
  model_set (m, 513, 1);
}

static void
test_sound (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_check_result r;
  struct model m;

  make_sound (&m, f);
  r = check (f);
  CHECK_EQ (r.corruptions, 0);
  CHECK_EQ (r.leaks, 0);
  CHECK_EQ (r.total_clusters, 3 * 512);
  CHECK_EQ (r.allocated_clusters, 3);
  CHECK_EQ (r.fragmented_clusters, 0);
  CHECK_EQ (r.zero_clusters, 1);
  CHECK_EQ (r.end, 7 * CLUSTER);
  CHECK_EQ (r.file_size, 7 * CLUSTER);
  CHECK (!r.need_check);
  compare_check (f, false);

  m.h.features = QED_F_NEED_CHECK;
  model_write_header (&m);
  CHECK (check (f).need_check);

  /* A part of a cluster isn't one. */
  mem_truncate (f, 8 * CLUSTER - 1);
  r = check (f);
  CHECK_EQ (r.leaks, 0);
  CHECK_EQ (r.file_size, 8 * CLUSTER - 1);
  mem_file_free (f);
}

static void
test_empty (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_check_result r;
  struct model m;

  model_create (&m, f, 1 << 26, 16, 0);
  r = check (f);
  CHECK_EQ (r.corruptions + r.leaks + r.total_clusters + r.allocated_clusters +
            r.fragmented_clusters, 0);
  CHECK_EQ (r.end, UINT64_C (17) << 26);
  CHECK_EQ (r.file_size, r.end);
  mem_file_free (f);
}

/* Fragmentation within one table: a cluster that isn't next to the one before
 * it in the file, whatever lies between the two.
 */
static void
test_fragmented (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_check_result r;
  struct model m;
  uint64_t a;

  make_sound (&m, f);
  model_set (&m, 2, 1);
  model_set (&m, 9, model_append (&m, 1));
  a = model_append (&m, 2);
  model_set (&m, 20, a + CLUSTER);
  model_set (&m, 21, a);
  model_set (&m, 514, model_append (&m, 1));
  model_append (&m, 1);
  model_set (&m, 1024, model_append (&m, 1));
  r = check (f);
  CHECK_EQ (r.fragmented_clusters, 4);
  CHECK_EQ (r.allocated_clusters, 8);
  CHECK_EQ (r.corruptions, 0);
  compare_check (f, false);
  mem_file_free (f);
}

static void
test_leaks (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_check_result r;
  struct model m;

  make_sound (&m, f);
  model_append (&m, 5);
  model_data (&m, 7);
  model_set_l1 (&m, 1, 0);      /* a table, data */
  CHECK_EQ (check (f).leaks, 7);
  compare_check (f, false);

  model_append (&m, 3);
  mem_truncate (f, mem_size (f) + 100);
  r = check (f);
  CHECK_EQ (r.leaks, 10);
  CHECK_EQ (r.end, 13 * CLUSTER);
  CHECK_EQ (r.file_size, 16 * CLUSTER + 100);
  compare_check (f, true);      /* 7 in the bounds of a device */
  mem_file_free (f);
}

/* The old L1 table and the clusters before the new one are leaks. */
static void
test_l1_anywhere (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_check_result r;
  struct model m;

  model_create_at (&m, f, 4096, 2, 3, 5, 10 * CLUSTER);
  model_data (&m, 3);
  r = check (f);
  CHECK_EQ (r.leaks, 2);
  CHECK_EQ (r.end, 10 * CLUSTER);
  damage_move_l1 (&m);
  r = check (f);
  CHECK_EQ (r.leaks, 4);
  CHECK_EQ (r.end, 12 * CLUSTER);
  CHECK_EQ (r.allocated_clusters, 1);
  compare_check (f, false);
  mem_file_free (f);
}

struct ranges {
  unsigned n;
  enum qed_damage damage;
  uint64_t offset, length;
};

static void
remember (void *opaque, enum qed_damage damage, uint64_t offset,
          uint64_t length, uint64_t file_offset __attribute__ ((unused)))
{
  struct ranges *r = opaque;

  r->n++;
  r->damage = damage;
  r->offset = offset;
  r->length = length;
}

/* There is exactly one damaged entry, with this range, cut at the disk's end.
 */
static void
is_damaged (struct mem_file *f, enum qed_damage damage, uint64_t offset,
            uint64_t length)
{
  struct ranges ranges = { 0 };
  const struct qed_check_options opts = {
    .damage = remember, .opaque = &ranges,
  };
  struct qed_storage *st = mem_open (f);
  struct qed_check_result r;

  CHECK_EQ (qed_check (st, &opts, &r), 0);
  qed_storage_close (st);
  CHECK_EQ (r.corruptions, 1);
  CHECK_EQ (r.damages[damage], 1);
  CHECK_EQ (ranges.n, 1);
  CHECK_EQ (ranges.damage, damage);
  CHECK_EQ (ranges.offset, offset);
  CHECK_EQ (ranges.length, length);
  compare_check (f, false);
}

/* The same for entries whose sums of offsets would overflow. */
static void
test_unsound (void)
{
  static const uint64_t values[] = {
    2, 4095, 0x1000 /* L1 */, 0x2000 /* the table */, 7 * CLUSTER,
    3 * CLUSTER + 1, 8 * CLUSTER, UINT64_C (1) << 62,
    (UINT64_C (1) << 63) - CLUSTER, UINT64_C (1) << 63, 0 - CLUSTER,
    UINT64_MAX, UINT64_MAX - 511,
  };
  struct mem_file *f = mem_file_new ();
  struct model m;

  for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
    make_sound (&m, f);
    model_set (&m, 5, values[i]);
    is_damaged (f, QED_DAMAGE_UNSOUND, 5 * CLUSTER, CLUSTER);
    if (values[i] == 2 * CLUSTER)
      continue;
    make_sound (&m, f);
    model_set_l1 (&m, 2, values[i]);
    is_damaged (f, QED_DAMAGE_UNSOUND, 1024 * CLUSTER, 512 * CLUSTER - 512);
  }
  make_sound (&m, f);
  model_set_l1 (&m, 2, 1);      /* no zero cluster in L1 */
  is_damaged (f, QED_DAMAGE_UNSOUND, 1024 * CLUSTER, 512 * CLUSTER - 512);
  mem_file_free (f);
}

static void
test_shared_table (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;

  make_sound (&m, f);
  model_set_l1 (&m, 2, model_get_l1 (&m, 0));
  is_damaged (f, QED_DAMAGE_SHARED_TABLE, 1024 * CLUSTER,
              512 * CLUSTER - 512);

  /* Overlap in one cluster of 4, from both sides. */
  for (int up = 0; up < 2; up++) {
    model_create (&m, f, 4096, 4, 3 * 2048 * CLUSTER);
    model_append (&m, 5);
    model_set (&m, 0, 1);
    model_append (&m, 5);
    model_set_l1 (&m, 1, model_get_l1 (&m, 0) +
                  (up ? 3 * CLUSTER : 0 - 3 * CLUSTER));
    is_damaged (f, QED_DAMAGE_SHARED_TABLE, 2048 * CLUSTER, 2048 * CLUSTER);
    CHECK_EQ (check (f).leaks, 10);
  }
  mem_file_free (f);
}

static void
test_in_table (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;

  make_sound (&m, f);
  model_set (&m, 5, model_get_l1 (&m, 1));
  is_damaged (f, QED_DAMAGE_IN_TABLE, 5 * CLUSTER, CLUSTER);
  make_sound (&m, f);           /* of a table that is read before */
  model_set (&m, 515, model_get_l1 (&m, 0));
  is_damaged (f, QED_DAMAGE_IN_TABLE, 515 * CLUSTER, CLUSTER);
  mem_file_free (f);
}

static void
test_shared_data (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_check_result r;
  struct model m;

  make_sound (&m, f);
  model_set (&m, 5, 3 * CLUSTER);
  is_damaged (f, QED_DAMAGE_SHARED_DATA, 5 * CLUSTER, CLUSTER);
  model_set (&m, 6, 3 * CLUSTER);
  model_set (&m, 600, 3 * CLUSTER);
  r = check (f);
  CHECK_EQ (r.damages[QED_DAMAGE_SHARED_DATA], 3);
  CHECK_EQ (r.corruptions, 3);
  CHECK_EQ (r.allocated_clusters, 6);
  CHECK_EQ (r.leaks, 0);
  mem_file_free (f);
}

/* Entries beyond the end of the disk count too. */
static void
test_beyond_disk (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_check_result r;
  struct model m;

  model_create (&m, f, 4096, 1, 512);
  model_data (&m, 0);
  model_data (&m, 1);
  model_data (&m, 512 * 511 + 511);
  r = check (f);
  CHECK_EQ (r.corruptions + r.leaks, 0);
  CHECK_EQ (r.total_clusters, 1);
  CHECK_EQ (r.allocated_clusters, 3);
  model_set (&m, 512 * 511, 4097);
  CHECK_EQ (check (f).damages[QED_DAMAGE_UNSOUND], 1);
  compare_check (f, false);
  mem_file_free (f);
}

/* The last cluster that a file can have. */
static void
test_end_of_numbers (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;

  FOR_ALL_GEOMETRIES (cs, ts) {
    uint64_t end = INT64_MAX / cs * cs;

    model_create (&m, f, (uint32_t) cs, (uint32_t) ts, 4096);
    model_set (&m, 0, end - cs);
    mem_truncate (f, INT64_MAX);
    CONTEXT ("clusters %" PRIu64 " * %" PRIu64, cs, ts);
    CHECK_EQ (check (f).end, end);
    CHECK_EQ (check (f).leaks, end / cs - 2 - 2 * ts);
    compare_check (f, false);
    model_set (&m, 0, 1);
    model_set_l1 (&m, 1, end - cs * ts);
    model_set (&m, model_entries (&m), end - cs);
    is_damaged (f, QED_DAMAGE_UNSOUND, model_entries (&m) * cs, 0);
  }
  mem_file_free (f);
}

/* ---- random ---- */

static unsigned
rounds (unsigned n)
{
  return getenv ("NBDKIT_VALGRIND") ? n / 10 + 1 : n;
}

static void
test_random (void)
{
  struct mem_file *f = mem_file_new ();
  unsigned n = rounds (12);

  FOR_ALL_GEOMETRIES (cs, ts)
    for (uint64_t seed = 0; seed < n; seed++) {
      struct rng rng = { seed * 1000 + cs + ts };
      struct model m;

      CONTEXT ("clusters %" PRIu64 " * %" PRIu64 ", seed %" PRIu64, cs, ts,
               seed);
      damage_random (&m, f, &rng, (uint32_t) cs, (uint32_t) ts,
                     seed % 3 ? ALL_DAMAGES : 1U << seed % QED_NR_DAMAGES, 30);
      compare_check (f, seed % 2);
    }
  mem_file_free (f);
}

/* The file is cut anywhere: entries past its end are unsound. */
static void
test_random_cut (void)
{
  struct mem_file *f = mem_file_new ();
  unsigned n = rounds (300);

  for (uint64_t seed = 0; seed < n; seed++) {
    struct rng rng = { seed };
    struct model m;
    uint64_t least;

    damage_random (&m, f, &rng, 4096 << seed % 2, 1 << seed % 5, seed % 16,
                   20);
    least = m.h.l1_table_offset + model_table_bytes (&m);
    mem_truncate (f, least + rng_below (&rng, mem_size (f) - least + 1));
    compare_check (f, seed % 2);
  }
  mem_file_free (f);
}

static void
test_large (void)
{
  struct mem_file *f = mem_file_new ();
  struct rng rng = { 5 };
  struct model m;

  damage_random (&m, f, &rng, 4096, 4, ALL_DAMAGES, rounds (5000));
  compare_check (f, false);
  mem_file_free (f);
}

/* ---- images that can't be checked ---- */

static void
test_invalid (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;

  make_sound (&m, f);
  m.h.features = 8;
  model_write_header (&m);
  CHECK_FAILS (check_fails (f), ENOTSUP, MEM_NAME);
  m.h.features = 0;
  m.h.table_size = 3;
  model_write_header (&m);
  CHECK_FAILS (check_fails (f), EINVAL, MEM_NAME);
  mem_write (f, "QEE", 3, 0);
  CHECK_FAILS (check_fails (f), EINVAL, MEM_NAME);
  mem_truncate (f, 0);
  CHECK_FAILS (check_fails (f), EINVAL, MEM_NAME);
  mem_file_free (f);
}

/* ---- faults ---- */

static void
make_random (struct mem_file *f, uint64_t seed)
{
  struct rng rng = { seed };
  struct model m;

  damage_random (&m, f, &rng, 4096, 2, ALL_DAMAGES, 40);
}

static void
set_fault (struct mem_file *f, enum mem_op op, uint64_t first, uint64_t count)
{
  const struct mem_faults faults = {
    .op = op, .first = first, .count = count, .err = EIO,
  };

  mem_set_faults (f, &faults);
}

/* Each read that fails is an error.  A failure to find holes is not: holes
 * are only a hint.
 */
static void
test_read_faults (void)
{
  struct mem_file *f = mem_file_new ();
  uint64_t reads, k;

  for (uint64_t seed = 0; seed < 5; seed++) {
    make_random (f, seed);
    mem_reset_counters (f);
    check (f);
    reads = mem_calls (f, MEM_PREAD);
    CHECK_OP (reads, >, 2);
    for (k = 1; k <= reads; k++) {
      CONTEXT ("seed %" PRIu64 ", read %" PRIu64, seed, k);
      set_fault (f, MEM_PREAD, k, 1);
      CHECK_FAILS (check_fails (f), EIO, MEM_NAME);
      mem_set_faults (f, NULL);
      CHECK_EQ (mem_open_storages (f), 0);
    }
    set_fault (f, MEM_GET_SIZE, 1, 1);
    CHECK_FAILS (check_fails (f), EIO, MEM_NAME);
    set_fault (f, MEM_NEXT_EXTENT, 1, UINT64_MAX);
    compare_check (f, false);
    set_fault (f, MEM_PREFETCH, 1, UINT64_MAX);
    compare_check (f, false);
    mem_set_faults (f, NULL);
  }
  mem_file_free (f);
}

static void
test_short_reads (void)
{
  struct mem_file *f = mem_file_new ();

  make_random (f, 7);
  mem_set_faults (f, &(struct mem_faults) {
      .max_transfer = 100, .eintr_every = 3 });
  compare_check (f, false);
  mem_set_faults (f, NULL);
  mem_file_free (f);
}

/* The file is truncated during the check: that is an error, not damage. */
static ssize_t
end_of_file (void *opaque, enum mem_op op,
             uint64_t offset __attribute__ ((unused)), size_t count)
{
  unsigned *reads = opaque;

  return op == MEM_PREAD && (*reads)-- == 0 ? 0 : (ssize_t) count;
}

static void
test_cut_meanwhile (void)
{
  struct mem_file *f = mem_file_new ();
  unsigned k, reads;

  make_random (f, 3);
  mem_reset_counters (f);
  CHECK_EQ (check_fails (f), 0);
  k = (unsigned) mem_calls (f, MEM_PREAD);
  CHECK_OP (k, >, 3);
  while (k-- > 1) { /* of a file without its header it's no image */
    reads = k;
    mem_set_hook (f, end_of_file, &reads);
    CHECK_FAILS (check_fails (f), EIO, MEM_NAME);
  }
  mem_file_free (f);
}

static void
test_no_memory (void)
{
  struct mem_file *f = mem_file_new ();
  unsigned k = 0, failed = 1;
  struct qed_storage *st;

  make_random (f, 2);
  st = mem_open (f);
  while (failed) {
    struct qed_check_result r;
    int64_t before = alloc_bytes ();
    int ret;

    CONTEXT ("allocation %u", ++k);
    alloc_fail (k);
    errno = 0;
    ret = qed_check (st, NULL, &r);
    failed = alloc_failed ();
    alloc_fail (0);
    CHECK (ret == (failed ? -1 : 0) && (!failed || errno == ENOMEM));
    CHECK_EQ (alloc_bytes (), before);
  }
  CHECK_OP (k, >, 2);
  qed_storage_close (st);
  mem_file_free (f);
}

/* ---- costs ---- */

/* The largest L1 table, all of whose entries point to one L2 table: that is
 * read once.
 */
static void
test_table_read_once (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_check_result r;
  struct model m;

  model_create (&m, f, 4096, 16, UINT64_C (1) << 38);
  for (uint64_t i = 0; i < model_entries (&m); i++)
    model_data (&m, 0);
  for (uint64_t i = 1; i < model_entries (&m); i++)
    model_set_l1 (&m, i, model_get_l1 (&m, 0));
  mem_reset_counters (f);
  r = check (f);
  CHECK_EQ (r.damages[QED_DAMAGE_SHARED_TABLE], model_entries (&m) - 1);
  CHECK_EQ (r.leaks, model_entries (&m) - 1);
  CHECK_OP (mem_bytes (f, MEM_PREAD), <=, 8 * model_table_bytes (&m));
  CHECK_OP (mem_calls (f, MEM_ANY), <=, 100);
  mem_file_free (f);
}

/* Memory for two sets, a bitmap of all L1 entries, and buffers. */
static int64_t
memory (const struct model *m)
{
  return (2 << 25) + (int64_t) model_entries (m) / 8 + (3 << 20);
}

/* A file of 2^51 clusters, with data in N places. */
static void
make_sparse (struct model *m, struct mem_file *f, unsigned n)
{
  struct rng rng = { n };

  model_create (m, f, 4096, 1, 512 * 512 * CLUSTER);
  for (unsigned i = 0; i < n; i++) {
    uint64_t part = INT64_MAX / n / CLUSTER;
    uint64_t at = (i * part + rng_below (&rng, part - 1) + 10) * CLUSTER;

    if (i % 5 == 0)
      model_set_l1 (m, 10 + i, at);
    else
      model_set (m, i, at);
  }
  model_set (m, n, model_get_l1 (m, 10));
  mem_truncate (f, INT64_MAX);
}

static void
check_sparse (unsigned n)
{
  struct mem_file *f = mem_file_new ();
  struct qed_check_result r;
  struct model m;
  int64_t before;

  make_sparse (&m, f, n);
  before = alloc_bytes ();
  alloc_reset_peak ();
  mem_reset_counters (f);
  r = check (f);
  printf ("  %u places: %" PRIu64 " calls, %" PRIu64 " bytes read, %" PRIi64
          " bytes of memory\n", n, mem_calls (f, MEM_ANY),
          mem_bytes (f, MEM_PREAD), alloc_peak () - before);
  CHECK_OP (alloc_peak () - before, <=, memory (&m));
  CHECK_OP (mem_calls (f, MEM_ANY), <=, 20 + 6 * n);
  CHECK_EQ (r.damages[QED_DAMAGE_IN_TABLE], 1);
  compare_check (f, false);
  mem_file_free (f);
}

static void
test_sparse_file (void)
{
  check_sparse (1);
  check_sparse (7);
  check_sparse (30);
  check_sparse (400);
}

/* Holes in tables are not read, however large the tables are. */
static void
test_large_tables (void)
{
  struct mem_file *f = mem_file_new ();
  int64_t before;
  struct model m;

  FOR_ALL_GEOMETRIES (cs, ts) {
    struct rng rng = { cs };

    damage_random (&m, f, &rng, (uint32_t) cs, (uint32_t) ts, ALL_DAMAGES,
                   20);
    before = alloc_bytes ();
    alloc_reset_peak ();
    mem_reset_counters (f);
    check (f);
    CONTEXT ("clusters %" PRIu64 " * %" PRIu64, cs, ts);
    CHECK_OP (alloc_peak () - before, <=, memory (&m));
    CHECK_OP (mem_bytes (f, MEM_PREAD), <=, 1 << 20);
  }
  mem_file_free (f);
}

/* ---- progress ---- */

struct seen {
  unsigned calls;
  uint64_t done, total;
};

static void
see_progress (void *opaque, uint64_t done, uint64_t total)
{
  struct seen *s = opaque;

  CHECK_OP (total, >, 0);
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

  for (uint64_t seed = 0; seed < 20; seed++) {
    struct seen seen = { 0 };
    const struct qed_progress progress = { see_progress, &seen };
    const struct qed_check_options opts = { .progress = &progress };
    struct qed_storage *st = mem_open (f);
    struct qed_check_result r;

    CONTEXT ("seed %" PRIu64, seed);
    make_random (f, seed);
    CHECK_EQ (qed_check (st, &opts, &r), 0);
    qed_storage_close (st);
    CHECK_OP (seen.calls, >, 0);
    CHECK_EQ (seen.done, seen.total);
  }
  mem_file_free (f);
}

/* ---- owners ---- */

struct owners {
  uint64_t clusters, tables;    /* told so far */
  uint64_t file_offset;         /* of the cluster that is asked about */
  const struct model *m;
};

static void
see_owner (void *opaque, uint64_t file_offset, uint64_t file_length,
           bool table, uint64_t offset, uint64_t length)
{
  struct owners *o = opaque;
  const uint64_t cs = o->m->h.cluster_size, size = o->m->h.image_size;
  uint64_t maps = table ? cs * model_entries (o->m) : cs, entry;

  CHECK_OP (file_offset, <, o->file_offset + cs);
  CHECK_OP (o->file_offset, <, file_offset + file_length);
  CHECK_EQ (file_length, table ? model_table_bytes (o->m) : cs);
  CHECK_EQ (length, offset >= size ? 0 : size - offset < maps ?
            size - offset : maps);
  if (table)
    o->tables++;
  else {
    o->clusters++;
    CHECK_EQ (file_offset, o->file_offset);
    CHECK_EQ (model_lookup (o->m, offset / cs, &entry), QED_RUN_DATA);
    CHECK_EQ (entry, file_offset);
  }
}

/* Each cluster with data, which some of have several owners. */
static void
test_owners (void)
{
  struct mem_file *f = mem_file_new ();
  uint64_t shared = 0;

  for (uint64_t seed = 0; seed < 30; seed++) {
    struct rng rng = { seed };
    struct snapshot s;
    struct model m;

    damage_random (&m, f, &rng, 4096, UINT32_C (1) << seed % 3,
                   1U << QED_DAMAGE_SHARED_DATA | 1U << QED_DAMAGE_IN_TABLE,
                   20);
    CHECK (model_open (&m, f));
    snapshot_take (&s, f);
    for (size_t i = 0; i < s.n; i++) {
      struct owners o = {
        .file_offset = s.c[i].file_offset, .m = &m,
      };
      /* Those before and after it make no difference. */
      const struct qed_file_range ranges[3] = {
        { 0, 64 }, { o.file_offset, 4096 }, { INT64_MAX, 1 },
      };
      struct qed_storage *st;
      uint64_t n = 0;

      if (s.c[i].type != QED_RUN_DATA)
        continue;
      for (size_t j = 0; j < s.n; j++)
        n += s.c[j].type == QED_RUN_DATA &&
          s.c[j].file_offset == o.file_offset;
      st = mem_open (f);
      CHECK_EQ (qed_find_owners (st, ranges, 3, see_owner, &o), 0);
      qed_storage_close (st);
      CONTEXT ("seed %" PRIu64 ", cluster at %" PRIu64, seed, o.file_offset);
      CHECK_EQ (o.clusters, n);
      CHECK_EQ (o.tables, s.c[i].in_table);
      shared += n > 1;
    }
    snapshot_free (&s);
  }
  CHECK_OP (shared, >, 10);
  mem_file_free (f);
}

HARNESS_MAIN (
  TEST (test_sound),
  TEST (test_empty),
  TEST (test_fragmented),
  TEST (test_leaks),
  TEST (test_l1_anywhere),
  TEST (test_unsound),
  TEST (test_shared_table),
  TEST (test_in_table),
  TEST (test_shared_data),
  TEST (test_beyond_disk),
  TEST (test_end_of_numbers),
  TEST (test_random),
  TEST (test_random_cut),
  TEST (test_large),
  TEST (test_invalid),
  TEST (test_read_faults),
  TEST (test_short_reads),
  TEST (test_cut_meanwhile),
  TEST (test_no_memory),
  TEST (test_table_read_once),
  TEST (test_owners),
  TEST (test_sparse_file),
  TEST (test_large_tables),
  TEST (test_progress),
)
