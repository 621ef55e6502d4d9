/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Many threads read and write one image with the smallest cache, and all see
 * the content that the model has; no cluster is allocated twice (I8).  Run
 * under ThreadSanitizer the test shows that the library has no data races: the
 * storage orders nothing between the threads.
 */

#include <config.h>

#include <pthread.h>
#include <unistd.h>

#include "backing-files.h"
#include "harness.h"
#include "memory-storage.h"
#include "model.h"

#define THREADS 8
#define MAX_TOUCHED 300

struct job {
  pthread_t thread;
  uint64_t seed;
  unsigned rounds;
  struct qed_image *img;
  const struct model *m;
  const uint64_t *touched;
  size_t n;
};

static void *
worker (void *arg)
{
  struct job *j = arg;
  struct rng rng = { j->seed };
  uint64_t cs = j->m->h.cluster_size, size = j->m->h.image_size;

  for (unsigned i = 0; i < j->rounds; i++) {
    uint64_t from = j->touched[rng_below (&rng, j->n)] * cs, left, length;

    if (from >= size)
      from = size - 1;
    from += rng_below (&rng, size - from < cs ? size - from : cs);
    left = size - from;
    length = left < 8 * cs ? left : 8 * cs;
    switch (rng_below (&rng, 6)) {
    case 0: compare_map (j->img, j->m, from, left, 10); break;
    case 1: compare_extents (j->img, j->m, from,
                             1 + rng_below (&rng, length)); break;
    case 2: (void) qed_prefetch (j->img, from, length); break;
    default:
      compare_pread (j->img, j->m, from,
                     1 + rng_below (&rng, length < 16384 ? length : 16384));
    }
  }
  return NULL;
}

static void
run_workers (const struct model *m, const uint64_t *touched, size_t n,
             unsigned rounds, const struct mem_faults *faults)
{
  struct job jobs[THREADS];
  struct opened o;

  open_image (&o, m->file, QED_MIN_CACHE_SIZE);
  mem_set_faults (m->file, faults);
  for (unsigned i = 0; i < THREADS; i++) {
    jobs[i] = (struct job) {
      .seed = i, .rounds = rounds, .img = o.img, .m = m,
      .touched = touched, .n = n,
    };
    CHECK (pthread_create (&jobs[i].thread, NULL, worker, &jobs[i]) == 0);
  }
  for (unsigned i = 0; i < THREADS; i++)
    CHECK (pthread_join (jobs[i].thread, NULL) == 0);
  mem_set_faults (m->file, NULL);
  close_image (&o);
}

/* Data in 60 slices of many tables, which compete for 15 slots. */
static size_t
spread (struct model *m, struct mem_file *f, uint64_t *touched)
{
  size_t n = 0;

  model_create (m, f, 4096, 4, UINT64_C (1) << 32);
  for (uint64_t i = 0; i < 60; i++)
    for (uint64_t j = 0; j < 4; j++) {
      uint64_t c = i * 17000 + 511 + j;

      switch (rng_below (&(struct rng) { i * 4 + j }, 4)) {
      case 0: model_set (m, c, 1); break;
      case 1: if (i % 7 == 0) model_set (m, c, 12345); break;
      default: model_data (m, c);
      }
      touched[n++] = c;
    }
  return n;
}

static void
test_spread (void)
{
  struct mem_file *f = mem_file_new ();
  uint64_t touched[MAX_TOUCHED];
  struct model m;
  size_t n = spread (&m, f, touched);

  run_workers (&m, touched, n, 2000, NULL);
  mem_file_free (f);
}

/* The same on a slow storage with short reads and signals, so that threads
 * wait for each other's slices.
 */
static void
test_slow (void)
{
  const struct mem_faults faults = {
    .delay_us = 50, .eintr_every = 5, .max_transfer = 3000
  };
  struct mem_file *f = mem_file_new ();
  uint64_t touched[MAX_TOUCHED];
  struct model m;
  size_t n = spread (&m, f, touched);

  run_workers (&m, touched, n, 150, &faults);
  mem_file_free (f);
}

static void
test_random_images (void)
{
  static const struct { uint32_t cs, ts; } geometries[] = {
    { 4096, 1 }, { 4096, 16 }, { 65536, 4 },
  };

  for (size_t g = 0; g < sizeof geometries / sizeof geometries[0]; g++)
    for (uint64_t seed = 0; seed < 3; seed++) {
      struct rng rng = { 5000 + seed };
      struct mem_file *f = mem_file_new ();
      uint64_t touched[MAX_TOUCHED];
      struct model m;
      size_t n = model_random (&m, f, &rng, geometries[g].cs,
                               geometries[g].ts, true, touched, MAX_TOUCHED);

      if (n > 0)
        run_workers (&m, touched, n, 150, NULL);
      mem_file_free (f);
    }
}

/* ---- writing ---- */

/* The threads write to regions of the disk, far apart so that their slices
 * compete for slots.  The bytes of a region belong to the threads in turn, in
 * stripes of odd lengths, so that threads share clusters but no bytes.  A long
 * stripe has clusters of its own too.
 */
#define REGIONS UINT64_C (40)
#define REGION UINT64_C (0x10000)
#define STRIPE 1237
#define LONG_STRIPE 8017
#define REGION_AT(i) ((i) * UINT64_C (12345 * 4096 + 777))
#define DISK (UINT64_C (1) << 32)

struct writing {
  pthread_t thread;
  uint64_t number, seed;
  unsigned rounds;
  struct qed_image *img;
  uint8_t *want;                /* of all regions; its stripes are its own */
  uint64_t stripe;
};

static void
run_threads (struct writing jobs[THREADS], void *(*fn) (void *))
{
  for (unsigned i = 0; i < THREADS; i++)
    CHECK (pthread_create (&jobs[i].thread, NULL, fn, &jobs[i]) == 0);
  for (unsigned i = 0; i < THREADS; i++)
    CHECK (pthread_join (jobs[i].thread, NULL) == 0);
}

static unsigned
random_flags (struct rng *rng)
{
  return (rng_below (rng, 20) == 0 ? QED_FUA : 0) |
    (rng_below (rng, 2) ? QED_MAY_TRIM : 0);
}

static int
not_looked_at (void *opaque, uint64_t offset, uint64_t length, bool zero)
{
  (void) opaque;
  (void) offset;
  (void) length;
  (void) zero;
  return 0;
}

/* Zeros, or in an overlay possibly the old content. */
static void
trim (struct writing *j, uint8_t *want, size_t count, uint64_t from)
{
  uint8_t got[LONG_STRIPE];

  CHECK_EQ (qed_trim (j->img, count, from, 0), 0);
  CHECK_EQ (qed_pread (j->img, got, count, from), 0);
  for (size_t i = 0; i < count; i++)
    CHECK (got[i] == 0 || got[i] == want[i]);
  memcpy (want, got, count);
}

/* One request in a stripe of the thread's own. */
static void
request (struct writing *j, struct rng *rng)
{
  uint64_t region = rng_below (rng, REGIONS);
  uint64_t mine = rng_below (rng, REGION / j->stripe / THREADS);
  uint64_t stripe = mine * THREADS + j->number;
  uint64_t from = stripe * j->stripe + rng_below (rng, j->stripe);
  size_t count = 1 + rng_below (rng, (stripe + 1) * j->stripe - from);
  uint8_t buf[LONG_STRIPE], *want = &j->want[region * REGION + from];

  from += REGION_AT (region);
  switch (rng_below (rng, 12)) {
  case 0: case 1: case 2: case 3:
    memset (want, (int) rng_next (rng) | 1, count);
    CHECK_EQ (qed_pwrite (j->img, want, count, from, random_flags (rng)), 0);
    break;
  case 4: case 5:
    memset (want, 0, count);
    CHECK_EQ (qed_zero (j->img, count, from, random_flags (rng)), 0);
    break;
  case 6:
    trim (j, want, count, from);
    break;
  case 7:
    CHECK_EQ (qed_extents (j->img, REGION_AT (region), REGION, not_looked_at,
                           NULL), 0);
    break;
  case 8:
    if (rng_below (rng, 10) == 0)
      CHECK_EQ (qed_flush (j->img), 0);
    break;
  default:
    CHECK_EQ (qed_pread (j->img, buf, count, from), 0);
    CHECK (memcmp (buf, want, count) == 0);
  }
}

static void *
writing_thread (void *arg)
{
  struct writing *j = arg;
  struct rng rng = { j->seed };

  for (unsigned i = 0; i < j->rounds; i++)
    request (j, &rng);
  return NULL;
}

/* The closed image is clean and sound, has no leaks, and has the content that
 * was written.
 */
static void
check_regions (struct mem_file *f, struct backing *backing, const uint8_t *want)
{
  static uint8_t buf[REGION];
  struct model m;

  CHECK (model_open (&m, f));
  m.backing = backing_model (backing);
  CHECK_EQ (m.h.features & QED_F_NEED_CHECK, 0);
  for (uint64_t i = 0; i < REGIONS; i++) {
    CHECK_EQ (model_pread (&m, buf, REGION, REGION_AT (i)), 0);
    CHECK (memcmp (buf, &want[i * REGION], REGION) == 0);
  }
  backing_check (backing);
}

/* An odd SESSION is a slow one, in which threads wait for each other. */
static void
run_writing (struct mem_file *f, struct backing *backing, uint8_t *want,
             unsigned session, uint64_t stripe)
{
  static const struct mem_faults slow = {
    .delay_us = 50, .eintr_every = 5, .max_transfer = 300
  };
  const struct qed_write_options opts = {
    .idle_ms = session % 3 ? 1 : 20, .commit_ms = session % 3
  };
  struct qed_image *img = qed_open_overlay (mem_open (f),
                                            backing_open (backing),
                                            QED_MIN_CACHE_SIZE);
  struct writing jobs[THREADS];

  CHECK (img != NULL);
  mem_set_faults (f, session % 2 ? &slow : NULL); /* no threads yet */
  CHECK_EQ (qed_make_writable (img, &opts), 0);
  for (unsigned i = 0; i < THREADS; i++)
    jobs[i] = (struct writing) {
      .number = i, .seed = session * THREADS + i,
      .rounds = session % 2 ? 100 : 1500, .img = img, .want = want,
      .stripe = stripe,
    };
  run_threads (jobs, writing_thread);
  CHECK_EQ (qed_close (img), 0);
  mem_set_faults (f, NULL);
  check_regions (f, backing, want);
}

static void
writing (enum backing_kind kind, bool device, uint64_t stripe,
         unsigned sessions)
{
  struct mem_file *f = mem_file_new ();
  uint8_t *want = malloc (REGIONS * REGION);
  struct backing backing;
  struct model m;

  CHECK (want != NULL);
  backing_init (&backing, kind, DISK,
                REGION_AT (REGIONS / 2) + REGION / 2 + 99);
  for (uint64_t i = 0; i < REGIONS; i++)
    backing_fill (&backing, REGION_AT (i), REGION);
  model_create (&m, f, 4096, 4, DISK);
  backing_name (&backing, &m);
  if (device)
    mem_make_device (f, 2000 * 4096);
  for (uint64_t i = 0; i < REGIONS; i++)
    CHECK_EQ (model_pread (&m, &want[i * REGION], REGION, REGION_AT (i)), 0);
  for (unsigned session = 0; session < sessions; session++)
    run_writing (f, &backing, want, session, stripe);
  backing_free (&backing);
  free (want);
  mem_file_free (f);
}

static void
test_writing (void)
{
  writing (BACKING_NONE, false, STRIPE, 6);
}

/* In a device, with old content behind the image. */
static void
test_writing_device (void)
{
  writing (BACKING_NONE, true, STRIPE, 4);
  writing (BACKING_FULL, true, STRIPE, 3);
  writing (BACKING_SHORT, true, LONG_STRIPE, 3);
}

static void
test_writing_overlays (void)
{
  for (int kind = BACKING_LOST; kind < NR_BACKING; kind++) {
    writing ((enum backing_kind) kind, false, STRIPE, 3);
    writing ((enum backing_kind) kind, false, LONG_STRIPE, 3);
  }
}

/* All threads write to the same clusters in the same order, so that they meet,
 * each to a sector of its own.  In the end all these sectors have their data,
 * the others have the backing file's, and no cluster was allocated twice (I8).
 */
static void *
sector_thread (void *arg)
{
  struct writing *j = arg;
  uint8_t buf[512];

  memset (buf, (int) j->number + 1, sizeof buf);
  for (uint64_t i = 0; i < j->rounds; i++) {
    CHECK_EQ (qed_pwrite (j->img, buf, sizeof buf,
                          i * 2 * 8192 + 512 + j->number * 512, 0), 0);
    if (i % 97 == j->number)
      CHECK_EQ (qed_flush (j->img), 0);
  }
  return NULL;
}

static void
test_same_cluster (void)
{
  const unsigned clusters = 1000;
  struct mem_file *f = mem_file_new ();
  struct writing jobs[THREADS];
  struct qed_image *img;
  struct backing backing;
  struct model m;
  uint8_t got[8192], want[8192];

  backing_init (&backing, BACKING_HOLES, 2 * clusters * 8192, 0);
  backing_fill (&backing, 0, 2 * clusters * 8192);
  model_create (&m, f, 8192, 1, 2 * clusters * 8192);
  img = qed_open_overlay (mem_open (f), backing_open (&backing),
                          QED_MIN_CACHE_SIZE);
  CHECK (img != NULL);
  CHECK_EQ (qed_make_writable (img, &(struct qed_write_options) { 0 }), 0);
  for (unsigned i = 0; i < THREADS; i++)
    jobs[i] = (struct writing) { .number = i, .rounds = clusters, .img = img };
  run_threads (jobs, sector_thread);
  CHECK_EQ (qed_close (img), 0);
  CHECK_EQ (mem_size (f), (2 + 2 + clusters) * 8192);

  CHECK (model_open (&m, f));
  m.backing = backing_model (&backing);
  for (uint64_t i = 0; i < 2 * clusters; i++) {
    mem_read (backing.files[0], want, sizeof want, i * 8192);
    for (size_t j = 0; j < THREADS && i % 2 == 0; j++)
      memset (want + 512 + j * 512, (int) j + 1, 512);
    CHECK_EQ (model_pread (&m, got, sizeof got, i * 8192), 0);
    CHECK (memcmp (got, want, sizeof got) == 0);
  }
  backing_check (&backing);
  backing_free (&backing);
  mem_file_free (f);
}

/* All threads write to the same few clusters at the same time, each its own
 * number: each sector has one of these numbers, and the neighbouring clusters
 * have none.
 */
static void *
overlapping_thread (void *arg)
{
  struct writing *j = arg;
  struct rng rng = { j->seed };
  uint8_t buf[8 * 512];

  memset (buf, (int) j->number + 1, sizeof buf);
  for (unsigned i = 0; i < j->rounds; i++)
    CHECK_EQ (qed_pwrite (j->img, buf, sizeof buf,
                          rng_below (&rng, 1000) * 8192 + 2048, 0), 0);
  return NULL;
}

static void
check_one_or_the_other (struct qed_image *img)
{
  uint8_t buf[8192];

  for (uint64_t i = 0; i < 1000; i++) {
    CHECK_EQ (qed_pread (img, buf, sizeof buf, i * 8192), 0);
    for (size_t j = 0; j < sizeof buf; j++) {
      bool inside = j >= 2048 && j < 2048 + 8 * 512;

      CHECK_OP (buf[j], <=, inside ? THREADS : 0);
      CHECK_EQ (buf[j], buf[j - j % 512]);
    }
  }
}

static void
test_overlapping (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_image *img;
  struct writing jobs[THREADS];
  struct model m;

  model_create (&m, f, 4096, 1, UINT64_C (1) << 30);
  img = qed_open (mem_open (f), QED_MIN_CACHE_SIZE);
  CHECK (img != NULL);
  CHECK_EQ (qed_make_writable (img, &(struct qed_write_options) { 0 }), 0);
  /* The same places, in the same order, so that they meet. */
  for (unsigned i = 0; i < THREADS; i++)
    jobs[i] = (struct writing) { .number = i, .rounds = 2000, .img = img };
  run_threads (jobs, overlapping_thread);
  check_one_or_the_other (img);
  CHECK_EQ (qed_close (img), 0);

  /* I8: none of the clusters was allocated twice: header, L1, four L2 tables
   * and two clusters for each place that was written.
   */
  CHECK (model_open (&m, f));
  uint64_t used = 2 + 4, entry;
  for (uint64_t c = 0; c < 2000; c++)
    used += model_lookup (&m, c, &entry) == QED_RUN_DATA;
  CHECK_EQ (mem_size (f), used * 4096);
  mem_file_free (f);
}

/* Many threads that retry writes on a full filesystem neither make the file
 * grow nor leak clusters.
 */
static ssize_t
no_space (void *opaque, enum mem_op op, uint64_t offset, size_t count)
{
  (void) opaque;
  if (op == MEM_PWRITE && offset > 0 && count > 8) {
    errno = ENOSPC;
    return -1;
  }
  return (ssize_t) count;
}

static void *
retrying_thread (void *arg)
{
  struct writing *j = arg;
  static const uint8_t buf[5 * 4096];

  for (unsigned i = 0; i < j->rounds; i++) {
    size_t count = (1 + (i + j->number) % 5) * 4096;

    CHECK_FAILS (qed_pwrite (j->img, buf, count, j->number * sizeof buf, 0),
                 ENOSPC, MEM_NAME);
  }
  return NULL;
}

static void
test_retrying (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_image *img;
  struct writing jobs[THREADS];
  struct model m;

  model_create (&m, f, 4096, 1, UINT64_C (1) << 30);
  img = qed_open (mem_open (f), QED_MIN_CACHE_SIZE);
  CHECK (img != NULL);
  CHECK_EQ (qed_make_writable (img, &(struct qed_write_options) { 0 }), 0);
  mem_set_hook (f, no_space, NULL);
  for (unsigned i = 0; i < THREADS; i++)
    jobs[i] = (struct writing) { .number = i, .rounds = 1000, .img = img };
  run_threads (jobs, retrying_thread);
  mem_set_hook (f, NULL, NULL);
  CHECK_EQ (qed_close (img), 0);
  CHECK_EQ (mem_size (f), 3 * 4096); /* header, L1, the L2 table */
  mem_file_free (f);
}

/* Many threads fill a device.  When it's full no write to an unallocated
 * cluster succeeds, each one to an allocated cluster does, and all is read
 * back.
 */
#define FULL_CLUSTERS 60        /* of the disk, for each thread */
#define FULL_ROOM 200
static atomic_uint refused;

static void *
filling_thread (void *arg)
{
  struct writing *j = arg;
  struct rng rng = { j->seed };
  uint8_t want[FULL_CLUSTERS] = { 0 }, buf[4096];

  for (unsigned i = 0; i < j->rounds; i++) {
    uint64_t k = rng_below (&rng, FULL_CLUSTERS), cluster;
    int r;

    cluster = k * THREADS + j->number;
    memset (buf, (int) i | 1, sizeof buf);
    r = qed_pwrite (j->img, buf, sizeof buf, cluster * 4096,
                    rng_below (&rng, 20) ? 0 : QED_FUA);
    if (r == 0)
      want[k] = (uint8_t) (i | 1);
    else {
      CHECK_EQ (errno, ENOSPC);
      CHECK_EQ (want[k], 0);
      refused++;
    }
    CHECK_EQ (qed_pread (j->img, buf, sizeof buf, cluster * 4096), 0);
    for (size_t b = 0; b < sizeof buf; b++)
      CHECK_EQ (buf[b], want[k]);
  }
  return NULL;
}

static void
test_full_device (void)
{
  const struct qed_write_options opts = { .idle_ms = 1 };
  struct mem_file *f = mem_file_new ();
  struct qed_check_result result;
  struct writing jobs[THREADS];
  struct qed_storage *st;
  struct qed_image *img;
  struct model m;

  model_create (&m, f, 4096, 1, UINT64_C (1) << 30);
  mem_make_device (f, FULL_ROOM * 4096);
  img = qed_open (mem_open (f), QED_MIN_CACHE_SIZE);
  CHECK (img != NULL);
  CHECK_EQ (qed_make_writable (img, &opts), 0);
  for (unsigned i = 0; i < THREADS; i++)
    jobs[i] = (struct writing) {
      .number = i, .seed = i, .rounds = 2000, .img = img
    };
  run_threads (jobs, filling_thread);
  CHECK_EQ (qed_close (img), 0);
  st = mem_open (f);
  CHECK_EQ (qed_check (st, NULL, &result), 0);
  qed_storage_close (st);
  CHECK_EQ (result.corruptions + result.leaks + result.need_check, 0);
  CHECK_EQ (result.allocated_clusters, FULL_ROOM - 1); /* and a table */
  CHECK_OP (refused, >, THREADS * FULL_CLUSTERS - FULL_ROOM);
  mem_file_free (f);
}

/* The library extends, cuts and measures the file all the time, and must not
 * take its own changes for those of another process.  Each extension follows a
 * cut, because it adds more than is written in between.
 */
struct resizing {
  struct mem_file *f;
  struct qed_image *img;
  _Atomic unsigned rounds;
  unsigned most;
};

static void *
flushing_thread (void *arg)
{
  struct resizing *r = arg;

  while (r->rounds < r->most) {
    CHECK_EQ (qed_pwrite (r->img, "in place", 8, 0, 0), 0);
    CHECK_EQ (qed_flush (r->img), 0);
  }
  return NULL;
}

static void
wait_for_size (struct resizing *r, uint64_t size)
{
  while (mem_size (r->f) != size)
    usleep (100);
}

static void
test_resizing (void)
{
  const struct qed_write_options opts = { .idle_ms = 1 };
  struct resizing r = { .f = mem_file_new (), .most = 300 };
  pthread_t threads[3];
  struct model m;

  if (getenv ("NBDKIT_VALGRIND"))
    r.most = 30;
  model_create (&m, r.f, 4096, 1, UINT64_C (1) << 30);
  r.img = qed_open (mem_open (r.f), QED_MIN_CACHE_SIZE);
  CHECK (r.img != NULL);
  CHECK_EQ (qed_make_writable (r.img, &opts), 0);
  CHECK_EQ (qed_pwrite (r.img, "x", 1, 0, 0), 0);
  for (unsigned i = 0; i < 3; i++)
    CHECK_EQ (pthread_create (&threads[i], NULL, flushing_thread, &r), 0);
  for (; r.rounds < r.most; r.rounds++) {
    wait_for_size (&r, (4 + r.rounds) * 4096);
    CHECK_EQ (qed_pwrite (r.img, "x", 1, (1 + r.rounds) * 4096, 0), 0);
  }
  for (unsigned i = 0; i < 3; i++)
    CHECK_EQ (pthread_join (threads[i], NULL), 0);
  CHECK_EQ (qed_close (r.img), 0);
  CHECK_EQ (mem_size (r.f), (4 + r.most) * 4096);
  mem_file_free (r.f);
}

HARNESS_MAIN (
  TEST (test_spread),
  TEST (test_slow),
  TEST (test_random_images),
  TEST (test_writing),
  TEST (test_writing_overlays),
  TEST (test_writing_device),
  TEST (test_same_cluster),
  TEST (test_overlapping),
  TEST (test_retrying),
  TEST (test_full_device),
  TEST (test_resizing),
)
