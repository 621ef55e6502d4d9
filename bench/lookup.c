/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* What a lookup that hits costs, and how that scales with threads (I7).
 *
 * Threads call qed_map for random single clusters of an image whose tables
 * are all cached.  The output is the CPU time for each call, not the wall time,
 * so it doesn't depend on how many CPUs there are.  Locks, and cache lines that
 * move between CPUs, increase it.
 *
 * Usage: lookup [CALLS [RUNS]]: calls per thread and run.
 */

#include <config.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "qed.h"

#define CLUSTER 65536
#define CLUSTERS 4096
#define MAX_THREADS 16
#define MAX_RUNS 101

struct job {
  pthread_t thread;
  struct qed_image *img;
  pthread_barrier_t *start;
  uint64_t random;
  unsigned long calls;
  double ns;                    /* of CPU time, for all calls */
};

static void __attribute__ ((noreturn))
die (const char *what)
{
  fprintf (stderr, "lookup: %s: %s\n", what, qed_get_error ());
  exit (EXIT_FAILURE);
}

/* An image with data in all of its clusters, open with all tables cached. */
static struct qed_image *
make_image (const char *path)
{
  const struct qed_create_options create = {
    .image_size = (uint64_t) CLUSTERS * CLUSTER, .cluster_size = CLUSTER
  };
  const struct qed_write_options write = { 0 };
  struct qed_storage *st;
  struct qed_image *img;
  char sector[512] = "data";

  if (qed_create (path, &create) == -1)
    die ("create");
  st = qed_storage_open (path, true);
  img = st ? qed_open (st, QED_DEFAULT_CACHE_SIZE) : NULL;
  if (img == NULL || qed_make_writable (img, &write) == -1)
    die ("open");
  for (uint64_t i = 0; i < CLUSTERS; ++i)
    if (qed_pwrite (img, sector, sizeof sector, i * CLUSTER, 0) == -1)
      die ("write");
  return img;
}

static double
cpu_ns (void)
{
  struct timespec ts;

  clock_gettime (CLOCK_THREAD_CPUTIME_ID, &ts);
  return (double) ts.tv_sec * 1e9 + (double) ts.tv_nsec;
}

static void *
look_up (void *arg)
{
  struct job *j = arg;
  uint64_t x = j->random;
  double before;

  pthread_barrier_wait (j->start);
  before = cpu_ns ();
  for (unsigned long i = 0; i < j->calls; ++i) {
    struct qed_run run;

    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    if (qed_map (j->img, x % CLUSTERS * CLUSTER, CLUSTER, &run) == -1 ||
        run.type != QED_RUN_DATA)
      die ("map");
  }
  j->ns = cpu_ns () - before;
  return NULL;
}

/* The CPU time of one call, in ns, when N threads make CALLS each. */
static double
run (struct qed_image *img, unsigned n, unsigned long calls)
{
  struct job jobs[MAX_THREADS];
  pthread_barrier_t start;
  double ns = 0;

  pthread_barrier_init (&start, NULL, n);
  for (unsigned i = 0; i < n; ++i) {
    jobs[i] = (struct job) {
      .img = img, .start = &start, .random = i + 1, .calls = calls
    };
    if (pthread_create (&jobs[i].thread, NULL, look_up, &jobs[i]) != 0)
      die ("thread");
  }
  for (unsigned i = 0; i < n; ++i) {
    pthread_join (jobs[i].thread, NULL);
    ns += jobs[i].ns;
  }
  pthread_barrier_destroy (&start);
  return ns / ((double) n * (double) calls);
}

static int
compare (const void *a, const void *b)
{
  double x = *(const double *) a, y = *(const double *) b;

  return (x > y) - (x < y);
}

int
main (int argc, char *argv[])
{
  static const unsigned threads[] = { 1, 2, 4, 16 };
  unsigned long calls = argc > 1 ? strtoul (argv[1], NULL, 10) : 500000;
  unsigned runs = argc > 2 ? (unsigned) atoi (argv[2]) : 9;
  const char *dir = getenv ("TMPDIR");
  char path[4096];
  struct qed_image *img;
  double one = 0;
  int fd;

  if (calls == 0 || runs == 0 || runs > MAX_RUNS) {
    fprintf (stderr, "usage: lookup [CALLS [RUNS]]: at most %d runs\n",
             MAX_RUNS);
    return EXIT_FAILURE;
  }
  snprintf (path, sizeof path, "%s/qed-lookup.XXXXXX", dir ? dir : "/tmp");
  fd = mkstemp (path);
  if (fd == -1) {
    fprintf (stderr, "lookup: %s: %m\n", path);
    return EXIT_FAILURE;
  }
  close (fd);
  img = make_image (path);
  unlink (path);

  printf ("CPU time of a lookup that hits, %u runs of %lu calls a thread\n"
          "threads  median ns  worst ns  median to one thread's\n",
          runs, calls);
  run (img, 1, calls);          /* until all tables are cached */
  for (size_t i = 0; i < sizeof threads / sizeof threads[0]; ++i) {
    double ns[MAX_RUNS];

    for (unsigned j = 0; j < runs; ++j)
      ns[j] = run (img, threads[i], calls);
    qsort (ns, runs, sizeof ns[0], compare);
    if (i == 0)
      one = ns[runs / 2];
    printf ("%7u  %9.1f  %8.1f  %.2f\n", threads[i], ns[runs / 2],
            ns[runs - 1], ns[runs / 2] / one);
    fflush (stdout);
  }
  return qed_close (img) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
