/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* A call that walks a whole image does work in proportion to the bytes that
 * the file has on disk, whatever its entries say.  The test has small files
 * made to cost much and counts bytes and operations at the storage; it
 * measures no times.
 */

#include <config.h>

#include "alloc.h"
#include "check.h"
#include "damage.h"
#include "harness.h"

/* ---- files ---- */

#define MIB (UINT64_C (1) << 20)

/* The most there is: clusters of 64 MiB, tables of 1 GiB. */
#define CS (64 * MIB)
#define TS 16

/* The L1 table has isolated blocks of entries, which point to L2 tables that
 * overlap and have one stretch of data in common.
 */
static void
overlapping_tables (struct model *m, struct mem_file *f)
{
  uint64_t at, n = 0;

  model_create (m, f, CS, TS, UINT64_C (1) << 62);
  at = model_append (m, 2 * TS);
  for (uint64_t i = 0; i < 8192; i++)
    model_put64 (m, at + TS * CS - 4 * MIB + 8 * i, at + (40 + i) * CS);
  model_append (m, 8192);
  for (uint64_t block = 0; block < 300; block++)
    for (uint64_t i = 0; i < 16; i++)
      model_set_l1 (m, block * 100000 + i, at + CS * (n++ % TS));
}

/* All L1 entries point to one table, which is a hole. */
static void
one_empty_table (struct model *m, struct mem_file *f)
{
  uint64_t at;

  model_create (m, f, 65536, 16, UINT64_C (1) << 46);
  at = model_append (m, 16);
  for (uint64_t i = 0; i < 8192; i++)
    model_set_l1 (m, i, at);
}

/* The same with a table that has entries, half of them wrong. */
static void
one_full_table (struct model *m, struct mem_file *f)
{
  one_empty_table (m, f);
  for (uint64_t i = 0; i < 8192; i++)
    model_put64 (m, model_get_l1 (m, 0) + 16 * i,
                 i % 2 ? 12345 : model_append (m, 1));
}

/* Each L1 entry has a table of its own, far from the others, in a hole. */
static void
tables_in_holes (struct model *m, struct mem_file *f)
{
  model_create (m, f, 4096, 8, UINT64_C (1) << 36);
  for (uint64_t i = 0; i < 4096; i++)
    model_set_l1 (m, i, (2 * i + 10) * (UINT64_C (1) << 49));
  mem_truncate (f, INT64_MAX);
}

/* Data clusters all over a file of 2^51. */
static void
data_far_apart (struct model *m, struct mem_file *f)
{
  struct rng rng = { 1 };

  model_create (m, f, 4096, 8, UINT64_C (1) << 36);
  model_set (m, 0, 1);
  for (uint64_t i = 1; i < 4096; i++)
    model_put64 (m, model_get_l1 (m, 0) + 8 * i,
                 (i * 500000000000 + rng_below (&rng, 100000)) * 4096);
  mem_truncate (f, INT64_MAX);
}

/* Large clusters, holes, in the second half of a file with as many leaks. */
static void
many_moves (struct model *m, struct mem_file *f)
{
  const uint64_t n = 20000;
  uint64_t at;

  model_create (m, f, CS, 1, UINT64_C (1) << 60);
  model_set (m, 0, 1);
  at = model_append (m, 2 * n);
  for (uint64_t i = 0; i < n; i++)
    model_put64 (m, model_get_l1 (m, 0) + 8 * i, at + (n + i) * CS);
}

/* Each table has an entry that points into the next one, so that it is data of
 * a range, the order of whose copies is given.
 */
static void
tables_in_one_another (struct model *m, struct mem_file *f)
{
  const uint64_t n = 400;

  model_create (m, f, 4096, 16, UINT64_C (1) << 36);
  for (uint64_t i = 0; i < n; i++)
    model_set_l1 (m, i, model_append (m, 16));
  for (uint64_t i = 0; i + 1 < n; i++)
    model_put64 (m, model_get_l1 (m, i), model_get_l1 (m, i + 1));
}

/* All data entries are of one cluster. */
static void
one_data_cluster (struct model *m, struct mem_file *f)
{
  uint64_t at;

  model_create (m, f, CS, 1, UINT64_C (1) << 60);
  model_set (m, 0, 1);
  at = model_append (m, 1);
  for (uint64_t i = 0; i < 8192; i++)
    model_put64 (m, model_get_l1 (m, 0) + 8 * i, at);
}

static const struct family {
  const char *name;
  void (*make) (struct model *m, struct mem_file *f);
} families[] = {
  { "overlapping tables", overlapping_tables },
  { "one empty table", one_empty_table },
  { "one full table", one_full_table },
  { "tables in holes", tables_in_holes },
  { "data far apart", data_far_apart },
  { "many moves", many_moves },
  { "tables in one another", tables_in_one_another },
  { "one data cluster", one_data_cluster },
};
#define NR_FAMILIES (sizeof families / sizeof families[0])

/* ---- calls ---- */

/* Reads and changes nothing. */
static void
do_check (struct mem_file *f)
{
  struct qed_storage *st = mem_open (f);
  struct qed_check_result r;

  CHECK_EQ (qed_check (st, NULL, &r), 0);
  qed_storage_close (st);
}

static int
count_entry (void *opaque, const struct qed_map_entry *e
             __attribute__ ((unused)))
{
  ++*(uint64_t *) opaque;
  return 0;
}

static void
do_map (struct mem_file *f)
{
  struct qed_image *img = qed_open (mem_open (f), QED_MIN_CACHE_SIZE);
  uint64_t n = 0;

  CHECK (img != NULL);
  CHECK_EQ (qed_map_layers (img, 0, qed_get_header (img)->image_size,
                            count_entry, &n), 0);
  CHECK_EQ (qed_close (img), 0);
}

static void
repair (struct mem_file *f, enum qed_repair what)
{
  const struct mem_faults little_room = { .free_space = 64 * MIB };
  struct qed_storage *st = mem_open (f);
  struct qed_repair_result r;

  mem_set_faults (f, &little_room);
  if (qed_repair (st, what, NULL, &r) == -1)
    CHECK (errno == ENOSPC || errno == EFBIG);
  qed_storage_close (st);
}

static void
do_repair_leaks (struct mem_file *f)
{
  repair (f, QED_REPAIR_LEAKS);
}

static void
do_repair_all (struct mem_file *f)
{
  repair (f, QED_REPAIR_ALL);
}

/* The first allocation must know which clusters are in use. */
static void
do_allocate (struct mem_file *f)
{
  const struct qed_write_options opts = { .idle_ms = 0 };
  struct qed_image *img = qed_open (mem_open (f), QED_MIN_CACHE_SIZE);
  uint64_t size;

  CHECK (img != NULL);
  CHECK_EQ (qed_make_writable (img, &opts), 0);
  size = qed_get_header (img)->image_size;
  (void) qed_pwrite (img, "x", 1, size - 1, 0);
  (void) qed_pwrite (img, "x", 1, size / 2, 0);
  CHECK_EQ (qed_close (img), 0);
}

/* An image that was not closed cleanly is checked. */
static void
do_open_dirty (struct mem_file *f)
{
  const struct qed_write_options opts = { .idle_ms = 0 };
  struct qed_image *img;

  mem_write (f, "\2", 1, 16);
  img = qed_open (mem_open (f), QED_MIN_CACHE_SIZE);
  CHECK (img != NULL);
  if (qed_make_writable (img, &opts) == -1)
    CHECK_EQ (errno, EIO);
  CHECK_EQ (qed_close (img), 0);
}

static void
resize (struct mem_file *f, bool shrink)
{
  const struct qed_write_options opts = { .idle_ms = 0 };
  struct qed_image *img = qed_open (mem_open (f), QED_MIN_CACHE_SIZE);
  uint64_t size;

  CHECK (img != NULL);
  CHECK_EQ (qed_make_writable (img, &opts), 0);
  size = qed_get_header (img)->image_size;
  size = shrink ? size / 2 : size + 65536;
  if (qed_resize (img, size, shrink, NULL) == -1)
    CHECK (errno == EIO || errno == EINVAL);
  CHECK_EQ (qed_close (img), 0);
}

static void
do_grow (struct mem_file *f)
{
  /* Everything that the tables map is beyond the disk's end. */
  mem_write (f, "\0\2\0\0\0\0\0\0", 8, 48);
  resize (f, false);
}

static void
do_shrink (struct mem_file *f)
{
  resize (f, true);
}

/* Rebase an image without a backing file onto none: nothing is copied. */
static void
do_rebase (struct mem_file *f)
{
  const struct qed_write_options opts = { .idle_ms = 0 };
  struct qed_image *img = qed_open (mem_open (f), QED_MIN_CACHE_SIZE);

  CHECK (img != NULL);
  CHECK_EQ (qed_make_writable (img, &opts), 0);
  if (qed_copy_differing (img, NULL, NULL) == -1)
    CHECK_EQ (errno, EIO);
  CHECK_EQ (qed_close (img), 0);
}

/* Into a raw file that is a hole. */
static void
do_commit (struct mem_file *f)
{
  struct mem_file *raw = mem_file_new ();
  struct qed_pair pair = {
    .img = qed_open (mem_open (f), QED_MIN_CACHE_SIZE), .raw = mem_open (raw),
  };

  CHECK (pair.img != NULL);
  if (qed_commit_pair (&pair, true, NULL) == -1)
    CHECK_EQ (errno, EIO);
  mem_file_free (raw);
}

/* How often a call may read each byte on disk: once for each walk of the
 * tables, and once more if it is copied.  Each walk may also read a small
 * table that is a hole.  A lookup of each range of the disk reads two slices
 * of 4 KiB of each table, if they are holes.
 */
static const struct call {
  const char *name;
  void (*fn) (struct mem_file *f);
  uint64_t times;
  uint64_t lookups;             /* of each range of the disk */
} calls[] = {
  { "check", do_check, 2, 0 },
  { "map", do_map, 8, 1 },
  { "repair leaks", do_repair_leaks, 10, 0 },
  { "repair all", do_repair_all, 80, 0 },
  { "allocate", do_allocate, 3, 0 },
  { "open dirty", do_open_dirty, 4, 0 },
  { "grow", do_grow, 4, 0 },
  { "shrink", do_shrink, 10, 0 },
  { "rebase", do_rebase, 8, 1 },
  { "commit", do_commit, 8, 2 },
};
#define NR_CALLS (sizeof calls / sizeof calls[0])

/* ---- work ---- */

static uint64_t
bytes_on_disk (struct mem_file *f)
{
  uint64_t sum = 0;

  for (uint64_t at = 0, next; at < mem_size (f); at = next) {
    bool hole;

    next = mem_next_extent (f, at, &hole);
    if (!hole)
      sum += next - at;
  }
  return sum;
}

/* The L1 entries that aren't 0. */
static uint64_t
tables (const struct model *m)
{
  uint64_t n = 0, bytes = model_table_bytes (m), start = m->h.l1_table_offset;

  for (uint64_t at = start, next; at < start + bytes; at = next) {
    bool hole;

    next = mem_next_extent (m->file, at, &hole);
    for (; !hole && at < next && at < start + bytes; at += 8)
      n += model_get64 (m, at) != 0;
  }
  return n;
}

static void
measure (const struct family *family, const struct call *call)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  uint64_t disk, l1;

  family->make (&m, f);
  disk = bytes_on_disk (f);
  l1 = tables (&m);
  mem_reset_counters (f);
  call->fn (f);
  CONTEXT ("%s: %s", family->name, call->name);
  printf ("  %s, %s: %" PRIu64 " bytes on disk, %" PRIu64 " read, %" PRIu64
          " operations\n", family->name, call->name, disk,
          mem_bytes (f, MEM_PREAD), mem_calls (f, MEM_ANY));
  CHECK_OP (mem_bytes (f, MEM_PREAD), <=,
            call->times * (disk + 32768) +
            8192 * (call->lookups * l1 + 10));
  CHECK_OP (mem_calls (f, MEM_ANY), <=, call->times * (disk / 8 + 100));
  mem_file_free (f);
}

static void
test_work (void)
{
  for (size_t i = 0; i < NR_FAMILIES; i++)
    for (size_t j = 0; j < NR_CALLS; j++) {
      alarm (60);
      measure (&families[i], &calls[j]);
    }
}

/* ---- interruption ---- */

static unsigned asked;

static bool
yes (void)
{
  asked++;
  return true;
}

/* An interrupted program doesn't wait until all tables are read. */
static void
test_interrupted (void)
{
  const struct qed_write_options opts = { .idle_ms = 0 };
  const struct mem_faults slow = { .delay_us = 200000 }, fast = { .err = 0 };
  struct mem_file *f = mem_file_new ();
  struct qed_image *img;
  struct model m;

  /* 256 tables, with something in each of their pages. */
  model_create (&m, f, 65536, 4, UINT64_C (1) << 39);
  for (uint64_t i = 0; i < 256; i++)
    for (uint64_t j = 0; j < 32768; j += 64)
      model_set (&m, i * 32768 + j, 1);
  img = qed_open (mem_open (f), QED_DEFAULT_CACHE_SIZE);
  CHECK (img != NULL);
  CHECK_EQ (qed_make_writable (img, &opts), 0);
  qed_interrupted = yes;
  mem_set_faults (f, &slow);
  CHECK_FAILS (qed_pwrite (img, "x", 1, 65536, 0), ESHUTDOWN, MEM_NAME,
               "interrupted");
  CHECK_OP (mem_bytes (f, MEM_PREAD), <, 4 * MIB);
  CHECK_EQ (asked, 1);
  qed_interrupted = NULL;
  mem_set_faults (f, &fast);
  CHECK_EQ (qed_pwrite (img, "x", 1, 65536, 0), 0);
  CHECK_OP (mem_bytes (f, MEM_PREAD), >, 64 * MIB);
  CHECK_EQ (qed_close (img), 0);

  mem_write (f, "\2", 1, 16);
  img = qed_open (mem_open (f), QED_DEFAULT_CACHE_SIZE);
  CHECK (img != NULL);
  qed_interrupted = yes;
  mem_set_faults (f, &slow);
  CHECK_FAILS (qed_make_writable (img, &opts), ESHUTDOWN, MEM_NAME,
               "interrupted");
  qed_interrupted = NULL;
  mem_set_faults (f, &fast);
  CHECK_EQ (qed_make_writable (img, &opts), 0);
  CHECK_EQ (qed_close (img), 0);
  mem_file_free (f);
}

/* ---- sets of clusters ---- */

/* Members near and far, against a list of them. */
static void
test_set (void)
{
  struct rng rng = { 7 };
  struct qed_set s;
  uint64_t *v = malloc (20000 * sizeof *v);

  CHECK (v != NULL);
  CHECK_EQ (qed_set_init (&s, UINT64_C (1) << 51, MEM_NAME), 0);
  for (uint64_t i = 0; i < 20000; i++) {
    v[i] = rng_below (&rng, UINT64_C (1) << (10 + i % 42)) & ~UINT64_C (1);
    CHECK_EQ (qed_set_add (&s, v[i]), 0);
  }
  for (uint64_t i = 0; i < 20000; i++) {
    CHECK (qed_set_has (&s, v[i]));
    CHECK (!qed_set_has (&s, v[i] + 1)); /* all members are even */
  }
  qed_set_destroy (&s);
  free (v);
}

/* A set refuses members once they would take too much memory. */
static void
test_set_is_bounded (void)
{
  struct qed_set s;
  uint64_t i = 0;

  CHECK_EQ (qed_set_init (&s, UINT64_C (1) << 51, MEM_NAME), 0);
  while (qed_set_add (&s, (i + (UINT64_C (1) << 20)) * 512) == 0)
    i++;
  CHECK_EQ (errno, EFBIG);
  CHECK (strstr (qed_get_error (), "spread over too large a file") != NULL);
  CHECK_EQ (i, (UINT64_C (1) << 21));
  CHECK (qed_set_has (&s, ((UINT64_C (1) << 20) + i - 1) * 512));
  qed_set_destroy (&s);
}

/* As many L1 entries as one likes. */
static void
test_too_many_tables (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_storage *st;
  struct qed_past_end past;
  struct model m;

  model_create (&m, f, 16 * MIB, 16, UINT64_C (1) << 62);
  mem_truncate (f, INT64_MAX);
  for (uint64_t i = 0; i < UINT64_C (5) << 20; i += 65536) {
    static uint64_t entries[65536];

    for (uint64_t j = 0; j < 65536; j++)
      entries[j] = (i + j + 100) * 16 * MIB;
    mem_write (f, entries, sizeof entries, m.h.l1_table_offset + 8 * i);
  }
  st = mem_open (f);
  CHECK_FAILS (qed_find_past_end (st, &m.h, INT64_MAX, &past), EFBIG,
               MEM_NAME, "too many");
  qed_storage_close (st);
  mem_file_free (f);
}

HARNESS_MAIN (
  TEST (test_work),
  TEST (test_interrupted),
  TEST (test_set),
  TEST (test_set_is_bounded),
  TEST (test_too_many_tables),
)
