/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Copy-on-read and streaming: clients see nothing of it, what is copied is
 * there to stay, and the image stands alone in the end.  That holds while
 * clients write, when any operation fails, and for all states that a power
 * failure can leave, the one around the change of the header included.
 *
 * Content is the model's (model.h), which knows the image and its backing
 * files.
 */

#include <config.h>

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "backing-files.h"
#include "harness.h"
#include "memory-storage.h"
#include "model.h"
#include "recorder.h"

static const struct qed_write_options no_thread;

/* ---- an overlay that is copied to ---- */

struct session {
  struct mem_file *f;
  struct backing backing;
  struct model m;
  uint64_t disk;
  uint8_t *want;                /* its content */
  struct recorder *r;           /* or NULL */

  struct qed_image *img;
  struct qed_copier *copier;
  atomic_bool complete;         /* streaming is */
  atomic_uint said, stopped, ended; /* messages */
  bool check_progress;          /* all that is done is in the image */
};

static void __attribute__ ((format (printf, 2, 3)))
say (void *opaque, const char *fmt, ...)
{
  struct session *s = opaque;
  va_list args;
  char buf[1000];

  va_start (args, fmt);
  CHECK (vsnprintf (buf, sizeof buf, fmt, args) > 0);
  va_end (args);
  CHECK (strstr (buf, MEM_NAME) != NULL);
  s->said++;
  if (strstr (buf, "streaming has stopped"))
    s->stopped++;
  if (strstr (buf, "has ended"))
    s->ended++;
}

/* So much of the start of the disk isn't in the image. */
static uint64_t
count_unallocated (struct session *s, uint64_t length)
{
  uint64_t n = 0;
  struct qed_run run;

  for (uint64_t offset = 0; offset < length; offset += run.length) {
    CHECK_EQ (qed_map (s->img, offset, length - offset, &run), 0);
    if (run.type == QED_RUN_UNALLOCATED)
      n += run.length;
  }
  return n;
}

static void
note_progress (void *opaque, uint64_t done, uint64_t total)
{
  struct session *s = opaque;

  CHECK_OP (done, <=, total);
  if (s->r)
    recorder_mark (s->r);
  if (s->check_progress)
    CHECK_EQ (count_unallocated (s, done), 0);
  if (done == total)
    s->complete = true;
}

/* Some clusters of all kinds, so that others have neighbours that need not be
 * copied.
 */
static void
make_overlay (struct session *s, enum backing_kind kind, uint32_t cs,
              uint64_t disk, uint64_t short_size)
{
  memset (s, 0, sizeof *s);
  s->f = mem_file_new ();
  s->disk = disk;
  backing_init (&s->backing, kind, disk, short_size);
  backing_fill (&s->backing, 0, UINT64_MAX);
  model_create (&s->m, s->f, cs, 1, disk);
  backing_name (&s->backing, &s->m);
  for (uint64_t c = 0; c < model_clusters (&s->m); c++)
    if (c % 23 == 5)
      model_data (&s->m, c);
    else if (c % 23 == 11)
      model_set (&s->m, c, 1);
  s->m.file_size = mem_size (s->f);
  s->want = malloc (disk);
  CHECK (s->want != NULL);
  CHECK_EQ (model_pread (&s->m, s->want, disk, 0), 0);
}

static void
open_session (struct session *s, const struct qed_write_options *write)
{
  s->img = qed_open_overlay (s->r ? recorder_open (s->r) : mem_open (s->f),
                             backing_open (&s->backing), QED_MIN_CACHE_SIZE);
  CHECK (s->img != NULL);
  CHECK_EQ (qed_make_writable (s->img, write), 0);
}

static uint64_t rate;           /* of the next start */

static void
start_copying (struct session *s, bool on_read, bool stream)
{
  const struct qed_copy_options opts = {
    .on_read = on_read, .stream = stream, .retry_ms = 20, .rate = rate,
    .say = say, .progress = note_progress, .opaque = s,
  };

  s->complete = false;
  CHECK_EQ (qed_copier_check (s->img, &opts), 0);
  s->copier = qed_copier_start (s->img, &opts);
  CHECK (s->copier != NULL);
}

static void
wait_until_complete (struct session *s)
{
  while (!s->complete)
    usleep (200);
}

static int
close_session (struct session *s)
{
  qed_copier_stop (s->copier);
  s->copier = NULL;
  return qed_close (s->img);
}

static void
free_session (struct session *s)
{
  backing_check (&s->backing);
  backing_free (&s->backing);
  mem_file_free (s->f);
  free (s->want);
}

static void
compare (const uint8_t *got, const uint8_t *want, uint64_t count,
         uint64_t offset)
{
  for (uint64_t i = 0; memcmp (got, want, count) != 0 && i < count; i++)
    if (got[i] != want[i])
      harness_fail (__FILE__, __LINE__, "byte %#" PRIx64 " is %02x, not %02x",
                    offset + i, got[i], want[i]);
}

static void
check_read (struct session *s, uint64_t offset, uint64_t count)
{
  uint8_t *got = malloc (count);

  CHECK (got != NULL);
  CHECK_EQ (qed_copier_pread (s->copier, got, count, offset), 0);
  compare (got, s->want + offset, count, offset);
  free (got);
}

/* The image that was closed reads as wanted, on the backing file that its
 * header names, if any (ALONE: none).
 */
static void
check_file (struct session *s, bool alone)
{
  uint8_t *got = malloc (s->disk);
  struct model m;

  CHECK (got != NULL);
  CHECK (audit_closed (s->f, false) == NULL);
  CHECK (model_open (&m, s->f));
  if (alone)
    CHECK_EQ (m.h.features & (QED_F_BACKING_FILE |
                              QED_F_BACKING_FORMAT_NO_PROBE), 0);
  m.backing = alone ? NULL : backing_model (&s->backing);
  CHECK_EQ (model_pread (&m, got, s->disk, 0), 0);
  compare (got, s->want, s->disk, 0);
  free (got);
}

/* ---- streaming ---- */

struct geometry {
  uint32_t cluster_size;
  uint64_t disk, short_size;
};

static const struct geometry geometries[] = {
  { 4096, 1300 * 4096 + 512, 700 * 4096 + 1300 },
  { 65536, 300 * 65536 + 512 * 3, 31 * 65536 + 700 },
  { 4194304, 12 * 1048576 + 1024, 5 * 1048576 + 100 },
};
#define NR_GEOMETRIES (sizeof geometries / sizeof geometries[0])

static void
new_session (struct session *s, enum backing_kind kind, size_t geometry)
{
  const struct geometry *g = &geometries[geometry];

  make_overlay (s, kind, g->cluster_size, g->disk, g->short_size);
}

/* The backing file is closed while the image is open and goes on. */
static void
check_standing_alone (struct session *s)
{
  for (size_t i = 0; i < s->backing.n; i++)
    CHECK_EQ (mem_open_storages (s->backing.files[i]), 0);
  check_read (s, 0, s->disk);
  memset (s->want + 100, 0x5a, 5000);
  CHECK_EQ (qed_pwrite (s->img, s->want + 100, 5000, 100, QED_FUA), 0);
  memset (s->want + s->disk - 700, 0, 600);
  CHECK_EQ (qed_zero (s->img, 600, s->disk - 700, 0), 0);
  check_read (s, 0, s->disk);
}

/* What is allocated is contiguous, but for what was there before and tables. */
static void
check_order (struct session *s)
{
  struct qed_check_result result;
  struct qed_storage *st = mem_open (s->f);

  CHECK_EQ (qed_check (st, &(struct qed_check_options) { 0 }, &result), 0);
  qed_storage_close (st);
  CHECK_EQ (result.corruptions + result.leaks, 0);
  CHECK_OP (result.fragmented_clusters, <=,
            2 * (model_clusters (&s->m) / 23 + 1) + 4);
}

static void
test_stream (void)
{
  for (int kind = BACKING_FULL; kind < NR_BACKING; kind++)
    for (size_t g = 0; g < NR_GEOMETRIES; g++) {
      struct session s;

      CONTEXT ("backing file %d, geometry %zu", kind, g);
      new_session (&s, kind, g);
      open_session (&s, &no_thread);
      start_copying (&s, false, true);
      wait_until_complete (&s);
      check_standing_alone (&s);
      CHECK_EQ (close_session (&s), 0);
      check_file (&s, true);
      check_order (&s);
      CHECK_EQ (s.said, 0);
      free_session (&s);
    }
}

/* Stopped again and again, it goes on where it was. */
static void
test_stream_restarted (void)
{
  struct session s;
  unsigned starts = 0;

  new_session (&s, BACKING_CHAIN, 0);
  do {
    open_session (&s, &no_thread);
    start_copying (&s, false, true);
    usleep (50 + starts * 20);
    CHECK_EQ (close_session (&s), 0);
    check_file (&s, s.complete);
    starts++;
  } while (!s.complete);
  printf ("  %u starts\n", starts);
  free_session (&s);
}

/* With nothing to copy it is complete at once; and where the header names a
 * file that isn't used it is refused.
 */
static void
test_stream_nothing (void)
{
  const struct qed_copy_options opts = { .stream = true };
  struct session s;

  make_overlay (&s, BACKING_NONE, 4096, 1 << 20, 0);
  open_session (&s, &no_thread);
  start_copying (&s, true, true);
  wait_until_complete (&s);
  check_read (&s, 0, s.disk);
  CHECK_EQ (close_session (&s), 0);
  check_file (&s, true);
  free_session (&s);

  make_overlay (&s, BACKING_LOST, 4096, 1 << 20, 0);
  open_session (&s, &no_thread);
  CHECK_FAILS (qed_copier_check (s.img, &opts), EINVAL, MEM_NAME,
               "isn't open", "backing=none");
  CHECK_EQ (qed_close (s.img), 0);
  free_session (&s);
}

/* An image that is corrupt keeps its backing file: with an entry out of range,
 * or one that points to a table, which only a check notices.
 */
static void
test_stream_corrupt (void)
{
  for (int in_table = 0; in_table < 2; in_table++) {
    struct session s;

    new_session (&s, BACKING_SHORT, 0);
    model_set (&s.m, 300, in_table ? model_get_l1 (&s.m, 0) :
               4096 * UINT64_C (123456789));
    open_session (&s, &no_thread);
    start_copying (&s, false, true);
    usleep (20000);
    CHECK_EQ (s.stopped, 1);
    CHECK_EQ (s.said, 1);
    CHECK (!s.complete);
    check_read (&s, 0, 300 * 4096);
    CHECK_EQ (close_session (&s), 0);
    CHECK (model_open (&s.m, s.f));
    CHECK (s.m.h.features & QED_F_BACKING_FILE);
    free_session (&s);
  }
}

/* Data that can't be looked for, because a table in the chain below can't be
 * read, isn't taken for zeros.
 */
static void
test_stream_unreadable_table (void)
{
  unsigned failed = 0;

  for (uint64_t k = 1; k <= 16; k++)
    for (size_t i = 0; i < 2; i++) {
      struct session s;

      CONTEXT ("read %" PRIu64 " of file %zu", k, i);
      new_session (&s, BACKING_CHAIN, k % 2);
      open_session (&s, &no_thread);
      mem_set_faults (s.backing.files[i], &(struct mem_faults) {
          .op = MEM_PREAD, .first = k, .count = 2, .err = EIO,
        });
      start_copying (&s, false, true);
      wait_until_complete (&s);
      failed += s.said > 0;
      CHECK_EQ (close_session (&s), 0);
      check_file (&s, true);
      free_session (&s);
    }
  CHECK_OP (failed, >, 4);
}

/* An image that is seen to be corrupt only when streaming has begun. */
static void
test_stream_damaged (void)
{
  struct session s;

  new_session (&s, BACKING_SHORT, 0);
  rate = 4096 * 200;
  open_session (&s, &no_thread);
  start_copying (&s, false, true);
  rate = 0;
  model_set (&s.m, 600, 4096 * UINT64_C (123456789));
  while (s.stopped == 0)
    usleep (1000);
  CHECK (!s.complete);
  CHECK_EQ (close_session (&s), 0);
  CHECK (model_open (&s.m, s.f));
  CHECK (s.m.h.features & QED_F_BACKING_FILE);
  free_session (&s);
}

/* Clusters that are too large to be in memory: they can't be kept when they are
 * read.  Streaming tells of what is in the image.
 */
static void
test_large_clusters (void)
{
  const struct qed_copy_options on_read = { .on_read = true };
  const uint64_t cs = 16 << 20;
  struct session s;

  make_overlay (&s, BACKING_FULL, cs, 4 * cs, 0);
  s.check_progress = true;
  open_session (&s, &no_thread);
  CHECK_FAILS (qed_copier_check (s.img, &on_read), ENOTSUP,
               "clusters have 16777216 bytes", "more than 8388608 bytes",
               "streaming");
  start_copying (&s, true, true);
  check_read (&s, cs + 100, 1000);
  wait_until_complete (&s);
  check_read (&s, 0, s.disk);
  CHECK_EQ (close_session (&s), 0);
  check_file (&s, true);
  free_session (&s);
}

/* Where each read takes long, few are made. */
static void
test_round_trips (void)
{
  struct session s;

  make_overlay (&s, BACKING_FULL, 65536, 16 << 20, 0);
  mem_set_faults (s.backing.files[0], &(struct mem_faults) {
      .delay_us = 110000,
    });
  mem_reset_counters (s.backing.files[0]);
  open_session (&s, &no_thread);
  start_copying (&s, false, true);
  wait_until_complete (&s);
  CHECK_OP (mem_calls (s.backing.files[0], MEM_PREAD), <=, 120);
  CHECK_EQ (close_session (&s), 0);
  check_file (&s, true);
  free_session (&s);
}

static uint64_t
now_us (void)
{
  struct timespec ts;

  clock_gettime (CLOCK_MONOTONIC, &ts);
  return (uint64_t) ts.tv_sec * 1000000 + (uint64_t) ts.tv_nsec / 1000;
}

/* The rate holds for small pieces, too: every second cluster is allocated. */
static void
test_rate (void)
{
  const uint64_t clusters = 1000;
  struct session s;
  uint64_t start;

  make_overlay (&s, BACKING_FULL, 4096, clusters * 4096, 0);
  for (uint64_t c = 0; c < clusters; c += 2)
    model_set (&s.m, c, 1);
  CHECK_EQ (model_pread (&s.m, s.want, s.disk, 0), 0);
  open_session (&s, &no_thread);
  rate = 10000000;
  start = now_us ();
  start_copying (&s, false, true);
  rate = 0;
  wait_until_complete (&s);
  /* Some of the others are allocated, too. */
  CHECK_OP (now_us () - start, >=, clusters / 2 * 4096 * 85 / 100 / 10);
  CHECK_EQ (close_session (&s), 0);
  check_file (&s, true);
  free_session (&s);
}

/* A client's writes to fresh clusters are slow. */
static ssize_t
slow_write (void *opaque, enum mem_op op, uint64_t offset, size_t count)
{
  if (op == MEM_PWRITE && count == 65536 && offset > 65536 &&
      atomic_exchange ((atomic_bool *) opaque, false))
    usleep (200000);
  return (ssize_t) count;
}

static void *
write_thread (void *arg)
{
  struct session *s = arg;

  memset (s->want + 8 * 65536, 7, 65536);
  CHECK_EQ (qed_pwrite (s->img, s->want + 8 * 65536, 65536, 8 * 65536, 0), 0);
  return NULL;
}

/* What a client is writing isn't read from below again and again. */
static void
test_claimed (void)
{
  atomic_bool slow = true;
  struct session s;
  pthread_t thread;

  new_session (&s, BACKING_FULL, 1);
  open_session (&s, &no_thread);
  mem_set_hook (s.f, slow_write, &slow);
  CHECK (pthread_create (&thread, NULL, write_thread, &s) == 0);
  while (slow)
    usleep (100);
  start_copying (&s, false, true);
  CHECK (pthread_join (thread, NULL) == 0);
  wait_until_complete (&s);
  CHECK_OP (mem_bytes (s.backing.files[0], MEM_PREAD), <, 2 * s.disk);
  check_read (&s, 0, s.disk);
  CHECK_EQ (close_session (&s), 0);
  check_file (&s, true);
  free_session (&s);
}

/* A write of the header's sector fails, once. */
static ssize_t
no_header (void *opaque, enum mem_op op, uint64_t offset, size_t count)
{
  if (op != MEM_PWRITE || offset != 0 || count != QED_SECTOR_SIZE ||
      !atomic_exchange ((atomic_bool *) opaque, false))
    return (ssize_t) count;
  errno = ENOSPC;
  return -1;
}

/* The image stays an overlay that can be written, and it is tried again. */
static void
test_no_header (void)
{
  atomic_bool fail = true;
  struct session s;

  new_session (&s, BACKING_SHORT, 0);
  open_session (&s, &no_thread);
  mem_set_hook (s.f, no_header, &fail);
  start_copying (&s, false, true);
  wait_until_complete (&s);
  CHECK (!fail);
  CHECK_EQ (s.said, 1);
  check_standing_alone (&s);
  CHECK_EQ (close_session (&s), 0);
  check_file (&s, true);
  free_session (&s);
}

struct writer {
  pthread_t thread;
  struct session *s;
  unsigned number;
  atomic_bool *stop;
};

/* Allocate behind the end of the backing file, again and again. */
static void *
allocate_thread (void *arg)
{
  const struct writer *w = arg;
  uint64_t cluster = 710 + w->number;

  for (; cluster < 1300 && !*w->stop; cluster += 4) {
    memset (w->s->want + cluster * 4096, 1, 512);
    CHECK_EQ (qed_pwrite (w->s->img, w->s->want + cluster * 4096, 512,
                          cluster * 4096, 0), 0);
  }
  CHECK (*w->stop);             /* there would have been more */
  return NULL;
}

static ssize_t
slow_allocation (void *opaque __attribute__ ((unused)), enum mem_op op,
                 uint64_t offset, size_t count)
{
  if (op == MEM_PWRITE && count == 512 && offset > 0)
    usleep (20000);
  return (ssize_t) count;
}

/* Clients that allocate all the time don't keep the image from standing alone.
 */
static void
test_busy_end (void)
{
  atomic_bool stop = false;
  struct writer writers[4];
  struct session s;

  new_session (&s, BACKING_SHORT, 0);
  open_session (&s, &no_thread);
  mem_set_hook (s.f, slow_allocation, NULL);
  for (unsigned i = 0; i < 4; i++) {
    writers[i] = (struct writer) { .s = &s, .number = i, .stop = &stop };
    CHECK (pthread_create (&writers[i].thread, NULL, allocate_thread,
                           &writers[i]) == 0);
    usleep (5000);
  }
  start_copying (&s, false, true);
  wait_until_complete (&s);
  stop = true;
  for (unsigned i = 0; i < 4; i++)
    CHECK (pthread_join (writers[i].thread, NULL) == 0);
  check_read (&s, 0, s.disk);
  CHECK_EQ (close_session (&s), 0);
  check_file (&s, true);
  free_session (&s);
}

/* ---- copy-on-read ---- */

/* Wait until all that is under way has been kept. */
static void
wait_until_mapped (struct session *s, uint64_t offset, enum qed_run_type type)
{
  struct qed_run run;

  for (int i = 0; i < 5000; i++) {
    CHECK_EQ (qed_map (s->img, offset, 1, &run), 0);
    if (run.type == type)
      return;
    usleep (1000);
  }
  harness_fail (__FILE__, __LINE__, "%#" PRIx64 " has type %d, not %d", offset,
                run.type, type);
}

struct reader {
  pthread_t thread;
  struct session *s;
  uint64_t offset, count;
};

static void *
read_thread (void *arg)
{
  const struct reader *r = arg;

  check_read (r->s, r->offset, r->count);
  return NULL;
}

/* Readers of one cluster read it once from below, whole. */
static void
test_read_once (void)
{
  const uint64_t cs = 65536;
  struct session s;
  struct reader readers[8];

  new_session (&s, BACKING_FULL, 1);
  open_session (&s, &no_thread);
  start_copying (&s, true, false);
  mem_reset_counters (s.backing.files[0]);
  mem_set_faults (s.backing.files[0], &(struct mem_faults) {
      .delay_us = 20000,
    });
  for (size_t i = 0; i < 8; i++) {
    readers[i] = (struct reader) {
      .s = &s, .offset = 7 * cs + i * 5000, .count = 512
    };
    CHECK (pthread_create (&readers[i].thread, NULL, read_thread,
                           &readers[i]) == 0);
  }
  for (size_t i = 0; i < 8; i++)
    CHECK (pthread_join (readers[i].thread, NULL) == 0);
  wait_until_mapped (&s, 7 * cs, QED_RUN_DATA);
  CHECK_EQ (mem_calls (s.backing.files[0], MEM_PREAD), 1);
  CHECK_EQ (mem_bytes (s.backing.files[0], MEM_PREAD), cs);
  check_read (&s, 7 * cs, cs);
  CHECK_EQ (mem_calls (s.backing.files[0], MEM_PREAD), 1);

  /* A request over several clusters takes one read, too. */
  check_read (&s, 12 * cs + 100, 3 * cs);
  CHECK_EQ (mem_calls (s.backing.files[0], MEM_PREAD), 2);
  CHECK_EQ (mem_bytes (s.backing.files[0], MEM_PREAD), 5 * cs);
  CHECK_EQ (close_session (&s), 0);
  check_file (&s, false);
  free_session (&s);
}

/* What a file with holes, an image, and the end of a file are kept as. */
static void
test_read_kinds (void)
{
  for (int kind = BACKING_FULL; kind < NR_BACKING; kind++)
    for (size_t g = 0; g < NR_GEOMETRIES; g++) {
      struct rng rng = { 10 * (uint64_t) kind + g };
      struct session s;
      uint64_t size;

      CONTEXT ("backing file %d, geometry %zu", kind, g);
      new_session (&s, kind, g);
      size = backing_model (&s.backing)->h.image_size;
      open_session (&s, &no_thread);
      start_copying (&s, true, false);
      for (int i = 0; i < 200; i++) {
        uint64_t offset = rng_below (&rng, s.disk);
        uint64_t count = rng_below (&rng, 200000);

        if (count > s.disk - offset)
          count = s.disk - offset;
        check_read (&s, offset, count);
      }
      /* Past the end of the backing file nothing is kept. */
      if (size + s.m.h.cluster_size < s.disk) {
        struct qed_run run;
        uint64_t past = size + s.m.h.cluster_size;

        past = past - past % s.m.h.cluster_size;
        while (past / s.m.h.cluster_size % 23 == 5 ||
               past / s.m.h.cluster_size % 23 == 11)
          past += s.m.h.cluster_size;
        check_read (&s, past, 1);
        usleep (5000);
        CHECK_EQ (qed_map (s.img, past, 1, &run), 0);
        CHECK_EQ (run.type, QED_RUN_UNALLOCATED);
      }
      check_read (&s, 0, s.disk);
      CHECK_EQ (close_session (&s), 0);
      check_file (&s, false);
      CHECK_EQ (s.said, 0);
      free_session (&s);
    }
}

/* Zeros below become zero clusters; and holes in a cluster stay holes. */
static void
test_read_zeros (void)
{
  const uint64_t cs = 65536;
  struct session s;
  bool hole;

  new_session (&s, BACKING_FULL, 1);
  mem_punch (s.backing.files[0], 7 * cs, cs);
  mem_punch (s.backing.files[0], 8 * cs + 8192, cs - 16384);
  CHECK_EQ (model_pread (&s.m, s.want, s.disk, 0), 0);
  open_session (&s, &no_thread);
  start_copying (&s, true, false);
  check_read (&s, 7 * cs + 1000, 10);
  check_read (&s, 8 * cs + 1000, 10);
  wait_until_mapped (&s, 7 * cs, QED_RUN_ZERO);
  wait_until_mapped (&s, 8 * cs, QED_RUN_DATA);
  CHECK_EQ (close_session (&s), 0);
  check_file (&s, false);
  CHECK (model_open (&s.m, s.f));
  CHECK_EQ (mem_next_extent (s.f, model_get64 (&s.m, model_get_l1 (&s.m, 0) +
                                               8 * 8) + 8192, &hole) -
            model_get64 (&s.m, model_get_l1 (&s.m, 0) + 8 * 8), cs - 8192);
  CHECK (hole);
  free_session (&s);
}

struct intruder {
  struct session *s;
  uint64_t offset;
  bool zero, done;
};

/* The backing file is being read: a client writes there. */
static ssize_t
write_meanwhile (void *opaque, enum mem_op op, uint64_t offset, size_t count)
{
  struct intruder *i = opaque;

  if (op == MEM_PREAD && !i->done && i->offset >= offset &&
      i->offset < offset + count) {
    i->done = true;             /* it copies up, and so comes here again */
    if (i->zero)
      CHECK_EQ (qed_zero (i->s->img, 4096, i->offset, 0), 0);
    else
      CHECK_EQ (qed_pwrite (i->s->img, "client", 6, i->offset, 0), 0);
  }
  return (ssize_t) count;
}

/* Writes and zeros of clients win over the copy of the same cluster. */
static void
test_clients_win (void)
{
  for (int i = 0; i < 4; i++) {
    const uint64_t offset = 7 * 65536 + 4096;
    struct session s;
    struct intruder intruder = { &s, offset, i & 1, false };
    uint8_t got[4096];

    new_session (&s, BACKING_FULL, 1);
    open_session (&s, &no_thread);
    mem_set_hook (s.backing.files[0], write_meanwhile, &intruder);
    start_copying (&s, true, i & 2);
    if (i & 2)
      wait_until_complete (&s);
    else
      CHECK_EQ (qed_copier_pread (s.copier, got, 512, offset - 4096), 0);
    if (i & 1)
      memset (s.want + offset, 0, 4096);
    else
      memcpy (s.want + offset, "client", 6);
    usleep (5000);
    CHECK (intruder.done);
    check_read (&s, 0, s.disk);
    CHECK_EQ (close_session (&s), 0);
    check_file (&s, i & 2);
    free_session (&s);
  }
}

/* ---- failures ---- */

/* The filesystem is full for a while: reads don't notice, and that is said
 * once.
 */
static void
test_no_space (void)
{
  for (int stream = 0; stream < 2; stream++) {
    struct session s;

    new_session (&s, BACKING_SHORT, 0);
    open_session (&s, &no_thread);
    mem_set_faults (s.f, &(struct mem_faults) {
        .op = MEM_PWRITE, .first = 20, .count = UINT64_MAX, .err = ENOSPC,
      });
    start_copying (&s, true, stream);
    for (int i = 0; i < 10; i++) {
      check_read (&s, 0, s.disk);
      usleep (10000);
    }
    CHECK_EQ (s.said, 1);
    CHECK (!s.complete);
    qed_copier_stop (s.copier);
    mem_set_faults (s.f, NULL);
    start_copying (&s, true, stream);
    check_read (&s, 0, s.disk);
    if (stream)
      wait_until_complete (&s);
    CHECK_EQ (close_session (&s), 0);
    check_file (&s, stream);
    free_session (&s);
  }
}

/* Writes hang until *OPAQUE is true. */
static ssize_t
hang_write (void *opaque, enum mem_op op, uint64_t offset, size_t count)
{
  (void) offset;
  while (op == MEM_PWRITE && !*(atomic_bool *) opaque)
    usleep (1000);
  return (ssize_t) count;
}

/* Reads go on while copies take all the memory that they may, and nothing is
 * kept.  Later more is.
 */
static void
test_hanging_image (void)
{
  const uint64_t disk = 40 << 20, last = disk - 65536;
  struct qed_run run = { .type = QED_RUN_UNALLOCATED };
  atomic_bool go = false;
  struct session s;

  make_overlay (&s, BACKING_FULL, 65536, disk, 0);
  open_session (&s, &no_thread);
  start_copying (&s, true, false);
  mem_set_hook (s.f, hang_write, &go);
  for (uint64_t offset = 0; offset < disk; offset += 65536)
    check_read (&s, offset, 65536);
  CHECK_EQ (qed_map (s.img, 0, 1, &run), 0);
  CHECK_EQ (run.type, QED_RUN_UNALLOCATED);
  go = true;
  while (run.type == QED_RUN_UNALLOCATED) {
    usleep (10000);
    check_read (&s, last, 65536);
    CHECK_EQ (qed_map (s.img, last, 1, &run), 0);
  }
  check_read (&s, 0, disk);
  CHECK_EQ (close_session (&s), 0);
  check_file (&s, false);
  CHECK_EQ (s.said, 0);
  free_session (&s);
}

/* Each write takes long until *OPAQUE is true. */
static ssize_t
take_long (void *opaque, enum mem_op op, uint64_t offset, size_t count)
{
  (void) offset;
  if (op == MEM_PWRITE && !*(atomic_bool *) opaque)
    usleep (20000);
  return (ssize_t) count;
}

/* Reads don't wait for writes.  If those beyond the memory for copies did, more
 * than a hundred copies were kept when the last one has ended.
 */
static void
test_slow_image (void)
{
  const uint64_t disk = 40 << 20;
  atomic_bool quick = false;
  struct session s;

  make_overlay (&s, BACKING_FULL, 65536, disk, 0);
  open_session (&s, &no_thread);
  mem_set_hook (s.f, take_long, &quick);
  start_copying (&s, true, false);
  check_read (&s, 0, 65536);
  wait_until_mapped (&s, 0, QED_RUN_DATA);
  for (uint64_t offset = 0; offset < disk; offset += 65536)
    check_read (&s, offset, 65536);
  CHECK_OP (count_unallocated (&s, disk), >, disk * 2 / 3);
  quick = true;
  CHECK_EQ (close_session (&s), 0);
  check_file (&s, false);
  free_session (&s);
}

/* When nothing can be written any more, copying ends, which is said. */
static void
test_failed_sync (void)
{
  for (int stream = 0; stream < 2; stream++) {
    struct session s;

    new_session (&s, BACKING_FULL, 1);
    open_session (&s, &no_thread);
    mem_set_faults (s.f, &(struct mem_faults) {
        .op = MEM_SYNC, .first = 1, .count = UINT64_MAX, .err = EIO,
      });
    start_copying (&s, true, stream);
    check_read (&s, 0, s.disk);
    CHECK_FAILS (qed_pwrite (s.img, s.want, 512, 0, QED_FUA), EIO, MEM_NAME);
    for (int i = 0; s.ended == 0 && i < 1000; i++) {
      check_read (&s, 0, s.disk);
      usleep (1000);
    }
    CHECK_EQ (s.ended, 1);
    usleep (50000);
    check_read (&s, 0, s.disk);
    usleep (50000);
    CHECK_EQ (s.ended, 1);
    CHECK (!s.complete);
    CHECK_EQ (close_session (&s), -1);
    mem_set_faults (s.f, NULL);
    free_session (&s);
  }
}

/* A part of the backing file can't be read. */
static ssize_t
bad_sector (void *opaque, enum mem_op op, uint64_t offset, size_t count)
{
  const uint64_t bad = 7 * 65536 + 60000;

  if (op != MEM_PREAD || !*(atomic_bool *) opaque || offset > bad ||
      offset + count <= bad)
    return (ssize_t) count;
  errno = EIO;
  return -1;
}

/* Only what a client asks for may fail its read; streaming goes on when it can
 * be read again.
 */
static void
test_bad_backing (void)
{
  atomic_bool bad = true;
  struct session s;
  uint8_t buf[10];

  new_session (&s, BACKING_FULL, 1);
  open_session (&s, &no_thread);
  mem_set_hook (s.backing.files[0], bad_sector, &bad);
  start_copying (&s, true, true);
  check_read (&s, 7 * 65536, 1000);
  CHECK_FAILS (qed_copier_pread (s.copier, buf, 10, 7 * 65536 + 59995), EIO,
               MEM_NAME);
  /* It costs a single cluster. */
  while (count_unallocated (&s, s.disk) > 65536)
    usleep (1000);
  usleep (50000);
  CHECK_OP (s.said, >=, 1);
  CHECK (!s.complete);
  bad = false;
  wait_until_complete (&s);
  check_read (&s, 0, s.disk);
  CHECK_EQ (close_session (&s), 0);
  check_file (&s, true);
  free_session (&s);
}

/* What is read in a cluster that can't be read whole doesn't keep others from
 * being kept.
 */
static void
test_bad_cluster (void)
{
  atomic_bool bad = true;
  struct session s;

  new_session (&s, BACKING_FULL, 1);
  open_session (&s, &no_thread);
  mem_set_hook (s.backing.files[0], bad_sector, &bad);
  start_copying (&s, true, false);
  for (int i = 0; count_unallocated (&s, s.disk) > 2 * 65536 && i < 500; i++) {
    usleep (10000);
    for (int j = 0; j < 3; j++)
      check_read (&s, 7 * 65536, 100);
    for (uint64_t j = 0; j < s.disk >> 16; j++)
      if (j != 7)
        check_read (&s, j * 65536 + 7, 1);
  }
  CHECK_EQ (count_unallocated (&s, s.disk), 65536 + s.disk % 65536);
  CHECK_EQ (s.said, 1);
  CHECK_EQ (close_session (&s), 0);
  check_file (&s, false);
  free_session (&s);
}

/* The backing file can't be read, or data can't be written. */
static ssize_t
fail_all (void *opaque, enum mem_op op, uint64_t offset, size_t count)
{
  const enum mem_op *failing = opaque;

  if (op != *failing || (op == MEM_PWRITE && (count < 65536 || offset == 0)))
    return (ssize_t) count;
  usleep (op == MEM_PREAD ? 20000 : 0);
  errno = EIO;
  return -1;
}

static void *
failing_thread (void *arg)
{
  const struct reader *r = arg;
  uint8_t buf[512];

  CHECK_FAILS (qed_copier_pread (r->s->copier, buf, 512, r->offset), EIO,
               MEM_NAME);
  return NULL;
}

/* Many failures at once are one, and so are those of a filesystem that is full
 * for long, even if zero clusters take no room.
 */
static void
test_said_once (void)
{
  enum mem_op failing = MEM_PREAD;
  struct reader readers[16];
  struct session s;

  new_session (&s, BACKING_FULL, 1);
  for (uint64_t c = 40; c < 200; c += 2)
    mem_punch (s.backing.files[0], c * 65536, 65536);
  CHECK_EQ (model_pread (&s.m, s.want, s.disk, 0), 0);
  open_session (&s, &no_thread);
  mem_set_hook (s.backing.files[0], fail_all, &failing);
  start_copying (&s, true, false);
  for (size_t i = 0; i < 16; i++) {
    readers[i] = (struct reader) { .s = &s, .offset = (60 + 3 * i) * 65536 };
    CHECK (pthread_create (&readers[i].thread, NULL, failing_thread,
                           &readers[i]) == 0);
  }
  for (size_t i = 0; i < 16; i++)
    CHECK (pthread_join (readers[i].thread, NULL) == 0);
  CHECK_EQ (s.said, 1);

  failing = MEM_PWRITE;
  mem_set_hook (s.backing.files[0], NULL, NULL);
  mem_set_hook (s.f, fail_all, &failing);
  for (uint64_t c = 40; c < 100; c++) {
    check_read (&s, c * 65536, 512);
    usleep (5000);
  }
  CHECK_EQ (s.said, 1);
  CHECK_EQ (close_session (&s), 0);
  free_session (&s);
}

/* Whatever operation on the image fails, reads are right, and streaming is
 * complete at last, if not before the image was opened again.
 */
static void
test_faults (void)
{
  static const enum mem_op ops[] = { MEM_PWRITE, MEM_SYNC, MEM_RESIZE };
  unsigned again = 0;

  for (size_t op = 0; op < sizeof ops / sizeof ops[0]; op++)
    for (uint64_t k = 1; k < (ops[op] == MEM_PWRITE ? 60 : 9); k++) {
      struct session s;

      CONTEXT ("operation %d, call %" PRIu64, ops[op], k);
      make_overlay (&s, BACKING_SHORT, 4096, 90 * 4096, 70 * 4096 + 5);
      open_session (&s, &no_thread);
      mem_set_faults (s.f, &(struct mem_faults) {
          .op = ops[op], .first = k, .count = 1 + k % 3, .err = EIO,
        });
      start_copying (&s, k & 1, true);
      for (int i = 0; i < 400 && !s.complete; i++) {
        check_read (&s, (k * 4096 + 77) % s.disk, 3000);
        usleep (200);
      }
      check_read (&s, 0, s.disk);
      (void) close_session (&s);
      mem_set_faults (s.f, NULL);
      if (!s.complete) {
        again++;
        open_session (&s, &no_thread);
        start_copying (&s, false, true);
        wait_until_complete (&s);
        CHECK_EQ (close_session (&s), 0);
        check_file (&s, true);
      }
      free_session (&s);
    }
  printf ("  %u opened again\n", again);
}

/* ---- load ---- */

#define CLIENTS 6

struct client {
  pthread_t thread;
  struct session *s;
  unsigned number;
};

/* What was trimmed is as before, or zeros. */
static void
trim (struct session *s, uint64_t count, uint64_t offset)
{
  uint8_t *got = malloc (count), *want = s->want + offset;

  CHECK (got != NULL);
  CHECK_EQ (qed_trim (s->img, count, offset, 0), 0);
  CHECK_EQ (qed_copier_pread (s->copier, got, count, offset), 0);
  for (uint64_t i = 0; i < count; i++)
    CHECK (got[i] == 0 || got[i] == want[i]);
  memcpy (want, got, count);
  free (got);
}

/* Each client has its own part of each cluster. */
static void *
client_thread (void *arg)
{
  const struct client *c = arg;
  struct session *s = c->s;
  struct rng rng = { c->number };
  uint64_t part = s->m.h.cluster_size / 8, own = c->number * part;

  for (int i = 0; i < 400; i++) {
    uint64_t cluster = rng_below (&rng, model_clusters (&s->m) - 1);
    uint64_t at = rng_below (&rng, part);
    uint64_t offset = cluster * s->m.h.cluster_size + own + at;
    uint64_t count = 1 + rng_below (&rng, part - at);
    uint8_t got[16384];

    qed_copier_begin_request (s->copier);
    switch (rng_below (&rng, 8)) {
    case 0:
      memset (s->want + offset, 0, count);
      CHECK_EQ (qed_zero (s->img, count, offset, 0), 0);
      break;
    case 1: case 2:
      memset (s->want + offset, (int) rng_below (&rng, 256), count);
      CHECK_EQ (qed_pwrite (s->img, s->want + offset, count, offset, 0), 0);
      break;
    case 3:
      if (i % 16 == 0)
        CHECK_EQ (qed_flush (s->img), 0);
      break;
    case 4:
      trim (s, count, offset);
      break;
    default:
      if (count > sizeof got)
        count = sizeof got;
      CHECK_EQ (qed_copier_pread (s->copier, got, count, offset), 0);
      compare (got, s->want + offset, count, offset);
    }
    qed_copier_end_request (s->copier);
  }
  return NULL;
}

/* Reads the whole disk all the time.  What others write is only looked at
 * afterwards.
 */
static void *
sweep_thread (void *arg)
{
  struct session *s = ((const struct client *) arg)->s;
  uint8_t *got = malloc (s->disk);

  CHECK (got != NULL);
  for (int i = 0; i < 5; i++)
    for (uint64_t o = 0, n; o < s->disk; o += n) {
      n = s->disk - o < 3000000 ? s->disk - o : 3000000;
      CHECK_EQ (qed_copier_pread (s->copier, got, n, o), 0);
    }
  free (got);
  return NULL;
}

static void
test_load (void)
{
  static const struct qed_write_options opts = {
    .idle_ms = 20, .commit_ms = 3,
  };

  for (int kind = BACKING_FULL; kind < NR_BACKING; kind++)
    for (size_t g = 0; g < NR_GEOMETRIES; g++) {
      struct client clients[CLIENTS + 1];
      struct session s;

      CONTEXT ("backing file %d, geometry %zu", kind, g);
      new_session (&s, kind, g);
      open_session (&s, &opts);
      start_copying (&s, true, true);
      for (unsigned i = 0; i <= CLIENTS; i++) {
        clients[i] = (struct client) { .s = &s, .number = i };
        CHECK (pthread_create (&clients[i].thread, NULL, i < CLIENTS ?
                               client_thread : sweep_thread,
                               &clients[i]) == 0);
      }
      for (unsigned i = 0; i <= CLIENTS; i++)
        CHECK (pthread_join (clients[i].thread, NULL) == 0);
      wait_until_complete (&s);
      check_standing_alone (&s);
      CHECK_EQ (close_session (&s), 0);
      check_file (&s, true);
      CHECK_EQ (s.said, 0);
      free_session (&s);
    }
}

/* ---- power failures ---- */

#define CRASH_CS UINT64_C (4096)
#define CRASH_CLUSTERS 40
#define CRASH_DISK (CRASH_CLUSTERS * CRASH_CS + 512)
#define MAX_WRITES 12

/* A client's write of whole sectors, with a flush behind it. */
struct write {
  size_t begin, end;            /* marks in the log; end: of the flush */
  uint64_t offset, count;
  uint8_t value;
};

struct crash {
  struct session s;
  uint8_t *initial;
  struct write writes[MAX_WRITES];
  size_t n;
};

static void
write_and_flush (struct crash *c, struct rng *rng)
{
  struct session *s = &c->s;
  struct write *w = &c->writes[c->n++];

  *w = (struct write) {
    .offset = rng_below (rng, CRASH_DISK / 512 - 20) * 512,
    .count = (1 + rng_below (rng, 20)) * 512,
    .value = (uint8_t) (200 + c->n),
  };
  memset (s->want + w->offset, w->value, w->count);
  w->begin = recorder_mark (s->r);
  CHECK_EQ (qed_pwrite (s->img, s->want + w->offset, w->count, w->offset, 0),
            0);
  CHECK_EQ (qed_flush (s->img), 0);
  w->end = recorder_mark (s->r);
}

/* May the sector at OFFSET have the content GOT after a crash at CUT? */
static bool
is_allowed (const struct crash *c, size_t cut, uint64_t offset,
            const uint8_t *got)
{
  bool initial = true, allowed = false;

  for (size_t i = 0; i < c->n; i++) {
    const struct write *w = &c->writes[i];
    uint8_t value[512];

    if (offset < w->offset || offset >= w->offset + w->count ||
        w->begin >= cut)
      continue;
    memset (value, w->value, sizeof value);
    if (w->end < cut)
      initial = allowed = false;
    allowed |= memcmp (got, value, 512) == 0;
  }
  return allowed || (initial && memcmp (got, c->initial + offset, 512) == 0);
}

static const char *
check_disk (const struct crash *c, size_t cut, const uint8_t *got)
{
  static char why[100];

  for (uint64_t offset = 0; offset < CRASH_DISK; offset += 512)
    if (!is_allowed (c, cut, offset, got + offset)) {
      snprintf (why, sizeof why, "content at %#" PRIx64 ": %02x...", offset,
                got[offset]);
      return why;
    }
  return NULL;
}

static bool
names_backing (struct mem_file *f)
{
  struct model m;

  return model_open (&m, f) && m.h.features & QED_F_BACKING_FILE;
}

/* A lie also leaves images that are marked clean too early.  Content is what
 * must show it.
 */
static bool content_only;

/* Open the image in F, on its backing file if it names one, and stream it to
 * its end (FINISH) or only read.
 */
static const char *
use_state (struct crash *c, size_t cut, struct mem_file *f, bool finish)
{
  static uint8_t got[CRASH_DISK];
  struct session s = { .f = f };
  const char *why;

  s.img = qed_open_overlay (mem_open (f), names_backing (f) ?
                            backing_open (&c->s.backing) : NULL,
                            QED_MIN_CACHE_SIZE);
  if (s.img == NULL || qed_make_writable (s.img, &no_thread) != 0)
    return qed_get_error ();
  CHECK_EQ (qed_pread (s.img, got, CRASH_DISK, 0), 0);
  why = check_disk (c, cut, got);
  if (finish && !why) {
    start_copying (&s, false, true);
    wait_until_complete (&s);
    qed_copier_stop (s.copier);
    CHECK_EQ (qed_pread (s.img, got, CRASH_DISK, 0), 0);
    why = check_disk (c, cut, got);
  }
  if (qed_close (s.img) == -1 && !why)
    why = qed_get_error ();
  return why || content_only ? why : audit_closed (f, false);
}

/* Look at a state: as it is, and streamed to the end, without the backing
 * file.
 */
static const char *
check_state (struct crash *c, size_t cut, struct mem_file *f)
{
  struct audit a;
  const char *why;

  if (!audit_image (f, &a))
    return "not a valid image";
  if (!content_only && !a.need_check && (a.unsound || a.duplicate))
    return "clean, but corrupt";
  why = use_state (c, cut, f, cut % 4 == 0);
  if (!why && !content_only && cut % 4 == 0)
    why = names_backing (f) ? "has a backing file" :
      use_state (c, cut, f, false);
  return why;
}

static uint64_t states, alone;

/* Record streaming, with WRITES of a client meanwhile, and look at about MAX
 * states.  Returns what is wrong, or NULL.
 */
static const char *
crash_session (struct crash *c, enum recorder_lie lie, enum backing_kind kind,
               unsigned writes, uint64_t seed, uint64_t max, size_t *bad)
{
  const struct qed_write_options opts = { .idle_ms = 50, .commit_ms = 1 };
  struct rng rng = { seed }, choice = { ~seed };
  const char *why = NULL;
  size_t n;

  memset (c, 0, sizeof *c);
  make_overlay (&c->s, kind, CRASH_CS, CRASH_DISK, 29 * CRASH_CS + 700);
  c->initial = malloc (CRASH_DISK);
  CHECK (c->initial != NULL);
  memcpy (c->initial, c->s.want, CRASH_DISK);
  c->s.r = recorder_new (c->s.f, lie);
  open_session (&c->s, &opts);
  recorder_mark (c->s.r);
  start_copying (&c->s, seed & 1, true);
  for (unsigned i = 0; i < writes; i++)
    write_and_flush (c, &rng);
  wait_until_complete (&c->s);
  CHECK_EQ (close_session (&c->s), 0);

  n = recorder_length (c->s.r);
  for (size_t cut = 0; cut <= n && !why; cut++)
    for (int i = 0; i < 8 && !why; i++) {
      struct mem_file *f;

      if (recorder_same_as_next (c->s.r, cut) ||
          rng_below (&choice, 8 * n) >= max)
        continue;
      f = mem_file_new ();
      recorder_rebuild (c->s.r, cut, i == 0 ? KEEP_NOTHING : i == 1 ? KEEP_ALL
                        : KEEP_SOME, &rng, f);
      states++;
      alone += !names_backing (f);
      why = check_state (c, cut, f);
      mem_file_free (f);
      *bad = cut;
    }
  return why;
}

static void
end_crash (struct crash *c)
{
  recorder_free (c->s.r);
  free_session (&c->s);
  free (c->initial);
}

static const enum backing_kind named[] = {
  BACKING_SHORT, BACKING_HOLES, BACKING_CHAIN
};

static void
test_crash (void)
{
  const uint64_t wanted = recorder_states_wanted (20);
  struct crash c;
  size_t bad;

  states = alone = 0;
  for (uint64_t seed = 0; states < wanted; seed++) {
    const char *why = crash_session (&c, LIE_NONE, named[seed % 3],
                                     seed % MAX_WRITES, seed, 400, &bad);

    if (why) {
      recorder_print (c.s.r, bad, stderr);
      harness_fail (__FILE__, __LINE__, "seed %" PRIu64 ", crash at %zu: %s",
                    seed, bad, why);
    }
    end_crash (&c);
  }
  printf ("  %" PRIu64 " states, %" PRIu64 " without a backing file\n",
          states, alone);
  CHECK (alone > 0);
}

/* The breach of these orders is noticed. */
static void
test_lies (void)
{
  static const enum recorder_lie lies[] = {
    LIE_SYNC, LIE_EARLY_ENTRIES, LIE_ALONE_EARLY, LIE_LATE_ENTRIES,
  };

  content_only = true;
  for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
    const char *why = NULL;
    struct crash c;
    size_t bad;

    for (uint64_t seed = 0; why == NULL && seed < 60; seed++) {
      why = crash_session (&c, lies[i], named[seed % 3], seed % 3, seed, 2000,
                           &bad);
      end_crash (&c);
    }
    if (why == NULL)
      harness_fail (__FILE__, __LINE__, "lie %d isn't noticed", lies[i]);
    printf ("  lie %d: %s\n", lies[i], why);
  }
  content_only = false;
}

HARNESS_MAIN (TEST (test_stream), TEST (test_stream_restarted),
              TEST (test_stream_nothing), TEST (test_stream_corrupt),
              TEST (test_stream_unreadable_table), TEST (test_stream_damaged),
              TEST (test_large_clusters),
              TEST (test_round_trips),
              TEST (test_rate), TEST (test_claimed), TEST (test_no_header),
              TEST (test_busy_end), TEST (test_said_once),
              TEST (test_read_once), TEST (test_read_kinds),
              TEST (test_read_zeros), TEST (test_clients_win),
              TEST (test_no_space), TEST (test_hanging_image),
              TEST (test_slow_image), TEST (test_failed_sync),
              TEST (test_bad_backing), TEST (test_bad_cluster),
              TEST (test_faults), TEST (test_load), TEST (test_crash),
              TEST (test_lies))
