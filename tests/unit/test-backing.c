/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Unallocated clusters of an overlay read as the backing file's content; maps
 * and extents agree with that.  A read costs one request to the backing file
 * for each contiguous piece of data, and never reads more than it needs.  A
 * failure of the backing file fails the requests that need it, and no others.
 */

#include <config.h>

#include "alloc.h"
#include "backing-files.h"
#include "harness.h"
#include "memory-storage.h"
#include "model.h"

#define CS UINT64_C (4096)
#define DISK (9 * CS + 512)
#define SHORT_SIZE (4 * CS + 1300)

/* All kinds of entries; the fourth and the last three clusters have none. */
static void
make_overlay (struct model *m, struct mem_file *f, const struct backing *b)
{
  model_create (m, f, CS, 1, DISK);
  model_data (m, 0);
  model_set (m, 2, 1);
  model_set (m, 3, 0);
  model_data (m, 5);
  model_data (m, 6);
  backing_name (b, m);
}

static void
setup (struct backing *b, struct mem_file *f, struct model *m,
       enum backing_kind kind)
{
  backing_init (b, kind, DISK, SHORT_SIZE);
  backing_fill (b, 0, DISK);
  make_overlay (m, f, b);
}

/* Every range between the offsets where the content may change. */
static void
test_edges (void)
{
  uint64_t points[200];
  size_t n = 0;

  for (uint64_t c = 0; c * CS < DISK; c++)
    for (int i = -1; i < 2; i++)
      if (c > 0 || i >= 0)
        points[n++] = c * CS + (uint64_t) i;
  for (int i = -1; i < 2; i++)
    points[n++] = SHORT_SIZE + (uint64_t) i;
  points[n++] = CS + 512;
  points[n++] = 4 * CS + 1024;
  points[n++] = (SHORT_SIZE + DISK) / 2 / 512 * 512;
  points[n++] = DISK - 1;
  points[n++] = DISK;

  for (int kind = BACKING_NONE; kind < NR_BACKING; kind++) {
    struct mem_file *f = mem_file_new ();
    struct backing b;
    struct opened o;
    struct model m;

    setup (&b, f, &m, (enum backing_kind) kind);
    open_over (&o, f, backing_open (&b));
    for (size_t i = 0; i < n; i++)
      for (size_t j = 0; j < n; j++)
        if (points[j] > points[i]) {
          compare_pread (o.img, &m, points[i], points[j] - points[i]);
          compare_extents (o.img, &m, points[i], points[j] - points[i]);
        }
    close_image (&o);
    backing_check (&b);
    backing_free (&b);
    mem_file_free (f);
  }
}

/* Chains of random images whose geometries and sizes differ. */
static void
test_random (void)
{
  for (uint64_t seed = 0; seed < 60; seed++) {
    struct rng rng = { seed };
    struct mem_file *files[4];
    struct model models[4];
    struct qed_backing *backing = NULL;
    struct opened o;
    uint64_t touched[200];
    size_t layers = 2 + rng_below (&rng, 3), n = 0;

    for (size_t i = 0; i < layers; i++) {
      files[i] = mem_file_new ();
      if (i == 0) {
        mem_truncate (files[0], rng_below (&rng, UINT64_C (1) << 24));
        model_raw (&models[0], files[0]);
        for (int j = 0; j < 40; j++) {
          uint64_t at = rng_below (&rng, mem_size (files[0]) - 10000);

          model_pattern (&models[0], j % 2 ? at : at % 100000,
                         rng_below (&rng, 10000));
        }
        backing = qed_backing_raw (mem_open (files[0]));
        continue;
      }
      n = model_random (&models[i], files[i], &rng,
                        UINT32_C (4096) << rng_below (&rng, 5),
                        UINT32_C (1) << rng_below (&rng, 5), seed % 3 == 0,
                        touched, 200);
      model_name_backing (&models[i]);
      models[i].backing = &models[i - 1];
      if (i < layers - 1) {
        struct qed_image *img = qed_open_overlay (mem_open (files[i]), backing,
                                                  QED_MIN_CACHE_SIZE);
        CHECK (img != NULL);
        backing = qed_backing_image (img);
      }
      CHECK (backing != NULL);
    }

    open_over (&o, files[layers - 1], backing);
    for (size_t i = 0; i < 150; i++) {
      const struct model *m = &models[layers - 1];
      uint64_t size = m->h.image_size, at, count;

      if (size == 0)
        break;
      at = i < n ? touched[i] * m->h.cluster_size : rng_below (&rng, size);
      if (i % 3 == 0)
        at = rng_below (&rng, size < 1 << 17 ? size : 1 << 17);
      if (at >= size)
        continue;
      count = 1 + rng_below (&rng, size - at < 50000 ? size - at : 50000);
      compare_pread (o.img, m, at, count);
      compare_extents (o.img, m, at, count);
    }
    close_image (&o);
    for (size_t i = 0; i < layers; i++)
      mem_file_free (files[i]);
  }
}

/* The longest chain, in which each image has one cluster. */
static void
test_deep (void)
{
  struct mem_file *files[QED_MAX_CHAIN];
  struct model models[QED_MAX_CHAIN];
  struct qed_backing *backing = NULL;
  struct opened o;
  const size_t top = QED_MAX_CHAIN - 1;

  for (size_t i = 0; i <= top; i++) {
    struct qed_image *img;

    files[i] = mem_file_new ();
    model_create (&models[i], files[i], CS, 1, QED_MAX_CHAIN * CS);
    model_data (&models[i], i);
    model_set (&models[i], i / 2, 1);
    models[i].backing = i ? &models[i - 1] : NULL;
    if (i == top)
      break;
    img = qed_open_overlay (mem_open (files[i]), backing, QED_MIN_CACHE_SIZE);
    CHECK (img != NULL);
    backing = qed_backing_image (img);
    CHECK (backing != NULL);
  }
  open_over (&o, files[top], backing);
  compare_pread (o.img, &models[top], 0, QED_MAX_CHAIN * CS);
  compare_extents (o.img, &models[top], 0, QED_MAX_CHAIN * CS);
  close_image (&o);
  for (size_t i = 0; i <= top; i++)
    mem_file_free (files[i]);
}

/* Contiguous data of the backing file is one read.  Nothing is read past the
 * backing file's end, under clusters that the overlay has, or outside of the
 * request.
 */
static void
test_calls (void)
{
  struct mem_file *f = mem_file_new (), *raw;
  struct backing b;
  struct opened o;
  struct model m;

  backing_init (&b, BACKING_SHORT, 1000 * CS, 600 * CS + 100);
  backing_fill (&b, 0, 700 * CS);
  raw = b.files[0];
  model_create (&m, f, CS, 2, 1000 * CS);
  for (uint64_t c = 0; c < 10; c++)
    model_set (&m, c, 1);
  model_data (&m, 10);
  backing_name (&b, &m);
  open_over (&o, f, backing_open (&b));

  compare_pread (o.img, &m, 0, 1000 * CS);
  mem_reset_counters (f);
  mem_reset_counters (raw);
  compare_pread (o.img, &m, 0, 11 * CS);
  CHECK_EQ (mem_calls (raw, MEM_ANY), 0);
  compare_pread (o.img, &m, 600 * CS + 100, 399 * CS);
  CHECK_EQ (mem_calls (raw, MEM_ANY), 0);
  compare_pread (o.img, &m, 11 * CS + 5, 800 * CS);
  CHECK_EQ (mem_calls (raw, MEM_ANY), 1);
  CHECK_EQ (mem_bytes (raw, MEM_PREAD), 589 * CS + 95);
  mem_reset_counters (raw);

  /* The open has found the data extent at the start of the file. */
  for (int i = 0; i < 3; i++)
    compare_extents (o.img, &m, 20 * CS, 10 * CS);
  CHECK_EQ (mem_calls (raw, MEM_ANY), 0);
  close_image (&o);
  CHECK_EQ (mem_calls (raw, MEM_PREAD), 0);
  backing_check (&b);
  backing_free (&b);
  mem_file_free (f);
}

/* A prefetch goes to the file from which a read would take the data. */
static void
test_prefetch (void)
{
  const struct mem_faults faults = {
    .op = MEM_PREFETCH, .first = 1, .count = 1, .err = ENOMEM
  };
  struct mem_file *f = mem_file_new (), *raw;
  struct backing b;
  struct opened o;
  struct model m;

  setup (&b, f, &m, BACKING_SHORT);
  raw = b.files[0];
  open_over (&o, f, backing_open (&b));
  CHECK_EQ (qed_prefetch (o.img, 0, DISK), 0);
  CHECK_EQ (mem_bytes (f, MEM_PREFETCH), 3 * CS);
  CHECK_EQ (mem_calls (raw, MEM_PREFETCH), 2);  /* clusters 1, 3 and 4 */
  CHECK_EQ (mem_bytes (raw, MEM_PREFETCH), 2 * CS + 1300);
  CHECK_EQ (qed_prefetch (o.img, 4 * CS + 1300, CS - 1300), 0);
  CHECK_EQ (qed_prefetch (o.img, 7 * CS, CS), 0);
  CHECK_EQ (mem_calls (raw, MEM_PREFETCH), 2);
  CHECK_EQ (mem_calls (raw, MEM_PREAD), 0);
  mem_set_faults (raw, &faults);
  CHECK_FAILS (qed_prefetch (o.img, CS, CS), ENOMEM, MEM_NAME);
  mem_set_faults (raw, NULL);
  close_image (&o);
  backing_free (&b);

  setup (&b, f, &m, BACKING_CHAIN);
  open_over (&o, f, backing_open (&b));
  CHECK_EQ (qed_prefetch (o.img, 0, DISK), 0);
  CHECK_OP (mem_bytes (b.files[0], MEM_PREFETCH), >, 0);
  CHECK_OP (mem_bytes (b.files[0], MEM_PREFETCH), <, SHORT_SIZE);
  CHECK_OP (mem_bytes (b.files[1], MEM_PREFETCH) +
            mem_bytes (b.files[2], MEM_PREFETCH), >, 0);
  close_image (&o);
  backing_check (&b);
  backing_free (&b);
  mem_file_free (f);
}

/* A failure of the backing file fails the requests that need it, and no
 * others.  Asking for its holes can't fail: then all of it is data.
 */
static int
all_data (void *opaque, uint64_t offset, uint64_t length, bool zero)
{
  uint64_t *next = opaque;

  CHECK_EQ (offset, *next);
  CHECK (!zero);
  *next += length;
  return 0;
}

static void
test_errors (void)
{
  const struct mem_faults reads = {
    .op = MEM_PREAD, .first = 1, .count = UINT64_MAX, .err = ENXIO
  };
  const struct mem_faults looks = {
    .op = MEM_NEXT_EXTENT, .first = 1, .count = UINT64_MAX, .err = EINVAL
  };
  struct mem_file *f = mem_file_new (), *raw;
  struct backing b;
  struct opened o;
  struct model m;
  uint8_t buf[DISK];
  uint64_t next = CS;

  setup (&b, f, &m, BACKING_HOLES);
  raw = b.files[0];
  open_over (&o, f, backing_open (&b));
  mem_set_faults (raw, &reads);
  CHECK_FAILS (qed_pread (o.img, buf, DISK, 0), ENXIO, MEM_NAME);
  CHECK_FAILS (qed_pread (o.img, buf, 2, CS - 1), ENXIO, MEM_NAME);
  compare_pread (o.img, &m, 0, CS);
  compare_pread (o.img, &m, 2 * CS, CS);
  mem_set_faults (raw, &looks);
  CHECK_EQ (qed_extents (o.img, CS, CS, all_data, &next), 0);
  CHECK_EQ (next, 2 * CS);
  mem_set_faults (raw, NULL);
  compare_pread (o.img, &m, 0, DISK);

  /* The backing file is truncated while it is open. */
  mem_truncate (raw, 4 * CS);
  CHECK_FAILS (qed_pread (o.img, buf, CS, 4 * CS), EIO, MEM_NAME);
  close_image (&o);
  backing_free (&b);
  mem_file_free (f);
}

/* Failures in a backing image: reading its tables, an unsound entry. */
static void
test_errors_in_image (void)
{
  const struct mem_faults faults = {
    .op = MEM_PREAD, .first = 1, .count = 1, .err = EACCES
  };
  struct mem_file *f = mem_file_new ();
  struct backing b;
  struct opened o;
  struct model m;
  uint8_t buf[CS];
  uint64_t next = 0;

  setup (&b, f, &m, BACKING_CHAIN);
  model_create (&m, f, CS, 1, DISK);
  m.backing = backing_model (&b);
  model_set (&b.models[1], 1, 12345);
  model_set (&b.models[2], 2, 0);
  model_set (&b.models[2], 3, 0);
  open_over (&o, f, backing_open (&b));
  CHECK_FAILS (qed_pread (o.img, buf, CS, 2 * CS), EIO, MEM_NAME,
               "offset 8192", "L2 entry 0x3039");
  compare_extents (o.img, &m, 0, DISK);
  close_image (&o);

  open_over (&o, f, backing_open (&b));
  mem_set_faults (b.files[1], &faults);
  CHECK_FAILS (qed_extents (o.img, 2 * CS, CS, all_data, &next), EACCES,
               MEM_NAME);
  mem_set_faults (b.files[1], NULL);
  close_image (&o);
  backing_free (&b);
  mem_file_free (f);
}

/* A callback that stops isn't called again; one that fails makes the call
 * fail.
 */
struct counting { unsigned calls, stop; int r; };

static int
stop (void *opaque, uint64_t offset, uint64_t length, bool zero)
{
  struct counting *c = opaque;

  (void) offset;
  (void) length;
  (void) zero;
  CHECK_OP (c->calls, <, c->stop);
  return ++c->calls == c->stop ? c->r : 0;
}

static void
test_extents_stop (void)
{
  struct mem_file *f = mem_file_new ();
  struct backing b;
  struct opened o;
  struct model m;

  setup (&b, f, &m, BACKING_HOLES);
  open_over (&o, f, backing_open (&b));
  for (unsigned i = 1; i < 9; i++) {
    struct counting one = { .stop = i, .r = 1 }, failing = { .stop = i,
                                                            .r = -1 };

    CHECK_EQ (qed_extents (o.img, 0, DISK, stop, &one), 0);
    CHECK_EQ (one.calls, i);
    CHECK_EQ (qed_extents (o.img, 0, DISK, stop, &failing), -1);
    CHECK_EQ (failing.calls, i);
  }
  close_image (&o);
  backing_free (&b);
  mem_file_free (f);
}

static void
test_short_and_eintr (void)
{
  static const struct mem_faults faults[] = {
    { .max_transfer = 1 }, { .max_transfer = 4095 },
    { .eintr_every = 2, .max_transfer = 511 },
  };
  struct mem_file *f = mem_file_new ();
  struct backing b;
  struct opened o;
  struct model m;

  setup (&b, f, &m, BACKING_CHAIN);
  for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
    open_over (&o, f, backing_open (&b));
    for (size_t j = 0; j < b.n; j++)
      mem_set_faults (b.files[j], &faults[i]);
    compare_pread (o.img, &m, 0, DISK);
    compare_pread (o.img, &m, 1, DISK - 2);
    for (size_t j = 0; j < b.n; j++)
      mem_set_faults (b.files[j], NULL);
    close_image (&o);
  }
  backing_check (&b);
  backing_free (&b);
  mem_file_free (f);
}

/* An open that fails leaves storage and backing file to the caller. */
static void
test_open_fails (void)
{
  const struct mem_faults faults = {
    .op = MEM_GET_SIZE, .first = 1, .count = 1, .err = ENXIO
  };
  struct mem_file *f = mem_file_new (), *raw = mem_file_new ();
  struct qed_storage *st = mem_open (f), *raw_st = mem_open (raw);
  struct qed_backing *backing;
  struct qed_image *img;
  struct model m;

  mem_set_faults (raw, &faults);
  CHECK_FAILS_NULL (qed_backing_raw (raw_st), ENXIO, MEM_NAME);
  mem_set_faults (raw, NULL);
  alloc_fail (1);
  CHECK_FAILS_NULL (qed_backing_raw (raw_st), ENOMEM, MEM_NAME);
  alloc_fail (0);
  backing = qed_backing_raw (raw_st);
  CHECK (backing != NULL);

  CHECK_FAILS_NULL (qed_open_overlay (st, backing, QED_MIN_CACHE_SIZE),
                    EINVAL, "not a QED image");
  model_create (&m, f, CS, 1, DISK);
  CHECK_FAILS_NULL (qed_open_overlay (st, backing, 0), EINVAL, "cache");
  for (unsigned k = 1; ; k++) {
    alloc_fail (k);
    img = qed_open_overlay (st, backing, QED_MIN_CACHE_SIZE);
    alloc_fail (0);
    if (img)
      break;
    CHECK_EQ (errno, ENOMEM);
    CHECK_EQ (mem_open_storages (f) + mem_open_storages (raw), 2);
  }
  alloc_fail (1);
  CHECK_FAILS_NULL (qed_backing_image (img), ENOMEM, MEM_NAME);
  alloc_fail (0);
  CHECK_EQ (qed_close (img), 0);
  qed_backing_close (NULL);
  mem_file_free (f);
  mem_file_free (raw);
}

/* A seek anywhere makes it slow. */
static void
test_rotational (void)
{
  for (int i = 0; i < 4; i++) {
    struct mem_file *f = mem_file_new (), *raw = mem_file_new ();
    struct qed_storage *st = mem_open (f), *raw_st = mem_open (raw);
    struct qed_backing *backing;
    struct qed_image *img;
    struct model m;

    model_create (&m, f, CS, 1, DISK);
    st->rotational = i & 1;
    raw_st->rotational = i & 2;
    img = qed_open_overlay (st, qed_backing_raw (raw_st), QED_MIN_CACHE_SIZE);
    CHECK (img != NULL);
    CHECK_EQ (qed_is_rotational (img), i > 0);
    backing = qed_backing_image (img);
    CHECK (backing != NULL);
    CHECK_EQ (backing->rotational, i > 0);
    CHECK_EQ (backing->size, DISK);
    CHECK_STR (backing->name, MEM_NAME);
    qed_backing_close (backing);
    CHECK_EQ (mem_open_storages (f) + mem_open_storages (raw), 0);
    mem_file_free (f);
    mem_file_free (raw);
  }
}

HARNESS_MAIN (
  TEST (test_edges),
  TEST (test_random),
  TEST (test_deep),
  TEST (test_calls),
  TEST (test_prefetch),
  TEST (test_errors),
  TEST (test_errors_in_image),
  TEST (test_extents_stop),
  TEST (test_short_and_eintr),
  TEST (test_open_fails),
  TEST (test_rotational),
)
