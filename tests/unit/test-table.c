/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The cache of table slices reads a slice when a lookup first needs it and
 * keeps it while it is in use, within its limit of memory (I7).  A read that
 * fails leaves no trace, and threads that need the same slice read it once.
 * Seen from outside, by the reads of the file.
 */

#include <config.h>

#include <pthread.h>

#include "alloc.h"
#include "harness.h"
#include "memory-storage.h"
#include "model.h"

#define SLICE 4096
#define SLICE_ENTRIES 512

/* Look a cluster up and check that it is data at FILE_OFFSET. */
static void
check_data (struct qed_image *img, const struct model *m, uint64_t cluster,
            uint64_t file_offset)
{
  struct qed_run run = { 0 };

  CONTEXT ("clusters %u * %u, cluster %" PRIu64,
           m->h.cluster_size, m->h.table_size, cluster);
  CHECK_EQ (qed_map (img, cluster * m->h.cluster_size, 1, &run), 0);
  CHECK_EQ (run.type, QED_RUN_DATA);
  CHECK_EQ (run.file_offset, file_offset);
}

/* ---- what is read when ---- */

static void
test_reads (void)
{
  FOR_ALL_GEOMETRIES (cs, ts) {
    struct mem_file *f = mem_file_new ();
    struct opened o;
    struct model m;
    uint64_t n, last, a, b, c;

    model_create (&m, f, (uint32_t) cs, (uint32_t) ts, 0);
    n = model_entries (&m);
    m.h.image_size = (n < 700 ? n : 700) * n * cs;
    model_write_header (&m);
    last = model_clusters (&m) - 1;
    a = model_data (&m, 0);
    b = model_data (&m, n - 1);
    c = model_data (&m, last);

    open_image (&o, f, QED_DEFAULT_CACHE_SIZE);

    /* The first lookup reads a slice of L1 and one of L2. */
    check_data (o.img, &m, 0, a);
    CHECK_EQ (mem_calls (f, MEM_PREAD), 2);
    CHECK_EQ (mem_bytes (f, MEM_PREAD), 2 * SLICE);

    /* Then the whole slice is cached. */
    for (uint64_t i = 0; i < SLICE_ENTRIES; i++) {
      struct qed_run run;

      CHECK_EQ (qed_map (o.img, i * cs, 1, &run), 0);
    }
    check_data (o.img, &m, 0, a);
    CHECK_EQ (mem_calls (f, MEM_ANY), 2);

    /* Another slice of the same table. */
    mem_reset_counters (f);
    check_data (o.img, &m, n - 1, b);
    CHECK_EQ (mem_calls (f, MEM_PREAD), n > SLICE_ENTRIES);
    CHECK_EQ (mem_bytes (f, MEM_PREAD), n > SLICE_ENTRIES ? SLICE : 0);

    /* Another table, whose L1 entry is in the last slice of L1 in use. */
    mem_reset_counters (f);
    check_data (o.img, &m, last, c);
    CHECK_EQ (mem_calls (f, MEM_PREAD), 1 + (last / n >= SLICE_ENTRIES));
    CHECK_EQ (mem_largest (f, MEM_PREAD), SLICE);

    /* Reading data is one more read. */
    mem_reset_counters (f);
    compare_pread (o.img, &m, n * cs - 4096, 4096);
    CHECK_EQ (mem_calls (f, MEM_ANY), 1);

    close_image (&o);
    mem_file_free (f);
  }
}

/* Nothing is read for an absent table but its L1 entry. */
static void
test_absent (void)
{
  struct mem_file *f = mem_file_new ();
  struct opened o;
  struct model m;
  uint8_t buf[4096];

  model_create (&m, f, 65536, 4, UINT64_C (1) << 46);
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  for (uint64_t i = 0; i < SLICE_ENTRIES; i++) {
    CHECK_EQ (qed_pread (o.img, buf, sizeof buf, i << 31), 0);
    CHECK_EQ (mem_calls (f, MEM_ANY), 1);
    CHECK_EQ (mem_bytes (f, MEM_PREAD), SLICE);
  }
  close_image (&o);
  mem_file_free (f);
}

/* The trace says what is read, and nothing when it is off. */
static unsigned traces;

static void __attribute__ ((format (printf, 1, 2)))
count_traces (const char *fmt, ...)
{
  va_list args;
  char s[1024];

  va_start (args, fmt);
  vsnprintf (s, sizeof s, fmt, args);
  va_end (args);
  CHECK (strstr (s, MEM_NAME) != NULL);
  CHECK (s[strlen (s) - 1] != '\n');
  traces++;
}

static void
test_trace (void)
{
  struct mem_file *f = mem_file_new ();
  struct opened o;
  struct model m;
  uint64_t a;

  model_create (&m, f, 65536, 4, 1 << 30);
  a = model_data (&m, 0);
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  check_data (o.img, &m, 0, a);
  close_image (&o);
  CHECK_EQ (traces, 0);

  qed_debug = count_traces;
  qed_trace_tables = true;
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  traces = 0;
  check_data (o.img, &m, 0, a);
  CHECK_EQ (traces, 2);
  check_data (o.img, &m, 0, a);
  CHECK_EQ (traces, 2);
  close_image (&o);
  qed_debug = NULL;
  qed_trace_tables = false;
  mem_file_free (f);
}

/* ---- eviction ---- */

#define TABLES 100

/* An image with TABLES L2 tables far apart, with entries in three slices of
 * each: 3 * TABLES slices and several of L1 compete for 15 slots.
 */
static void
many_slices (struct model *m, struct mem_file *f,
             uint64_t (*offsets)[TABLES][3], uint64_t (*clusters)[TABLES][3])
{
  model_create (m, f, 65536, 4, UINT64_C (1) << 46);
  for (uint64_t i = 0; i < TABLES; i++)
    for (uint64_t j = 0; j < 3; j++) {
      uint64_t n = model_entries (m);
      uint64_t cluster = i * 321 * n + j * (n / 2 - 1);

      (*clusters)[i][j] = cluster;
      (*offsets)[i][j] = model_data (m, cluster);
    }
}

static void
test_eviction (void)
{
  static uint64_t offsets[TABLES][3], clusters[TABLES][3];
  struct mem_file *f = mem_file_new ();
  struct rng rng = { 2 };
  struct opened o;
  struct model m;
  uint64_t reads;

  many_slices (&m, f, &offsets, &clusters);
  open_image (&o, f, QED_MIN_CACHE_SIZE);

  /* Lookups in turn and at random are right, though each one reads again. */
  for (int round = 0; round < 2; round++)
    for (int i = 0; i < TABLES; i++)
      for (int j = 0; j < 3; j++)
        check_data (o.img, &m, clusters[i][j], offsets[i][j]);
  for (int k = 0; k < 5000; k++) {
    uint64_t i = rng_below (&rng, TABLES), j = rng_below (&rng, 3);

    check_data (o.img, &m, clusters[i][j], offsets[i][j]);
  }
  CHECK_EQ (mem_largest (f, MEM_PREAD), SLICE);

  /* A slice that is used again and again stays, except for the few times that
   * it is next to be evicted: here one slice is used after each of the others.
   */
  check_data (o.img, &m, clusters[0][0], offsets[0][0]);
  mem_reset_counters (f);
  reads = 0;
  for (int i = 1; i < TABLES; i++)
    for (int j = 0; j < 3; j++) {
      uint64_t before;

      check_data (o.img, &m, clusters[i][j], offsets[i][j]);
      before = mem_calls (f, MEM_PREAD);
      check_data (o.img, &m, clusters[0][0], offsets[0][0]);
      reads += mem_calls (f, MEM_PREAD) - before;
    }
  CONTEXT ("%" PRIu64 " reads", reads);
  CHECK_OP (reads, <, 10);
  close_image (&o);

  /* With room for all nothing is read twice. */
  open_image (&o, f, QED_DEFAULT_CACHE_SIZE);
  for (int round = 0; round < 3; round++) {
    for (int i = 0; i < TABLES; i++)
      for (int j = 0; j < 3; j++)
        check_data (o.img, &m, clusters[i][j], offsets[i][j]);
    if (round == 0)
      mem_reset_counters (f);
  }
  CHECK_EQ (mem_calls (f, MEM_ANY), 0);
  close_image (&o);
  mem_file_free (f);
}

/* The smallest cache, 64 KiB, has room for at least 13 slices of 4 KiB and
 * their bookkeeping.
 */
static void
test_capacity (void)
{
  struct mem_file *f = mem_file_new ();
  struct opened o;
  struct model m;
  uint64_t a[12];

  model_create (&m, f, 65536, 4, UINT64_C (1) << 46);
  for (uint64_t i = 0; i < 12; i++)
    a[i] = model_data (&m, i * SLICE_ENTRIES);
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  for (int round = 0; round < 3; round++)
    for (uint64_t i = 0; i < 12; i++)
      check_data (o.img, &m, i * SLICE_ENTRIES, a[i]);
  CHECK_EQ (mem_calls (f, MEM_PREAD), 13);
  close_image (&o);
  mem_file_free (f);
}

/* ---- memory (I7) ---- */

static void
test_memory (void)
{
  const size_t sizes[] = { QED_MIN_CACHE_SIZE, 1 << 20, 8 << 20 };
  struct mem_file *f = mem_file_new ();
  struct model m;

  /* A data cluster in each of the first 4000 slices of a 1 GiB table. */
  model_create (&m, f, QED_MAX_CLUSTER_SIZE, QED_MAX_TABLE_SIZE,
                QED_MAX_IMAGE_SIZE);
  for (uint64_t i = 0; i < 4000; i++)
    model_set (&m, i * SLICE_ENTRIES, 1);
  model_data (&m, 4000 * SLICE_ENTRIES);

  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    int64_t before = alloc_bytes ();
    struct opened o;
    struct qed_run run;

    CONTEXT ("cache size %zu", sizes[i]);
    alloc_reset_peak ();
    open_image (&o, f, sizes[i]);
    for (uint64_t j = 0; j < 4000; j++)
      CHECK_EQ (qed_map (o.img, j * SLICE_ENTRIES * m.h.cluster_size, 1,
                         &run), 0);
    CHECK_EQ (mem_largest (f, MEM_PREAD), SLICE);
    CHECK_OP (alloc_peak () - before, <=, sizes[i] + 16384);
    close_image (&o);
    CHECK_OP (alloc_bytes (), <=, before);
  }

  /* A large cache for a small disk takes no more than its tables. */
  {
    struct opened o;
    int64_t before;

    model_create (&m, f, 65536, 4, 1 << 30);
    before = alloc_bytes ();
    alloc_reset_peak ();
    open_image (&o, f, (size_t) 1 << 30);
    CHECK_OP (alloc_peak () - before, <, 1 << 20);
    close_image (&o);
  }
  mem_file_free (f);
}

/* ---- errors ---- */

/* Reading fails, for the L1 and for the L2 slice, in the middle of a short
 * read too; the next try succeeds and reads only what is missing.
 */
static void
test_io_error (void)
{
  static const int errors[] = { EIO, ENOMEM, EBADF, ENOSPC };
  struct mem_file *f = mem_file_new ();
  struct model m;
  uint64_t a;

  model_create (&m, f, 65536, 4, 1 << 30);
  a = model_data (&m, 5);

  for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
    for (unsigned level = 1; level <= 2; level++)
      for (unsigned part = 0; part < 2; part++) {
        const struct mem_faults faults = {
          .op = MEM_PREAD,
          .first = part ? 4 * (level - 1) + 3 : level,
          .count = 1,
          .err = errors[i],
          .max_transfer = part ? SLICE / 4 : 0,
        };
        struct qed_run run;
        struct opened o;
        uint8_t buf[512];

        CONTEXT ("errno %d level %u part %u", errors[i], level, part);
        open_image (&o, f, QED_MIN_CACHE_SIZE);
        mem_set_faults (f, &faults);
        CHECK_FAILS (qed_map (o.img, 5 << 16, 1, &run), errors[i],
                     MEM_NAME ": ", strerror (errors[i]));
        mem_set_faults (f, NULL);
        mem_reset_counters (f);
        check_data (o.img, &m, 5, a);
        CHECK_EQ (mem_bytes (f, MEM_PREAD), (3 - level) * SLICE);
        close_image (&o);

        /* The same through qed_pread. */
        open_image (&o, f, QED_MIN_CACHE_SIZE);
        mem_set_faults (f, &faults);
        CHECK_FAILS (qed_pread (o.img, buf, sizeof buf, 5 << 16), errors[i],
                     MEM_NAME);
        mem_set_faults (f, NULL);
        compare_pread (o.img, &m, 5 << 16, sizeof buf);
        close_image (&o);
      }
  mem_file_free (f);
}

/* A run that ends where the next slice can't be read is right as far as it
 * goes; asking for the rest reports the error.
 */
struct bad_range {
  uint64_t offset, length;
};

static ssize_t
fail_range (void *opaque, enum mem_op op, uint64_t offset, size_t count)
{
  const struct bad_range *bad = opaque;

  if (op == MEM_PREAD && offset < bad->offset + bad->length &&
      bad->offset < offset + count) {
    errno = EIO;
    return -1;
  }
  return (ssize_t) count;
}

static void
test_io_error_later (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct opened o;
  struct qed_run run;
  struct bad_range bad;
  uint64_t slice = (uint64_t) SLICE_ENTRIES << 16;

  model_create (&m, f, 65536, 4, 1 << 30);
  for (uint64_t i = SLICE_ENTRIES - 2; i < SLICE_ENTRIES + 2; i++)
    model_set (&m, i, 1);
  bad = (struct bad_range) { model_get_l1 (&m, 0) + SLICE, SLICE };
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  mem_set_hook (f, fail_range, &bad);
  CHECK_EQ (qed_map (o.img, slice - 65536, 131072, &run), 0);
  CHECK_EQ (run.type, QED_RUN_ZERO);
  CHECK_EQ (run.length, 65536);
  CHECK_FAILS (qed_map (o.img, slice, 65536, &run), EIO, MEM_NAME);
  mem_set_hook (f, NULL, NULL);
  compare_map (o.img, &m, slice - 65536, 131072, 10);
  close_image (&o);
  mem_file_free (f);
}

/* A file that ends inside of a table: EIO, not zeros. */
static void
test_cut_table (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct opened o;
  struct qed_run run;
  uint64_t table;

  model_create (&m, f, 65536, 4, 1 << 30);
  model_set (&m, 0, 1);
  table = model_get_l1 (&m, 0);
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  for (uint64_t cut = 0; cut < SLICE; cut += 511) {
    mem_truncate (f, table + cut);
    CHECK_FAILS (qed_map (o.img, 0, 1, &run), EIO, MEM_NAME);
  }
  qed_close (o.img);
  mem_file_free (f);
}

static void
test_short_reads_and_eintr (void)
{
  const struct mem_faults faults[] = {
    { .max_transfer = 1 },
    { .max_transfer = 1000 },
    { .max_transfer = SLICE - 1 },
    { .eintr_every = 2 },
    { .eintr_every = 3, .max_transfer = 700 },
  };
  struct mem_file *f = mem_file_new ();
  struct rng rng = { 3 };
  struct model m;

  model_random (&m, f, &rng, 4096, 4, true, NULL, 0);
  while (model_clusters (&m) < 100)
    model_random (&m, f, &rng, 4096, 4, true, NULL, 0);
  for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
    struct opened o;

    open_image (&o, f, QED_MIN_CACHE_SIZE);
    mem_set_faults (f, &faults[i]);
    for (uint64_t c = 0; c < 100; c++) {
      compare_map (o.img, &m, c * 4096, m.h.image_size - c * 4096, 50);
      compare_pread (o.img, &m, c * 4096, 512);
    }
    close_image (&o);
    mem_set_faults (f, NULL);
  }
  mem_file_free (f);
}

/* ---- threads ---- */

#define THREADS 40

struct job {
  pthread_t thread;
  pthread_barrier_t *start;
  struct qed_image *img;
  uint64_t offset;
  int r, err;
  struct qed_run run;
};

static void *
map_thread (void *arg)
{
  struct job *j = arg;

  pthread_barrier_wait (j->start);
  j->r = qed_map (j->img, j->offset, 1, &j->run);
  j->err = errno;
  if (j->r == -1)               /* each thread has its own message */
    CHECK (strstr (qed_get_error (), MEM_NAME) != NULL);
  return NULL;
}

/* Let N threads at the same time look up the offsets i * STRIDE. */
static void
run_jobs (struct job *jobs, unsigned n, struct qed_image *img,
          uint64_t stride)
{
  pthread_barrier_t start;

  pthread_barrier_init (&start, NULL, n);
  for (unsigned i = 0; i < n; i++) {
    jobs[i] = (struct job) {
      .start = &start, .img = img, .offset = i * stride
    };
    CHECK (pthread_create (&jobs[i].thread, NULL, map_thread, &jobs[i]) == 0);
  }
  for (unsigned i = 0; i < n; i++)
    CHECK (pthread_join (jobs[i].thread, NULL) == 0);
  pthread_barrier_destroy (&start);
}

/* All threads need the same slice: it is read once. */
static void
test_threads_same_slice (void)
{
  const struct mem_faults slow = { .delay_us = 20000 };
  struct mem_file *f = mem_file_new ();
  struct job jobs[THREADS];
  struct model m;
  struct opened o;
  uint64_t a;

  model_create (&m, f, 65536, 4, 1 << 30);
  a = model_data (&m, 0);
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  mem_set_faults (f, &slow);
  run_jobs (jobs, THREADS, o.img, 0);
  for (int i = 0; i < THREADS; i++) {
    CHECK_EQ (jobs[i].r, 0);
    CHECK_EQ (jobs[i].run.type, QED_RUN_DATA);
    CHECK_EQ (jobs[i].run.file_offset, a);
  }
  CHECK_EQ (mem_calls (f, MEM_PREAD), 2);
  close_image (&o);
  mem_file_free (f);
}

/* Each thread needs another slice, and there are fewer slots than threads:
 * some wait for a slot, and all succeed.
 */
static void
test_threads_few_slots (void)
{
  const struct mem_faults slow = { .delay_us = 5000 };
  struct mem_file *f = mem_file_new ();
  struct job jobs[THREADS];
  struct model m;
  struct opened o;
  uint64_t a[THREADS];

  model_create (&m, f, 4096, 1, UINT64_C (1) << 30);
  for (uint64_t i = 0; i < THREADS; i++)
    a[i] = model_data (&m, i * SLICE_ENTRIES);
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  mem_set_faults (f, &slow);
  for (int round = 0; round < 3; round++) {
    run_jobs (jobs, THREADS, o.img, SLICE_ENTRIES * 4096);
    for (int i = 0; i < THREADS; i++) {
      CHECK_EQ (jobs[i].r, 0);
      CHECK_EQ (jobs[i].run.type, QED_RUN_DATA);
      CHECK_EQ (jobs[i].run.file_offset, a[i]);
    }
  }
  close_image (&o);
  mem_file_free (f);
}

/* The same with a cache of two slots, for a disk of two slices. */
static void
test_threads_two_slots (void)
{
  const struct mem_faults slow = { .delay_us = 1000 };
  struct mem_file *f = mem_file_new ();
  struct job jobs[8];
  struct model m;
  struct opened o;
  uint64_t a;

  model_create (&m, f, 4096, 1, 4096);
  a = model_data (&m, 0);
  for (int round = 0; round < 5; round++) {
    open_image (&o, f, QED_MIN_CACHE_SIZE);
    mem_set_faults (f, &slow);
    run_jobs (jobs, 8, o.img, 0);
    for (int i = 0; i < 8; i++) {
      CHECK_EQ (jobs[i].r, 0);
      CHECK_EQ (jobs[i].run.file_offset, a);
    }
    mem_set_faults (f, NULL);
    close_image (&o);
  }
  mem_file_free (f);
}

/* One thread's read fails while others wait for it: no thread hangs, each one
 * that fails has an error message, and later lookups succeed.
 */
static void
test_threads_error (void)
{
  struct mem_file *f = mem_file_new ();
  struct job jobs[THREADS];
  struct model m;
  struct opened o;
  uint64_t a;

  model_create (&m, f, 65536, 4, 1 << 30);
  a = model_data (&m, 0);
  for (unsigned level = 1; level <= 2; level++)
    for (unsigned count = 1; count <= 2 * THREADS; count += 2 * THREADS - 1) {
      const struct mem_faults faults = {
        .op = MEM_PREAD, .first = level, .count = count, .err = ENOMEM,
        .delay_us = 2000,
      };
      unsigned failed = 0;

      open_image (&o, f, QED_MIN_CACHE_SIZE);
      mem_set_faults (f, &faults);
      run_jobs (jobs, THREADS, o.img, 0);
      for (int i = 0; i < THREADS; i++)
        if (jobs[i].r == -1) {
          CHECK_EQ (jobs[i].err, ENOMEM);
          failed++;
        }
        else
          CHECK_EQ (jobs[i].run.file_offset, a);
      CHECK_OP (failed, >=, 1);
      if (count > 1)
        CHECK_EQ (failed, THREADS);
      mem_set_faults (f, NULL);
      check_data (o.img, &m, 0, a);
      close_image (&o);
    }
  mem_file_free (f);
}

HARNESS_MAIN (
  TEST (test_reads),
  TEST (test_absent),
  TEST (test_trace),
  TEST (test_eviction),
  TEST (test_capacity),
  TEST (test_memory),
  TEST (test_io_error),
  TEST (test_io_error_later),
  TEST (test_cut_table),
  TEST (test_short_reads_and_eintr),
  TEST (test_threads_same_slice),
  TEST (test_threads_few_slots),
  TEST (test_threads_two_slots),
  TEST (test_threads_error),
)
