/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Lookups without the lock, in more slices than the cache has slots for.
 *
 * Some threads look at one slice for a while, mostly at long runs.  Others go
 * through all slices.  So a thread that loses the CPU during a lookup finds
 * another slice in its slot when it goes on.  One thread allocates.
 *
 * The first slices of the disk never change, and each run in them is known
 * exactly.  The rest is empty at first and is allocated in random order: a
 * cluster stays where it was seen first, and a lookup that begins after the
 * write has returned must see it.
 */

#include <config.h>

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "backing-files.h"
#include "harness.h"
#include "memory-storage.h"
#include "model.h"
#include "table.h"

#define CLUSTER 4096
#define SLICE 512               /* clusters, of an L2 table too */
#define FIXED_SLICES 48         /* for 15 slots */
#define FIXED (FIXED_SLICES * SLICE)
#define SLICES (FIXED_SLICES + 6)
#define CLUSTERS (SLICES * SLICE)
#define THREADS 8
#define EVICTING 2              /* of these */
#define WRITES 1500
#define TAKE_US 1500000         /* after all was written */
#define STAY 50                 /* lookups in one slice */
#define MAX_RANGE 8
#define MISSES 100000

struct lookups {
  struct mem_file *file;
  struct qed_image *img;
  atomic_bool stop;

  /* The run at each fixed cluster, which ends at the end of its slice. */
  struct qed_run runs[FIXED];

  /* For each other cluster: whether the write has returned, and its offset in
   * the file, or 0.
   */
  atomic_bool written[CLUSTERS];
  _Atomic uint64_t offset[CLUSTERS];
};

struct looker {
  pthread_t thread;
  uint64_t number;
  struct lookups *l;
};

/* ---- the fixed slices ---- */

static void
fill (struct model *m)
{
  struct rng rng = { 1 };

  for (uint64_t i = 0; i < FIXED_SLICES; i++)
    for (uint64_t j = 0; j < SLICE; j++) {
      uint64_t c = i * SLICE + j;

      if (i % 3 == 0 || (i % 3 == 1 && j == SLICE - 1) ||
          (i % 3 == 2 && rng_below (&rng, 2) == 0))
        model_data (m, c);
      else if (i % 3 == 2 && rng_below (&rng, 2) == 0)
        model_set (m, c, 1);
    }
}

/* Backwards, so that each cluster is looked at once: model_map would go through
 * the rest of the slice for each.
 */
static void
know_runs (struct lookups *l, const struct model *m)
{
  for (uint64_t c = FIXED; c-- > 0;) {
    struct qed_run *run = &l->runs[c], *next = run + 1;
    uint64_t entry;

    run->type = model_lookup (m, c, &entry);
    run->file_offset = run->type == QED_RUN_DATA ? entry : 0;
    run->length = CLUSTER;
    if (c % SLICE != SLICE - 1 && next->type == run->type &&
        (run->type != QED_RUN_DATA ||
         next->file_offset == run->file_offset + CLUSTER))
      run->length += next->length;
  }
}

static void
look_at_fixed (struct lookups *l, uint64_t c)
{
  const struct qed_run *want = &l->runs[c];
  struct qed_run got;

  CONTEXT ("cluster %" PRIu64, c);
  CHECK_EQ (qed_map (l->img, c * CLUSTER, (SLICE - c % SLICE) * CLUSTER,
                     &got), 0);
  CHECK_EQ (got.type, want->type);
  if (got.type == QED_RUN_DATA)
    CHECK_EQ (got.file_offset, want->file_offset);
  CHECK_EQ (got.length, want->length);
}

/* ---- the clusters that one thread allocates ---- */

/* A lookup found cluster C at OFFSET, as all earlier ones did that found it. */
static void
check_offset (struct lookups *l, uint64_t c, uint64_t offset)
{
  uint64_t before = 0;

  if (!atomic_compare_exchange_strong_explicit (&l->offset[c], &before, offset,
                                                memory_order_relaxed,
                                                memory_order_relaxed))
    CHECK_EQ (offset, before);
}

static void
look_at_new (struct lookups *l, struct rng *rng)
{
  uint64_t c = FIXED + rng_below (rng, CLUSTERS - FIXED - MAX_RANGE);
  uint64_t n = 1 + rng_below (rng, MAX_RANGE);
  bool written[MAX_RANGE];
  struct qed_run run;

  for (uint64_t i = 0; i < n; i++)
    written[i] = atomic_load_explicit (&l->written[c + i],
                                       memory_order_acquire);
  CONTEXT ("cluster %" PRIu64 " and so on, %" PRIu64 " in all", c, n);
  CHECK_EQ (qed_map (l->img, c * CLUSTER, n * CLUSTER, &run), 0);
  CHECK (run.type == QED_RUN_DATA || run.type == QED_RUN_UNALLOCATED);
  CHECK_OP (run.length, >=, CLUSTER);
  CHECK_OP (run.length, <=, n * CLUSTER);
  for (uint64_t i = 0; i < run.length / CLUSTER; i++)
    if (run.type == QED_RUN_DATA)
      check_offset (l, c + i, run.file_offset + i * CLUSTER);
    else
      CHECK (!written[i]);
}

/* Look at one slice for a while, mostly near its start. */
static void
stay (struct lookups *l, struct rng *rng)
{
  uint64_t first = rng_below (rng, FIXED_SLICES) * SLICE;

  for (unsigned i = 0; i < STAY; i++)
    look_at_fixed (l, first + (i % 4 ? i % 4 : rng_below (rng, SLICE)));
  look_at_new (l, rng);
}

static void
go_through_all (struct lookups *l, struct rng *rng)
{
  for (uint64_t i = 0; i < FIXED_SLICES; i++)
    look_at_fixed (l, i * SLICE + rng_below (rng, SLICE));
  look_at_new (l, rng);
}

static void *
looker (void *arg)
{
  struct looker *j = arg;
  struct rng rng = { j->number };

  while (!atomic_load_explicit (&j->l->stop, memory_order_relaxed))
    if (j->number < EVICTING)
      go_through_all (j->l, &rng);
    else
      stay (j->l, &rng);
  return NULL;
}

static void
allocate (struct lookups *l)
{
  static const struct qed_write_options opts = { .idle_ms = 1 };
  struct rng rng = { 2 };
  char sector[512] = "new";

  CHECK_EQ (qed_make_writable (l->img, &opts), 0);
  for (unsigned i = 0; i < WRITES; i++) {
    uint64_t c = FIXED + rng_below (&rng, CLUSTERS - FIXED);

    CHECK_EQ (qed_pwrite (l->img, sector, sizeof sector, c * CLUSTER, 0), 0);
    atomic_store_explicit (&l->written[c], true, memory_order_release);
    if (i % 100 == 0)
      CHECK_EQ (qed_flush (l->img), 0);
  }
}

/* The file has what the lookups saw. */
static void
check_file (struct lookups *l)
{
  struct model m;

  CHECK (model_open (&m, l->file));
  for (uint64_t c = FIXED; c < CLUSTERS; c++) {
    uint64_t entry, seen = atomic_load (&l->offset[c]);
    enum qed_run_type type = model_lookup (&m, c, &entry);

    CHECK_EQ (type == QED_RUN_DATA, atomic_load (&l->written[c]));
    if (seen != 0)
      CHECK_EQ (seen, entry);
  }
}

static void
hammer (enum backing_kind kind)
{
  struct lookups *l = calloc (1, sizeof *l);
  struct looker jobs[THREADS];
  struct backing backing;
  struct model m;

  CHECK (l != NULL);
  l->file = mem_file_new ();
  backing_init (&backing, kind, (uint64_t) CLUSTERS * CLUSTER, 0);
  backing_fill (&backing, (uint64_t) FIXED * CLUSTER, SLICE * CLUSTER);
  model_create (&m, l->file, CLUSTER, 1, (uint64_t) CLUSTERS * CLUSTER);
  backing_name (&backing, &m);
  fill (&m);
  know_runs (l, &m);

  l->img = qed_open_overlay (mem_open (l->file), backing_open (&backing),
                             QED_MIN_CACHE_SIZE);
  CHECK (l->img != NULL);
  for (unsigned i = 0; i < THREADS; i++) {
    jobs[i] = (struct looker) { .number = i, .l = l };
    CHECK (pthread_create (&jobs[i].thread, NULL, looker, &jobs[i]) == 0);
  }
  allocate (l);
  usleep (TAKE_US);
  atomic_store (&l->stop, true);
  for (unsigned i = 0; i < THREADS; i++)
    CHECK (pthread_join (jobs[i].thread, NULL) == 0);
  CHECK_EQ (qed_close (l->img), 0);
  check_file (l);
  backing_check (&backing);
  backing_free (&backing);
  mem_file_free (l->file);
  free (l);
}

/* Entries that are linked at once. */
static void
test_links (void)
{
  hammer (BACKING_NONE);
}

/* Entries that wait in the cache for a commit. */
static void
test_pending_links (void)
{
  hammer (BACKING_FULL);
}

/* ---- the table alone ---- */

/* A table cache of CACHE_SIZE bytes for a new image in F, opened as *ST, with a
 * cluster in each of the fixed slices.
 */
static struct qed_table *
new_table (struct mem_file *f, size_t cache_size, struct qed_storage **st)
{
  struct qed_geometry g;
  struct qed_table *t;
  struct model m;

  model_create (&m, f, CLUSTER, 1, (uint64_t) CLUSTERS * CLUSTER);
  for (uint64_t i = 0; i < FIXED_SLICES; i++)
    model_data (&m, i * SLICE);
  qed_geometry_init (&g, &m.h);
  *st = mem_open (f);
  t = qed_table_new (*st, &g, mem_size (f), cache_size);
  CHECK (t != NULL);
  return t;
}

struct hitter {
  struct qed_table *t;
  atomic_bool stop;
};

/* Look at the first slice all the time. */
static void *
hit (void *arg)
{
  struct hitter *h = arg;

  while (!atomic_load (&h->stop)) {
    struct qed_view view = { .locked = false };

    do
      CHECK_EQ (qed_table_find (h->t, 0, &view), 0);
    while (!qed_table_end (h->t, &view));
  }
  return NULL;
}

/* A miss gets the only slot, however often hits set its mark.  Otherwise it
 * would wait for ever.
 */
static void
test_hits_beside_misses (void)
{
  struct mem_file *f = mem_file_new ();
  struct hitter h = { .stop = false };
  struct qed_storage *st;
  pthread_t thread;

  h.t = new_table (f, 1, &st);
  CHECK_EQ (pthread_create (&thread, NULL, hit, &h), 0);
  for (uint64_t i = 0; i < MISSES; i++) {
    struct qed_view view = { .locked = false };

    do
      CHECK_EQ (qed_table_find (h.t, (1 + i % (FIXED_SLICES - 1)) * SLICE,
                                &view), 0);
    while (!qed_table_end (h.t, &view));
  }
  atomic_store (&h.stop, true);
  pthread_join (thread, NULL);
  qed_table_free (h.t);
  qed_storage_close (st);
  mem_file_free (f);
}

/* A view isn't valid if its slot has another slice at its end.  The next view
 * is.
 */
static void
test_evicted (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_view view = { .locked = false };
  struct qed_storage *st;
  struct qed_table *t = new_table (f, QED_MIN_CACHE_SIZE, &st);

  CHECK_EQ (qed_table_find (t, 0, &view), 0);
  CHECK (view.locked);          /* a miss */
  CHECK (qed_table_end (t, &view));
  view.locked = false;
  CHECK_EQ (qed_table_find (t, 0, &view), 0);
  CHECK (!view.locked);         /* a hit */
  CHECK (qed_table_end (t, &view));
  for (uint64_t i = 1; i < FIXED_SLICES; i++) {
    struct qed_view other = { .locked = false };

    CHECK_EQ (qed_table_find (t, i * SLICE, &other), 0);
    CHECK (qed_table_end (t, &other));
  }
  CHECK (!qed_table_end (t, &view));
  CHECK_EQ (qed_table_find (t, 0, &view), 0);
  CHECK (view.locked);
  CHECK (qed_table_end (t, &view));
  qed_table_free (t);
  qed_storage_close (st);
  mem_file_free (f);
}

HARNESS_MAIN (
  TEST (test_evicted),
  TEST (test_hits_beside_misses),
  TEST (test_links),
  TEST (test_pending_links),
)
