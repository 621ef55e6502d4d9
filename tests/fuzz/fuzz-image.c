/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The fuzz target of reading and writing: any file as an image (I9).  The
 * target opens the image with the smallest cache, by itself and as an overlay
 * on a raw file, maps and reads parts of it, and compares the results with the
 * model (tests/unit/model.h).  Then it opens the image for writing, in one of
 * the two ways, which checks and repairs it if NEED_CHECK is set, and writes.
 * An input costs a few thousand storage operations at most, however large a
 * disk it describes.
 */

#include <config.h>

#include "alloc.h"
#include "harness.h"
#include "input.h"
#include "model.h"

#define MAX_RUNS 200
#define MAX_EXTENTS 200
#define MAX_READ 20000
#define AROUND 700              /* bytes before and after a write looked at */
#define MAX_BACKING 200000

static uint64_t
min (uint64_t a, uint64_t b)
{
  return a < b ? a : b;
}

/* An image that doesn't open: there is an error message, and nothing leaks. */
static void
check_refused (struct qed_storage *st, int err)
{
  struct qed_header h;
  char *backing = NULL;

  CHECK (err == EINVAL || err == ENOTSUP || err == EIO);
  CHECK_EQ (strncmp (qed_get_error (), MEM_NAME ": ",
                     strlen (MEM_NAME ": ")), 0);

  /* The header may be valid if the image has a backing file. */
  if (qed_read_header (st, &h, &backing) == 0) {
    CHECK (backing != NULL);
    CHECK_OP (strlen (backing), <=, QED_MAX_BACKING_FILENAME);
    CHECK (h.features & QED_F_BACKING_FILE);
    free (backing);
  }
}

/* Read the bytes on both sides of OFFSET. */
static void
read_around (struct qed_image *img, const struct model *m, uint64_t offset,
             uint64_t count)
{
  uint64_t from = offset < count ? 0 : offset - count;

  if (from < m->h.image_size)
    compare_pread (img, m, from, min (2 * count, m->h.image_size - from));
}

/* The first runs of the disk from OFFSET on.  Only some of them are followed
 * to their end, because walking the L1 table of a large disk takes time.
 */
static void
check_runs (struct qed_image *img, const struct model *m, uint64_t offset)
{
  uint64_t size = m->h.image_size;

  for (int i = 0; i < MAX_RUNS && offset < size; i++) {
    uint64_t length = size - offset;
    struct qed_run run;

    if (i % 16 != 0)
      length = min (length, 5000 * (uint64_t) m->h.cluster_size);
    run = compare_map (img, m, offset, length, 70);

    /* Data is in the file, after the header clusters. */
    if (run.type == QED_RUN_DATA) {
      CHECK_OP (run.file_offset, >=,
                (uint64_t) m->h.header_size * m->h.cluster_size);
      CHECK_OP (run.file_offset, <, m->file_size);
      CHECK_OP (run.length, <=, m->file_size - run.file_offset);
    }

    /* The begin of the run has been compared: also its end, and across it. */
    compare_map (img, m, offset + run.length - 1, 1, 1);
    if (i < 20)
      read_around (img, m, offset + run.length, i % 2 ? 512 : 5000);
    offset += run.length;
  }
}

struct extents {
  struct qed_image *img;
  uint64_t next, end;
  int last;
  unsigned calls;
};

static int
check_extent (void *opaque, uint64_t offset, uint64_t length, bool zero)
{
  struct extents *e = opaque;

  CHECK_EQ (offset, e->next);
  CHECK_OP (length, >, 0);
  CHECK_OP (length, <=, e->end - offset);
  CHECK (zero != e->last);
  e->next = offset + length;
  e->last = zero;

  /* Zeros are zeros, at both ends. */
  if (zero) {
    static const uint8_t zeros[1024];
    uint8_t buf[1024];
    uint64_t n = min (length, sizeof buf);

    for (int i = 0; i < 2; i++) {
      memset (buf, 1, sizeof buf);
      CHECK_EQ (qed_pread (e->img, buf, n,
                           i ? offset + length - n : offset), 0);
      CHECK_EQ (memcmp (buf, zeros, n), 0);
    }
  }
  return ++e->calls == MAX_EXTENTS;
}

/* All extents of a range, the first ones from OFFSET on byte by byte. */
static void
check_extents (struct qed_image *img, const struct model *m, uint64_t offset,
               uint64_t length)
{
  struct extents e = { img, offset, offset + length, -1, 0 };

  CHECK_EQ (qed_extents (img, offset, length, check_extent, &e), 0);
  if (e.calls < MAX_EXTENTS)
    CHECK_EQ (e.next, offset + length);
  compare_extents (img, m, offset, min (length, 1 << 17));
}

/* The first clusters, the last one, and random places. */
static void
check_reads (struct qed_image *img, const struct model *m, struct rng *rng)
{
  uint64_t cs = m->h.cluster_size, size = m->h.image_size;

  for (uint64_t c = 0; c < 8 && c * cs < size; c++)
    compare_pread (img, m, c * cs, min (size - c * cs, min (cs, MAX_READ)));
  compare_pread (img, m, size - min (size, 1000), min (size, 1000));
  for (int i = 0; i < 16; i++) {
    uint64_t offset = rng_below (rng, i % 2 ? size : min (size, 20 * cs));
    uint64_t count = rng_below (rng, min (MAX_READ, size - offset)) + 1;

    compare_pread (img, m, offset, count);
  }
}

static void
check_image (struct qed_image *img, const struct model *m, struct rng *rng)
{
  uint64_t size = m->h.image_size, offset;
  uint8_t byte, a[QED_HEADER_BYTES], b[QED_HEADER_BYTES];

  qed_header_encode (qed_get_header (img), a);
  mem_read (m->file, b, sizeof b, 0);
  CHECK_EQ (memcmp (a, b, sizeof a), 0);
  CHECK_FAILS (qed_pread (img, &byte, 1, size), EINVAL, MEM_NAME);
  if (size == 0)
    return;
  check_runs (img, m, 0);
  offset = rng_below (rng, size);
  check_runs (img, m, offset);
  check_extents (img, m, 0, size);
  check_extents (img, m, offset, 1 + rng_below (rng, size - offset));
  check_reads (img, m, rng);
  CHECK_EQ (qed_prefetch (img, offset, min (size - offset, 1 << 24)), 0);
}

/* The range that was written has byte C, or after a TRIM zeros or its old
 * content, and the bytes around it haven't changed.
 */
static void
check_written (const uint8_t *before, const uint8_t *after, uint64_t size,
               uint64_t at, uint64_t count, int c, bool trim)
{
  for (uint64_t i = 0; i < size; i++)
    if (i < at || i >= at + count)
      CHECK_EQ (after[i], before[i]);
    else if (after[i] != c)
      CHECK (trim && after[i] == before[i]);
}

static int
change (struct qed_image *img, unsigned op, const void *buf, uint64_t count,
        uint64_t offset)
{
  switch (op) {
  case 0: return qed_pwrite (img, buf, count, offset, QED_FUA);
  case 6: return qed_zero (img, count, offset, QED_MAY_TRIM);
  case 7: return qed_trim (img, count, offset, 0);
  default: return qed_pwrite (img, buf, count, offset, 0);
  }
}

/* One random write, zero or trim.  In an image that was CHECKED no cluster has
 * two owners, so it reads back.
 */
static void
write_once (struct qed_image *img, const struct model *m, struct rng *rng,
            bool checked)
{
  static uint8_t buf[MAX_READ];
  static uint8_t before[MAX_READ + 2 * AROUND], after[MAX_READ + 2 * AROUND];
  uint64_t size = m->h.image_size;
  uint64_t offset = rng_below (rng, rng_below (rng, 2) ? size :
                               min (size, 20 * (uint64_t) m->h.cluster_size));
  uint64_t count = rng_below (rng, min (MAX_READ, size - offset)) + 1;
  uint64_t from = offset - min (offset, AROUND);
  uint64_t length = min (size, offset + count + AROUND) - from;
  unsigned op = (unsigned) rng_below (rng, 8);
  int c = op < 6 ? 1 + (int) rng_below (rng, 255) : 0, r;

  memset (buf, c, sizeof buf);
  if (checked)
    CHECK_EQ (qed_pread (img, before, length, from), 0);
  r = change (img, op, buf, count, offset);
  CHECK (r == 0 || errno == EIO || errno == EFBIG);
  if (r == 0 && checked) {
    CHECK_EQ (qed_pread (img, after, length, from), 0);
    check_written (before, after, length, offset - from, count, c, op == 7);
  }
}

static void
check_writing (struct mem_file *f, struct model *m, struct rng *rng,
               struct mem_file *backing)
{
  const struct qed_write_options opts = { 0 };
  bool dirty = m->h.features & QED_F_NEED_CHECK;
  uint64_t hash = mem_hash (f), backing_hash = mem_hash (backing);
  bool overlay = m->h.features & QED_F_BACKING_FILE || rng_below (rng, 2);
  struct qed_image *img =
    qed_open_overlay (mem_open (f),
                      overlay ? qed_backing_raw (mem_open (backing)) : NULL,
                      QED_MIN_CACHE_SIZE);

  CHECK (img != NULL);
  if (qed_make_writable (img, &opts) == -1) {
    CHECK (dirty);
    CHECK (errno == EIO || errno == EFBIG);
    CHECK_EQ (mem_hash (f), hash);
  }
  else if (m->h.image_size > 0)
    for (int i = 0; i < 24; i++)
      write_once (img, m, rng, dirty);
  CHECK_EQ (qed_close (img), 0);
  CHECK_EQ (mem_hash (backing), backing_hash);
  CHECK (model_open (m, f));
}

/* A backing file: short, with a hole in it. */
static struct mem_file *
make_backing (struct model *m, struct rng *rng)
{
  struct mem_file *f = mem_file_new ();

  mem_truncate (f, rng_below (rng, MAX_BACKING));
  model_raw (m, f);
  model_pattern (m, 0, mem_size (f) / 4);
  model_pattern (m, mem_size (f) / 2, mem_size (f) / 2);
  model_raw (m, f);
  return f;
}

/* The image as an overlay on that file: read, then written. */
static void
check_overlay (struct mem_file *f, struct model *m, struct rng *rng)
{
  struct model raw;
  struct mem_file *backing = make_backing (&raw, rng);
  struct qed_backing *b = qed_backing_raw (mem_open (backing));
  struct qed_image *img = qed_open_overlay (mem_open (f), b,
                                            QED_MIN_CACHE_SIZE);

  CHECK (img != NULL);
  m->backing = &raw;
  if (m->h.image_size > 0) {
    check_extents (img, m, 0, m->h.image_size);
    check_reads (img, m, rng);
  }
  qed_close (img);
  CHECK_EQ (mem_calls (f, MEM_PWRITE) + mem_calls (f, MEM_RESIZE), 0);
  check_writing (f, m, rng, backing);
  mem_file_free (backing);
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  struct mem_file *f = input_load (data, size);
  struct rng rng = { mem_hash (f) };
  struct model m;
  bool valid = model_open (&m, f);
  struct qed_storage *st = mem_open (f);
  int64_t before = alloc_bytes ();
  struct qed_image *img;

  CONTEXT ("the model finds the header %svalid", valid ? "" : "in");
  alloc_reset_peak ();
  img = qed_open (st, QED_MIN_CACHE_SIZE);
  CHECK_EQ (img != NULL, valid && !(m.h.features & QED_F_BACKING_FILE));
  if (img) {
    check_image (img, &m, &rng);
    /* I7, with what the comparisons allocate. */
    CHECK_OP (alloc_peak () - before, <=,
              QED_MIN_CACHE_SIZE + 2 * MAX_READ + 16384);
    qed_close (img);
  }
  else {
    check_refused (st, errno);
    qed_storage_close (st);
  }

  /* I10. */
  CHECK_EQ (mem_calls (f, MEM_PWRITE) + mem_calls (f, MEM_RESIZE), 0);
  if (valid)
    check_overlay (f, &m, &rng);
  mem_file_free (f);
  return 0;
}
