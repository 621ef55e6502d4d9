/* nbdkit-qed
 * Copyright (C) 2026 nbdkit-qed authors
 *
 * Redistribution and use in source and binary forms, with or without
 * modification, are permitted provided that the following conditions are
 * met:
 *
 * * Redistributions of source code must retain the above copyright
 * notice, this list of conditions and the following disclaimer.
 *
 * * Redistributions in binary form must reproduce the above copyright
 * notice, this list of conditions and the following disclaimer in the
 * documentation and/or other materials provided with the distribution.
 *
 * * Neither the name of nbdkit-qed nor the names of its contributors may be
 * used to endorse or promote products derived from this software without
 * specific prior written permission.
 *
 * THIS SOFTWARE IS PROVIDED BY THE AUTHORS AND CONTRIBUTORS ''AS IS'' AND
 * ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO,
 * THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A
 * PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE AUTHORS OR
 * CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
 * SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT
 * LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF
 * USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND
 * ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY,
 * OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT
 * OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF
 * SUCH DAMAGE.
 */


/* Many threads on one image with the smallest cache, against the model.
 * Chiefly for ThreadSanitizer, which sees the library's races: the storage
 * orders nothing between the threads.
 */

#include <config.h>

#include <pthread.h>

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

HARNESS_MAIN (
  TEST (test_spread),
  TEST (test_slow),
  TEST (test_random_images),
)
