/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* qed_copy_disk copies each byte once, in order if the sink wants that, leaves
 * out zeros, gives up what can't be read if it may, and ends at any failure
 * with its message.
 */

#include <config.h>

#include <pthread.h>
#include <stdatomic.h>

#include "copy-disk.h"
#include "error.h"
#include "harness.h"

#define MAX_SIZE (UINT64_C (9) << 20)
#define BLOCK UINT64_C (512)
#define BLOCKS (MAX_SIZE / BLOCK)

/* ---- the source ---- */

struct source {
  struct qed_backing b;
  uint8_t bytes[MAX_SIZE];
  bool known_zero[BLOCKS];      /* told as extents */
  bool bad[BLOCKS];             /* can't be read */
  atomic_int reads_left;        /* then nothing can be read; -1: never */
  bool extents_fail;
};
static struct source source;

static int
source_pread (struct qed_backing *b, void *buf, size_t count, uint64_t offset)
{
  struct source *s = (struct source *) b;
  bool gone = false;

  CHECK (count > 0 && offset + count <= b->size);
  if (atomic_load (&s->reads_left) >= 0)
    gone = atomic_fetch_sub (&s->reads_left, 1) <= 0;
  if (gone)
    atomic_store (&s->reads_left, 0);
  for (uint64_t i = offset / BLOCK; i * BLOCK < offset + count; i++)
    if (gone || s->bad[i]) {
      memset (buf, 0xee, count);
      return qed_error (EIO, "source: read at %" PRIu64, offset);
    }
  memcpy (buf, s->bytes + offset, count);
  return 0;
}

static int
source_extents (struct qed_backing *b, uint64_t offset, uint64_t length,
                qed_extent_fn *fn, void *opaque)
{
  struct source *s = (struct source *) b;
  int r = 0;

  if (s->extents_fail)
    return qed_error (EIO, "source: no extents");
  for (uint64_t n; r == 0 && length > 0; offset += n, length -= n) {
    bool zero = s->known_zero[offset / BLOCK];

    n = BLOCK - offset % BLOCK;
    while (n < length && s->known_zero[(offset + n) / BLOCK] == zero)
      n += BLOCK;
    n = n < length ? n : length;
    r = fn (opaque, offset, n, zero);
  }
  return r == -1 ? -1 : 0;
}

static const struct qed_backing_ops source_ops = {
  .pread = source_pread, .extents = source_extents,
};

/* A disk of SIZE bytes: runs of known zeros, zeros that must be found, and
 * data.
 */
static void
make_source (struct rng *r, uint64_t size)
{
  source.b = (struct qed_backing) {
    .ops = &source_ops, .name = "source", .size = size,
  };
  atomic_store (&source.reads_left, -1);
  source.extents_fail = false;
  memset (source.bytes, 0, sizeof source.bytes);
  memset (source.bad, 0, sizeof source.bad);
  memset (source.known_zero, 0, sizeof source.known_zero);
  for (uint64_t i = 0, n; i < BLOCKS; i += n) {
    uint64_t kind = rng_below (r, 3);

    n = 1 + rng_below (r, UINT64_C (1) << rng_below (r, 13));
    for (uint64_t k = i; k < i + n && k < BLOCKS; k++) {
      source.known_zero[k] = kind == 0;
      if (kind == 2)
        memset (source.bytes + k * BLOCK, 1 + (int) rng_below (r, 255), BLOCK);
    }
  }
}

/* ---- the sink ---- */

struct sink {
  struct qed_sink s;
  struct qed_sink_ops ops;
  uint8_t bytes[MAX_SIZE];
  atomic_uchar got[BLOCKS];     /* how often */
  uint64_t next;                /* of an ordered one */
  atomic_bool busy;             /* an ordered one */
  atomic_int writes_left;       /* then they fail; -1: never */
};
static struct sink sink;

static int
take (struct sink *s, uint64_t offset, uint64_t length)
{
  CHECK (length > 0);
  if (s->ops.ordered) {
    CHECK (!atomic_exchange (&s->busy, true));
    CHECK_OP (offset, >=, s->next);
    s->next = offset + length;
  }
  for (uint64_t i = offset / BLOCK; i * BLOCK < offset + length; i++)
    CHECK_EQ (atomic_fetch_add (&s->got[i], 1), 0);
  atomic_store (&s->busy, false);
  if (atomic_load (&s->writes_left) >= 0 &&
      atomic_fetch_sub (&s->writes_left, 1) <= 0) {
    atomic_store (&s->writes_left, 0);
    return qed_error (ENOSPC, "sink: full");
  }
  return 0;
}

static int
sink_write (struct qed_sink *q, const void *buf, size_t count,
            uint64_t offset)
{
  struct sink *s = (struct sink *) q;

  if (take (s, offset, count) == -1)
    return -1;
  memcpy (s->bytes + offset, buf, count);
  return 0;
}

static int
sink_zero (struct qed_sink *q, uint64_t offset, uint64_t length)
{
  struct sink *s = (struct sink *) q;

  if (take (s, offset, length) == -1)
    return -1;
  memset (s->bytes + offset, 0, length);
  return 0;
}

/* With ZERO it had other bytes before. */
static void
make_sink (bool ordered, bool zero)
{
  sink.ops = (struct qed_sink_ops) {
    .write = sink_write, .zero = zero ? sink_zero : NULL, .ordered = ordered,
  };
  sink.s = (struct qed_sink) { .ops = &sink.ops, .name = "sink" };
  memset (sink.bytes, zero ? 0xaa : 0, sizeof sink.bytes);
  for (size_t i = 0; i < BLOCKS; i++)
    atomic_store (&sink.got[i], 0);
  sink.next = 0;
  atomic_store (&sink.busy, false);
  atomic_store (&sink.writes_left, -1);
}

/* ---- checks ---- */

static uint64_t last_done;

static void
progress (void *opaque, uint64_t done, uint64_t total)
{
  CHECK_EQ (total, *(uint64_t *) opaque);
  CHECK_OP (done, >=, last_done);
  CHECK_OP (done, <=, total);
  last_done = done;
}

/* The first SIZE bytes are those of the source, or zeros where it is bad. */
static void
check_copy (uint64_t size)
{
  for (uint64_t i = 0; i * BLOCK < size; i++) {
    static const uint8_t zeros[BLOCK];
    uint64_t n = size - i * BLOCK < BLOCK ? size - i * BLOCK : BLOCK;

    CONTEXT ("block %" PRIu64, i);
    CHECK_EQ (memcmp (sink.bytes + i * BLOCK, source.bad[i] ? zeros :
                      source.bytes + i * BLOCK, n), 0);
  }
}

/* Where does the run of zeros, known or not, end that begins at block I? */
static uint64_t
end_of_zeros (uint64_t i, uint64_t size, bool *known)
{
  *known = false;
  for (; i * BLOCK < size && source.bytes[i * BLOCK] == 0; i++)
    *known |= source.known_zero[i];
  return i;
}

/* Zeros that are known, and in runs of MIN, weren't written; shorter runs were.
 * Runs end where a piece does, of 1 MiB or so, so not all that are longer are
 * found.
 */
static void
check_left_out (uint64_t size, uint64_t min)
{
  for (uint64_t i = 0, end; (i + 1) * BLOCK <= size; i = end + 1) {
    bool known;
    const uint64_t piece = (UINT64_C (1) << 20) / BLOCK;

    CONTEXT ("block %" PRIu64, i);
    end = end_of_zeros (i, size, &known);
    for (uint64_t k = i; k < end; k++)
      if (source.known_zero[k] || min == BLOCK)
        CHECK_EQ (sink.got[k], 0);
      else if (!known && (end - i) * BLOCK < min)
        CHECK_EQ (sink.got[k], 1);
      else if (k > i + 2 * piece && k + 2 * piece < end)
        CHECK_EQ (sink.got[k], 0);
    if ((end + 1) * BLOCK <= size)
      CHECK_EQ (sink.got[end], 1);
  }
}

static void
test_content (void)
{
  struct rng r = { .state = 1 };

  for (int i = 0; i < 60; i++) {
    uint64_t size = i % 5 == 0 ? rng_below (&r, 2000) :
      MAX_SIZE - rng_below (&r, 3 << 20);
    const uint64_t mins[] = { 0, 512, 4096, 65536, 1536 };
    const uint64_t min = mins[i / 2 % 5];
    const bool zero = i % 3 == 0, ordered = i % 2;
    const struct qed_progress p = { .fn = progress, .opaque = &size };
    const struct qed_convert_options opts = {
      .threads = 1 + (unsigned) rng_below (&r, QED_MAX_CONVERT_THREADS),
      .min_zeros = min, .progress = &p,
    };

    make_source (&r, size);
    make_sink (ordered, zero);
    last_done = 0;
    CONTEXT ("round %d", i);
    CHECK_EQ (qed_copy_disk (&source.b, size, &sink.s, &opts), 0);
    if (size > 0)
      CHECK_EQ (last_done, size);
    check_copy (size);
    if (min == 0 || zero)
      for (uint64_t k = 0; k * BLOCK < size; k++)
        CHECK_EQ (sink.got[k], 1);
    else
      check_left_out (size, min);
  }
}

/* The source ends before the disk does. */
static void
test_short (void)
{
  struct rng r = { .state = 2 };
  const struct qed_convert_options opts = { .threads = 4 };

  make_source (&r, 1000001);
  memset (source.bytes + 1000001, 0, sizeof source.bytes - 1000001);
  make_sink (false, true);
  CHECK_EQ (qed_copy_disk (&source.b, 3000064, &sink.s, &opts), 0);
  check_copy (3000064);
  for (uint64_t i = 0; i * BLOCK < 3000064; i++)
    CHECK_EQ (sink.got[i], 1);
}

/* ---- failures ---- */

static void
test_failures (void)
{
  struct rng r = { .state = 3 };

  for (int i = 0; i < 40; i++) {
    const struct qed_convert_options opts = {
      .threads = 1 + (unsigned) rng_below (&r, 8), .min_zeros = 4096,
    };

    CONTEXT ("round %d", i);
    make_source (&r, MAX_SIZE);
    make_sink (i % 2, true);
    switch (i % 3) {
    case 0:
      atomic_store (&sink.writes_left, (int) rng_below (&r, 5));
      CHECK_FAILS (qed_copy_disk (&source.b, MAX_SIZE, &sink.s, &opts), ENOSPC,
                   "sink: full");
      break;
    case 1:
      memset (source.known_zero, 0, sizeof source.known_zero);
      atomic_store (&source.reads_left, (int) rng_below (&r, 7));
      CHECK_FAILS (qed_copy_disk (&source.b, MAX_SIZE, &sink.s, &opts), EIO,
                   "source: read at ");
      break;
    case 2:
      source.extents_fail = true;
      CHECK_FAILS (qed_copy_disk (&source.b, MAX_SIZE, &sink.s, &opts), EIO,
                   "source: no extents");
      break;
    }
  }
}

static atomic_int asked;

static bool
interrupt_soon (void)
{
  return atomic_fetch_add (&asked, 1) >= 3;
}

static void
test_interrupted (void)
{
  struct rng r = { .state = 4 };
  const struct qed_convert_options opts = { .threads = 4 };

  make_source (&r, MAX_SIZE);
  make_sink (true, true);
  qed_interrupted = interrupt_soon;
  CHECK_FAILS (qed_copy_disk (&source.b, MAX_SIZE, &sink.s, &opts), ESHUTDOWN,
               "sink: interrupted");
  qed_interrupted = NULL;
}

/* ---- salvage ---- */

static void
note_lost (void *opaque, uint64_t offset, uint64_t length)
{
  bool *lost = opaque;

  CHECK_OP (length, <=, 4096);
  for (uint64_t i = offset / BLOCK; i * BLOCK < offset + length; i++)
    lost[i] = true;
}

static bool lost[BLOCKS];

/* What isn't read is told, in blocks of 4 KiB, and becomes zeros. */
static void
test_salvage (void)
{
  struct rng r = { .state = 5 };

  for (int i = 0; i < 20; i++) {
    const struct qed_convert_options opts = {
      .threads = 4, .min_zeros = 4096, .unreadable = note_lost,
      .opaque = lost,
    };

    CONTEXT ("round %d", i);
    memset (lost, 0, sizeof lost);
    make_source (&r, MAX_SIZE);
    for (int k = 0; k < 30; k++) {
      uint64_t first = rng_below (&r, BLOCKS) & ~UINT64_C (7);

      for (uint64_t j = first; j < first + 8; j++)
        source.bad[j] = !source.known_zero[j];
    }
    make_sink (i % 2, true);
    CHECK_EQ (qed_copy_disk (&source.b, MAX_SIZE, &sink.s, &opts), 0);
    for (uint64_t k = 0; k < BLOCKS; k++) {
      if (source.bad[k])
        CHECK (lost[k]);
      source.bad[k] = lost[k];
    }
    check_copy (MAX_SIZE);
  }
}

/* A source that goes away is a failure all the same. */
static void
test_salvage_gone (void)
{
  struct rng r = { .state = 6 };
  const struct qed_convert_options opts = {
    .threads = 4, .unreadable = note_lost, .opaque = lost,
  };

  make_source (&r, MAX_SIZE);
  make_sink (false, true);
  atomic_store (&source.reads_left, 4);
  CHECK_FAILS (qed_copy_disk (&source.b, MAX_SIZE, &sink.s, &opts), EIO,
               "source: read at ");
}

HARNESS_MAIN (
  TEST (test_content),
  TEST (test_short),
  TEST (test_failures),
  TEST (test_interrupted),
  TEST (test_salvage),
  TEST (test_salvage_gone),
)
