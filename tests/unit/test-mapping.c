/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* qed_map returns the longest run of clusters of one type, contiguous in the
 * file if they are data, and never merges others.  It trusts no unsound entry,
 * and it finds empty ranges of any size with a few reads.  qed_extents agrees
 * with it.
 */

#include <config.h>

#include "harness.h"
#include "memory-storage.h"
#include "model.h"

/* The whole run at an offset: qed_map may return a run of data in parts of at
 * least 1024 clusters.
 */
static int
map_all (struct qed_image *img, uint64_t offset, uint64_t length,
         struct qed_run *run)
{
  const uint64_t part = UINT64_C (1024) * qed_get_header (img)->cluster_size;
  struct qed_run next;

  if (qed_map (img, offset, length, run) == -1)
    return -1;
  while (run->type == QED_RUN_DATA && run->length < length &&
         run->length > part / 2) {
    if (qed_map (img, offset + run->length, length - run->length, &next)
        == -1)
      return -1;
    if (next.type != QED_RUN_DATA ||
        next.file_offset != run->file_offset + run->length)
      break;
    run->length += next.length;
  }
  return 0;
}

static void
check_run (struct qed_image *img, uint64_t offset, uint64_t length,
           enum qed_run_type type, uint64_t run_length, uint64_t file_offset)
{
  struct qed_run run = { 0 };

  CHECK_EQ (map_all (img, offset, length, &run), 0);
  CONTEXT ("map of %#" PRIx64 " + %#" PRIx64 ": type %d length %#" PRIx64
           " at %#" PRIx64, offset, length, run.type, run.length,
           run.file_offset);
  CHECK_EQ (run.type, type);
  CHECK_EQ (run.length, run_length);
  if (type == QED_RUN_DATA || type == QED_RUN_UNSOUND)
    CHECK_EQ (run.file_offset, file_offset);
}

/* Contiguous clusters over two tables and all their slices are one run, for
 * any start and length of the request.
 */
static void
test_contiguous (void)
{
  FOR_ALL_GEOMETRIES (cs, ts) {
    struct mem_file *f = mem_file_new ();
    struct opened o;
    struct model m;
    uint64_t n, first, count, base, size;

    model_create (&m, f, (uint32_t) cs, (uint32_t) ts, 0);
    n = model_entries (&m);
    size = 3 * n * cs;
    m.h.image_size = size;
    model_write_header (&m);

    /* At most 1600 clusters on each side of the end of the first table:
     * three slices and some.
     */
    first = n > 1600 ? n - 1600 : 10;
    count = n > 1600 ? 3200 : n + n / 2;
    model_set (&m, 0, 0);
    model_set (&m, n, 0);
    base = model_append (&m, count);
    for (uint64_t i = 0; i < count; i++)
      model_set (&m, first + i, base + i * cs);

    open_image (&o, f, QED_MIN_CACHE_SIZE);
    check_run (o.img, first * cs, size - first * cs, QED_RUN_DATA,
               count * cs, base);
    check_run (o.img, first * cs, count * cs, QED_RUN_DATA, count * cs, base);
    check_run (o.img, first * cs, 1, QED_RUN_DATA, 1, base);
    check_run (o.img, first * cs + 1, cs, QED_RUN_DATA, cs, base + 1);
    check_run (o.img, (first + 700) * cs - 1, size - (first + 700) * cs,
               QED_RUN_DATA, (count - 700) * cs + 1, base + 700 * cs - 1);
    check_run (o.img, (first + count) * cs - 1, cs, QED_RUN_DATA, 1,
               base + count * cs - 1);
    check_run (o.img, (first + count) * cs, cs, QED_RUN_UNALLOCATED, cs, 0);
    check_run (o.img, 0, size, QED_RUN_UNALLOCATED, first * cs, 0);
    close_image (&o);
    mem_file_free (f);
  }
}

/* One break in a long run, at every place around the ends of slices and
 * tables, and of every kind.
 */
static void
test_break (void)
{
  const uint32_t cs = 4096;
  struct mem_file *f = mem_file_new ();
  struct model m;
  uint64_t n, count, base, other;

  model_create (&m, f, cs, 2, 2 * 1024 * 4096);
  n = model_entries (&m);       /* two slices */
  CHECK_EQ (n, 1024);
  count = 2 * n;
  model_set (&m, n, 0);         /* the second table is before the first */
  model_set (&m, 0, 0);
  base = model_append (&m, count);
  other = model_append (&m, 2);

  for (uint64_t at = 1; at < count; at++) {
    const struct { uint64_t entry; enum qed_run_type type; } kinds[] = {
      { 0, QED_RUN_UNALLOCATED },
      { 1, QED_RUN_ZERO },
      { other, QED_RUN_DATA },
      { base + (at - 1) * cs, QED_RUN_DATA }, /* the one before again */
      { base + (at + 1) * cs, QED_RUN_DATA }, /* one is left out */
      { base + at * cs + 1, QED_RUN_UNSOUND }, /* almost */
      { base + at * cs + 512, QED_RUN_UNSOUND },
      { m.h.l1_table_offset, QED_RUN_UNSOUND },
    };

    if (at % 512 > 2 && at % 512 < 510 && at % 61)
      continue;
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
      struct opened o;
      bool last = at == count - 1;

      for (uint64_t i = 0; i < count; i++)
        if (i + 4 > at && i < at + 4)
          model_set (&m, i, base + i * cs);
        else if (k == 0)
          model_set (&m, i, base + i * cs);
      model_set (&m, at, kinds[k].entry);
      open_image (&o, f, QED_MIN_CACHE_SIZE);
      check_run (o.img, 0, count * cs, QED_RUN_DATA, at * cs, base);
      /* With base + (at + 1) * cs the cluster after doesn't follow. */
      check_run (o.img, at * cs, (count - at) * cs, kinds[k].type, cs,
                 kinds[k].entry);
      if (!last)
        check_run (o.img, (at + 1) * cs, (count - at - 1) * cs, QED_RUN_DATA,
                   (count - at - 1) * cs, base + (at + 1) * cs);
      close_image (&o);
    }
  }
  mem_file_free (f);
}

/* Descending and interleaved clusters never merge. */
static void
test_not_contiguous (void)
{
  const uint32_t cs = 65536;
  struct mem_file *f = mem_file_new ();
  struct opened o;
  struct model m;
  uint64_t base;

  model_create (&m, f, cs, 1, 200 * cs);
  model_set (&m, 0, 0);
  base = model_append (&m, 200);
  for (uint64_t i = 0; i < 100; i++)
    model_set (&m, i, base + (99 - i) * cs);
  for (uint64_t i = 0; i < 100; i++)
    model_set (&m, 100 + i, base + (100 + i / 2 + i % 2 * 50) * cs);
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  for (uint64_t i = 0; i < 200; i++)
    compare_map (o.img, &m, i * cs, (200 - i) * cs, 200);
  check_run (o.img, 0, 200 * cs, QED_RUN_DATA, cs, base + 99 * cs);
  close_image (&o);
  mem_file_free (f);
}

/* Zero and unallocated differ; unsound entries merge whatever their values,
 * those in L1 with those in L2 too.
 */
static void
test_types (void)
{
  FOR_ALL_GEOMETRIES (cs, ts) {
    struct mem_file *f = mem_file_new ();
    struct opened o;
    struct model m;
    uint64_t n, size, end;

    model_create (&m, f, (uint32_t) cs, (uint32_t) ts, 0);
    n = model_entries (&m);
    size = 5 * n * cs - 512;
    m.h.image_size = size;
    model_write_header (&m);

    /* Table 0: unallocated, zero, zero, unallocated ..., unsound twice.
     * Table 1: an unsound L1 entry.  Table 2: unsound, data, unallocated.
     * Table 3: absent.  Table 4: all unallocated, then zero at the end.
     */
    model_set (&m, 1, 1);
    model_set (&m, 2, 1);
    model_set (&m, n - 2, 4097);
    model_set (&m, n - 1, UINT64_MAX - 1);
    model_set_l1 (&m, 1, cs);
    model_set (&m, 2 * n, m.h.l1_table_offset);
    model_data (&m, 2 * n + 1);
    model_set (&m, 5 * n - 1, 1);
    end = mem_size (f);

    open_image (&o, f, QED_MIN_CACHE_SIZE);
    check_run (o.img, 0, size, QED_RUN_UNALLOCATED, cs, 0);
    check_run (o.img, cs + 5, size - cs - 5, QED_RUN_ZERO, 2 * cs - 5, 0);
    check_run (o.img, 3 * cs, size - 3 * cs, QED_RUN_UNALLOCATED,
               (n - 5) * cs, 0);
    check_run (o.img, (n - 2) * cs, size - (n - 2) * cs, QED_RUN_UNSOUND,
               (n + 3) * cs, 4097);
    check_run (o.img, (n - 1) * cs + 7, size - (n - 1) * cs - 7,
               QED_RUN_UNSOUND, (n + 2) * cs - 7, UINT64_MAX - 1);
    check_run (o.img, (n + 2) * cs, size - (n + 2) * cs,
               QED_RUN_UNSOUND, (n - 1) * cs, cs);
    check_run (o.img, 2 * n * cs, size - 2 * n * cs, QED_RUN_UNSOUND, cs,
               m.h.l1_table_offset);
    check_run (o.img, (2 * n + 1) * cs, cs, QED_RUN_DATA, cs,
               end - (m.h.table_size + 1) * cs);
    check_run (o.img, (2 * n + 2) * cs, size - (2 * n + 2) * cs,
               QED_RUN_UNALLOCATED, (3 * n - 3) * cs, 0);
    check_run (o.img, size - 1, 1, QED_RUN_ZERO, 1, 0);
    check_run (o.img, size - cs + 512, cs - 512, QED_RUN_ZERO, cs - 512, 0);
    close_image (&o);
    mem_file_free (f);
  }
}

/* Every kind of unsound entry, in L1 and in L2, and the closest sound entries.
 */
static void
test_unsound (void)
{
  FOR_ALL_GEOMETRIES (cs, ts) {
    struct mem_file *f = mem_file_new ();
    struct model m;
    uint64_t own, end, tb, candidates[24];
    size_t n = 0;

    model_create (&m, f, (uint32_t) cs, (uint32_t) ts, 16 * cs);
    m.h.header_size = 2;
    m.h.l1_table_offset = 40 * cs;
    model_write_header (&m);
    mem_truncate (f, 120 * cs);
    tb = model_table_bytes (&m);
    own = 80 * cs;
    model_set_l1 (&m, 0, own);
    mem_truncate (f, 119 * cs + cs / 2); /* a partial cluster */
    m.file_size = mem_size (f);
    end = 119 * cs;

    candidates[n++] = 2;
    candidates[n++] = cs;
    candidates[n++] = 2 * cs;
    candidates[n++] = 2 * cs + 1;
    candidates[n++] = 40 * cs - cs;
    candidates[n++] = 40 * cs - tb;
    candidates[n++] = 40 * cs;
    candidates[n++] = 40 * cs + tb - cs;
    candidates[n++] = 40 * cs + tb;
    candidates[n++] = own - cs;
    candidates[n++] = own;
    candidates[n++] = own + tb - cs;
    candidates[n++] = own + tb;
    candidates[n++] = end - tb;
    candidates[n++] = end - tb + cs;
    candidates[n++] = end - cs;
    candidates[n++] = end;
    candidates[n++] = end + cs;
    candidates[n++] = UINT64_C (1) << 62;
    candidates[n++] = UINT64_C (1) << 63;
    candidates[n++] = 0 - tb;
    candidates[n++] = 0 - cs;
    candidates[n++] = UINT64_MAX;
    candidates[n++] = (UINT64_C (1) << 63) | (2 * cs);

    for (size_t i = 0; i < n; i++) {
      struct opened o;
      uint8_t b;

      /* As an L2 entry. */
      model_set_l1 (&m, 0, own);
      for (uint64_t c = 0; c < 16; c++)
        model_put64 (&m, own + 8 * c, c == 5 ? candidates[i] : 1);
      open_image (&o, f, QED_MIN_CACHE_SIZE);
      for (uint64_t c = 3; c < 8; c++) {
        compare_map (o.img, &m, c * cs, (16 - c) * cs, 20);
        compare_pread (o.img, &m, c * cs + 1, 1);
      }
      if (model_pread (&m, &b, 1, 5 * cs) == -1)
        CHECK_FAILS (qed_pread (o.img, &b, 1, 5 * cs), EIO,
                     MEM_NAME, "L2");
      close_image (&o);

      /* As an L1 entry. */
      model_put64 (&m, own + 8 * 5, 0);
      model_set_l1 (&m, 0, candidates[i]);
      open_image (&o, f, QED_MIN_CACHE_SIZE);
      compare_map (o.img, &m, 0, 16 * cs, 20);
      compare_pread (o.img, &m, 1, 1);
      if (model_pread (&m, &b, 1, 0) == -1)
        CHECK_FAILS (qed_pread (o.img, &b, 1, 0), EIO, MEM_NAME);
      close_image (&o);
    }
    mem_file_free (f);
  }
}

/* The file grows after the open: entries that pointed past its end stay
 * unsound.
 */
static void
test_file_grows (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct opened o;
  uint64_t end;

  model_create (&m, f, 65536, 1, 1 << 20);
  model_set (&m, 0, 1);
  end = mem_size (f);
  model_set (&m, 3, end);
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  mem_truncate (f, end + 10 * 65536);
  check_run (o.img, 3 << 16, 1 << 16, QED_RUN_UNSOUND, 1 << 16, end);
  qed_close (o.img);
  mem_file_free (f);
}

/* ---- jumps: counted in reads, not in seconds ---- */

/* An empty disk of 64 TiB is one run, found from the L1 table alone. */
static void
test_jump_absent (void)
{
  struct mem_file *f = mem_file_new ();
  uint64_t size = UINT64_C (1) << 46, tb = UINT64_C (1) << 31, a, b;
  struct model m;
  struct opened o;

  model_create (&m, f, 65536, 4, size);
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  check_run (o.img, 0, size, QED_RUN_UNALLOCATED, size, 0);
  CHECK_OP (mem_calls (f, MEM_ANY), <=, 32768 / 512 + 1);
  mem_reset_counters (f);
  check_run (o.img, 12345, size - 12345, QED_RUN_UNALLOCATED, size - 12345,
             0);
  CHECK_OP (mem_calls (f, MEM_ANY), <=, 32768 / 512 + 1);
  close_image (&o);

  /* A cluster here and there, at the edges of L1 slices. */
  model_data (&m, 512 * (tb >> 16));
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  check_run (o.img, 0, size, QED_RUN_UNALLOCATED, 512 * tb, 0);
  check_run (o.img, 5 * tb + 1, size - 5 * tb - 1, QED_RUN_UNALLOCATED,
             507 * tb - 1, 0);
  close_image (&o);
  model_set_l1 (&m, 512, 0);
  a = model_data (&m, 511 * (tb >> 16));
  b = model_data (&m, 1024 * (tb >> 16) - 1);
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  check_run (o.img, 0, size, QED_RUN_UNALLOCATED, 511 * tb, 0);
  check_run (o.img, 511 * tb, size - 511 * tb, QED_RUN_DATA, 65536, a);
  check_run (o.img, 511 * tb + 65536, size - 511 * tb - 65536,
             QED_RUN_UNALLOCATED, 513 * tb - 131072, 0);
  check_run (o.img, 1024 * tb - 65536, tb, QED_RUN_DATA, 65536, b);
  check_run (o.img, 1024 * tb, size - 1024 * tb, QED_RUN_UNALLOCATED,
             size - 1024 * tb, 0);
  CHECK_OP (mem_calls (f, MEM_ANY), <, 200);
  CHECK_OP (mem_largest (f, MEM_PREAD), <=, QED_MIN_CACHE_SIZE);
  close_image (&o);
  mem_file_free (f);
}

/* The largest disk there is, its L1 table a hole. */
static void
test_jump_largest (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct opened o;

  model_create (&m, f, QED_MAX_CLUSTER_SIZE, QED_MAX_TABLE_SIZE,
                QED_MAX_IMAGE_SIZE);
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  check_run (o.img, 0, QED_MAX_IMAGE_SIZE, QED_RUN_UNALLOCATED,
             QED_MAX_IMAGE_SIZE, 0);
  check_run (o.img, QED_MAX_IMAGE_SIZE - 1, 1, QED_RUN_UNALLOCATED, 1, 0);
  CHECK_OP (mem_calls (f, MEM_ANY), <, 100);
  close_image (&o);
  mem_file_free (f);
}

/* An L2 table of 1 GiB that is a hole in the file, or almost. */
static void
test_jump_hole (void)
{
  const uint64_t cs = QED_MAX_CLUSTER_SIZE, n = UINT64_C (1) << 27;
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct opened o;
  uint64_t at[] = { 12345678, 512 * 99999, n - 1, n + 5 };
  uint64_t size = 3 * n * cs, offsets[4];

  model_create (&m, f, QED_MAX_CLUSTER_SIZE, QED_MAX_TABLE_SIZE, size);
  model_set_l1 (&m, 0, model_append (&m, m.h.table_size));
  model_set_l1 (&m, 1, model_append (&m, m.h.table_size));
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  check_run (o.img, 0, size, QED_RUN_UNALLOCATED, size, 0);
  CHECK_OP (mem_calls (f, MEM_ANY), <, 20);
  check_run (o.img, 777 * cs + 1, size - 777 * cs - 1, QED_RUN_UNALLOCATED,
             size - 777 * cs - 1, 0);
  CHECK_OP (mem_calls (f, MEM_ANY), <, 40);
  check_run (o.img, 0, (n - 3) * cs, QED_RUN_UNALLOCATED, (n - 3) * cs, 0);
  check_run (o.img, 0, (n + 3) * cs - 1, QED_RUN_UNALLOCATED,
             (n + 3) * cs - 1, 0);
  close_image (&o);

  for (int i = 0; i < 4; i++)
    offsets[i] = model_data (&m, at[i]);
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  for (int i = 0; i < 4; i++) {
    uint64_t from = i == 0 ? 0 : (at[i - 1] + 1) * cs;

    mem_reset_counters (f);
    check_run (o.img, from, size - from, QED_RUN_UNALLOCATED,
               at[i] * cs - from, 0);
    check_run (o.img, at[i] * cs, size - at[i] * cs, QED_RUN_DATA, cs,
               offsets[i]);
    CHECK_OP (mem_calls (f, MEM_ANY), <, 30);
  }
  check_run (o.img, (n + 6) * cs, size - (n + 6) * cs, QED_RUN_UNALLOCATED,
             size - (n + 6) * cs, 0);

  /* A lookup of one cluster doesn't look for holes. */
  close_image (&o);
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  check_run (o.img, 0, cs, QED_RUN_UNALLOCATED, cs, 0);
  check_run (o.img, 0, 512 * cs, QED_RUN_UNALLOCATED, 512 * cs, 0);
  CHECK_EQ (mem_calls (f, MEM_ANY), 2);
  close_image (&o);
  mem_file_free (f);
}

/* The last slice of a table is empty and the table begins with a hole; the
 * next table, which is before it in the file, doesn't.
 */
static void
test_jump_ends_with_table (void)
{
  const uint64_t cs = 65536, n = 32768, size = 3 * n * cs;
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct opened o;
  uint64_t a, b;

  model_create (&m, f, 65536, 4, size);
  b = model_data (&m, n);
  a = model_data (&m, n - 512 - 1);
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  check_run (o.img, 0, size, QED_RUN_UNALLOCATED, (n - 513) * cs, 0);
  check_run (o.img, (n - 513) * cs, size / 2, QED_RUN_DATA, cs, a);
  check_run (o.img, (n - 512) * cs, size / 2, QED_RUN_UNALLOCATED, 512 * cs,
             0);
  check_run (o.img, (n - 511) * cs, size / 2, QED_RUN_UNALLOCATED, 511 * cs,
             0);
  check_run (o.img, n * cs, size / 2, QED_RUN_DATA, cs, b);
  close_image (&o);
  mem_file_free (f);
}

/* Holes that begin or end within a slice, or that the file can't report. */
static ssize_t
no_holes (void *opaque, enum mem_op op, uint64_t offset, size_t count)
{
  (void) opaque;
  (void) offset;
  if (op == MEM_NEXT_EXTENT) {
    errno = ENOTSUP;
    return -1;
  }
  return (ssize_t) count;
}

static void
test_hole_in_slice (void)
{
  const uint64_t cs = 65536;
  struct mem_file *f = mem_file_new ();
  struct model m;
  uint64_t table;

  /* 64 slices of 8 chunks of the file each. */
  model_create (&m, f, 65536, 4, UINT64_C (1) << 31);
  table = model_append (&m, m.h.table_size);
  model_set_l1 (&m, 0, table);
  for (uint64_t chunk = 0; chunk < 512; chunk += 37) {
    uint64_t at = chunk * 64 + 63;      /* the last entry of the chunk */

    for (int written = 0; written < 4; written++) {
      /* Zeros are written nowhere, in the chunk after, in the whole slice
       * and what follows it, everywhere.
       */
      static const uint8_t zeros[512 * MEM_CHUNK];
      uint64_t first = written == 1 ? chunk + 1 :
        written == 2 ? chunk / 8 * 8 : 0;
      uint64_t last = written == 0 ? 0 : written == 1 ? first + 1 : 512;

      mem_punch (f, table, model_table_bytes (&m));
      if (last > 512)
        last = 512;
      mem_write (f, zeros, (last - first) * MEM_CHUNK,
                 table + first * MEM_CHUNK);
      model_set (&m, at, 1);
      for (int hook = 0; hook < 2; hook++) {
        struct opened o;

        mem_set_hook (f, hook ? no_holes : NULL, NULL);
        open_image (&o, f, QED_MIN_CACHE_SIZE);
        if (at > 0)
          check_run (o.img, 0, m.h.image_size, QED_RUN_UNALLOCATED, at * cs,
                     0);
        check_run (o.img, at * cs, m.h.image_size - at * cs, QED_RUN_ZERO,
                   cs, 0);
        if (at + 1 < 32768)
          check_run (o.img, (at + 1) * cs, m.h.image_size - (at + 1) * cs,
                     QED_RUN_UNALLOCATED,
                     m.h.image_size - (at + 1) * cs, 0);
        close_image (&o);
        mem_set_hook (f, NULL, NULL);
      }
    }
  }
  mem_file_free (f);
}

/* ---- ranges ---- */

/* Entries beyond the end of the disk are not read: here the slice after the
 * last L1 entry in use.
 */
static void
test_end_of_disk (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct opened o;
  uint64_t n, size;

  model_create (&m, f, 4096, 2, 0);
  n = model_entries (&m);       /* two slices */
  size = 512 * n * 4096;        /* one slice of L1 */
  m.h.image_size = size;
  model_write_header (&m);
  for (uint64_t i = 512; i < 1024; i++)
    model_set_l1 (&m, i, 1);
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  check_run (o.img, 0, size, QED_RUN_UNALLOCATED, size, 0);
  check_run (o.img, size - 4096, 4096, QED_RUN_UNALLOCATED, 4096, 0);
  CHECK_EQ (mem_calls (f, MEM_ANY), 1);
  close_image (&o);

  /* The same in L2: the disk ends with the first slice. */
  model_set (&m, 0, 0);
  model_set (&m, 512, 1);
  m.h.image_size = 512 * 4096;
  model_write_header (&m);
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  check_run (o.img, 0, m.h.image_size, QED_RUN_UNALLOCATED, m.h.image_size,
             0);
  check_run (o.img, m.h.image_size - 1, 1, QED_RUN_UNALLOCATED, 1, 0);
  CHECK_EQ (mem_calls (f, MEM_ANY), 2);
  close_image (&o);
  mem_file_free (f);
}

static void
test_ranges (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct opened o;
  struct qed_run run;
  uint64_t size = 10 * 65536 + 512;

  /* The end of the disk is inside of a cluster. */
  model_create (&m, f, 65536, 4, size);
  for (uint64_t i = 0; i < 11; i++)
    model_data (&m, i);
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  check_run (o.img, 0, size, QED_RUN_DATA, size,
             m.h.l1_table_offset + 2 * model_table_bytes (&m));
  compare_map (o.img, &m, size - 1, 1, 10);
  compare_map (o.img, &m, size - 512, 512, 10);
  CHECK_FAILS (qed_map (o.img, 0, size + 1, &run), EINVAL, MEM_NAME);
  CHECK_FAILS (qed_map (o.img, size, 1, &run), EINVAL, MEM_NAME);
  CHECK_FAILS (qed_map (o.img, size - 1, 2, &run), EINVAL, MEM_NAME);
  CHECK_FAILS (qed_map (o.img, size - 512, 65536, &run), EINVAL, MEM_NAME);
  CHECK_FAILS (qed_map (o.img, 65536, UINT64_MAX, &run), EINVAL, MEM_NAME);
  CHECK_FAILS (qed_map (o.img, UINT64_MAX, 2, &run), EINVAL, MEM_NAME);
  CHECK_FAILS (qed_map (o.img, UINT64_MAX - 65535, 65536, &run), EINVAL,
               MEM_NAME);
  CHECK_FAILS (qed_map (o.img, 0, 0, &run), EINVAL, MEM_NAME);
  close_image (&o);
  mem_file_free (f);
}

/* ---- against the model ---- */

static void
compare_all (struct model *m, const uint64_t *touched, size_t n,
             struct rng *rng)
{
  const uint64_t cs = m->h.cluster_size, size = m->h.image_size;
  struct opened o;
  uint64_t end = 0;

  open_image (&o, m->file, QED_MIN_CACHE_SIZE);
  for (size_t i = 0; i < n; i++) {
    uint64_t c = touched[i], from = c * cs;

    /* The cluster, the one before, from the middle, a part. */
    compare_map (o.img, m, from, size - from, 40);
    if (c > 0)
      compare_map (o.img, m, from - cs, size - from + cs, 40);
    from += rng_below (rng, size - from < cs ? size - from : cs);
    compare_map (o.img, m, from, size - from, 40);
    compare_map (o.img, m, from, 1 + rng_below (rng, size - from), 40);
    compare_map (o.img, m, from, 1, 40);
  }

  /* The whole disk, run by run. */
  for (uint64_t offset = 0; offset < size; offset = end) {
    struct qed_run run = compare_map (o.img, m, offset, size - offset, 100);

    end = offset + run.length;
    CONTEXT ("clusters %u * %u, run of type %d at %#" PRIx64 " + %#" PRIx64,
             m->h.cluster_size, m->h.table_size, run.type, offset,
             run.length);
    CHECK (end == size || end % cs == 0);
    for (size_t i = 0; i < n; i++) {
      uint64_t at = touched[i] * cs, entry;

      if (at >= offset && at < end) {
        CHECK_EQ (model_lookup (m, touched[i], &entry), run.type);
        if (run.type == QED_RUN_DATA)
          CHECK_EQ (entry, run.file_offset + at - offset);
      }
    }
    if (end < size) {           /* the next doesn't continue it */
      uint64_t entry;
      enum qed_run_type next = model_lookup (m, end / cs, &entry);

      CHECK (next != run.type ||
             (next == QED_RUN_DATA && entry != run.file_offset + run.length));
    }
  }
  close_image (&o);
}

static void
random_images (bool unsound, uint64_t seed)
{
  FOR_ALL_GEOMETRIES (cs, ts) {
    for (int i = 0; i < 3; i++) {
      struct rng rng = { seed + (uint64_t) i };
      struct mem_file *f = mem_file_new ();
      uint64_t touched[200];
      struct model m;
      size_t n = model_random (&m, f, &rng, (uint32_t) cs, (uint32_t) ts,
                               unsound, touched, 200);

      compare_all (&m, touched, n, &rng);
      mem_file_free (f);
    }
  }
}

static void
test_random_sound (void)
{
  random_images (false, 1000);
}

static void
test_random_unsound (void)
{
  random_images (true, 2000);
}

/* ---- extents ---- */

/* Holes of the host file that begin and end inside of clusters. */
static void
test_extents_host_holes (void)
{
  for (uint32_t cs = 4096; cs <= 1 << 18; cs *= 4)
    for (uint64_t seed = 0; seed < 8; seed++) {
      struct rng rng = { seed };
      struct mem_file *f = mem_file_new ();
      struct opened o;
      struct model m;
      uint64_t size = 20 * cs - 512 * rng_below (&rng, 3);

      model_create (&m, f, cs, 4, size);
      for (uint64_t i = 0; i < 20; i++)
        switch (rng_below (&rng, 6)) {
        case 0: model_set (&m, i, 0); break;
        case 1: model_set (&m, i, 1); break;
        case 2: if (seed % 2) model_set (&m, i, 3); break;
        default: model_data (&m, i);
        }
      for (int i = 0; i < 40; i++)
        mem_punch (f, 6 * cs +
                   rng_below (&rng, mem_size (f) - 6 * cs),
                   rng_below (&rng, 5000));
      m.file_size = mem_size (f);

      open_image (&o, f, QED_MIN_CACHE_SIZE);
      compare_extents (o.img, &m, 0, size);
      for (int i = 0; i < 20; i++) {
        uint64_t offset = rng_below (&rng, size);

        compare_extents (o.img, &m, offset,
                         1 + rng_below (&rng, size - offset));
        compare_extents (o.img, &m, offset, 1);
      }
      close_image (&o);
      mem_file_free (f);
    }
}

static void
test_extents_random_images (void)
{
  for (uint32_t cs = 4096; cs <= 65536; cs *= 2)
    for (uint64_t seed = 0; seed < 8; seed++) {
      struct rng rng = { 3000 + seed };
      struct mem_file *f = mem_file_new ();
      uint64_t touched[200];
      struct opened o;
      struct model m;
      size_t n = model_random (&m, f, &rng, cs, 2, true, touched, 200);

      open_image (&o, f, QED_MIN_CACHE_SIZE);
      for (size_t i = 0; i < n; i++) {
        uint64_t from = touched[i] * cs, length = m.h.image_size - from;

        if (length > 20 * cs)
          length = 20 * cs;
        compare_extents (o.img, &m, from, length);
        from += rng_below (&rng, length);
        length = m.h.image_size - from;
        if (length > 3 * cs)
          length = 3 * cs;
        compare_extents (o.img, &m, from, length);
      }
      close_image (&o);
      mem_file_free (f);
    }
}

struct stop {
  unsigned calls, stop_at;
  int r, err;
  uint64_t end;
  bool last_zero;
};

static int
stop_fn (void *opaque, uint64_t offset, uint64_t length, bool zero)
{
  struct stop *s = opaque;

  s->end = offset + length;
  s->last_zero = zero;
  if (++s->calls == s->stop_at) {
    errno = s->err;
    return s->r;
  }
  CHECK_OP (s->calls, <, s->stop_at);   /* not again after stopping */
  return 0;
}

/* FN ends it when it wants, or fails it. */
static void
test_extents_stop (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct opened o;

  /* data, hole, data, hole ... and the last is a half cluster. */
  model_create (&m, f, 4096, 1, 10 * 4096 + 512);
  for (uint64_t i = 0; i < 11; i += 2)
    model_data (&m, i);
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  for (unsigned k = 1; k <= 11; k++) {
    struct stop s = { .stop_at = k, .r = 1 };

    CONTEXT ("stop at %u", k);
    CHECK_EQ (qed_extents (o.img, 0, m.h.image_size, stop_fn, &s), 0);
    CHECK_EQ (s.calls, k);
    CHECK_EQ (s.end, k < 11 ? k * 4096 : m.h.image_size);
    CHECK_EQ (s.last_zero, k % 2 == 0);

    s = (struct stop) { .stop_at = k, .r = -1, .err = ENOSPC };
    CHECK_EQ (qed_extents (o.img, 0, m.h.image_size, stop_fn, &s), -1);
    CHECK_EQ (errno, ENOSPC);
    CHECK_EQ (s.calls, k);
  }
  close_image (&o);
  mem_file_free (f);
}

/* Finding the first extent of a range reads nothing of the extents that
 * follow.
 */
static void
test_extents_ranges (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct opened o;
  struct stop s = { .stop_at = 100 };

  model_create (&m, f, 65536, 4, UINT64_C (1) << 46);
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  CHECK_EQ (qed_extents (o.img, 0, m.h.image_size, stop_fn, &s), 0);
  CHECK_EQ (s.calls, 1);
  CHECK_EQ (s.end, m.h.image_size);
  CHECK_OP (mem_calls (f, MEM_ANY), <=, 65);

  s.calls = 0;
  CHECK_EQ (qed_extents (o.img, 0, 0, stop_fn, &s), 0);
  CHECK_EQ (qed_extents (o.img, m.h.image_size, 0, stop_fn, &s), 0);
  CHECK_FAILS (qed_extents (o.img, 0, m.h.image_size + 1, stop_fn, &s),
               EINVAL, MEM_NAME);
  CHECK_FAILS (qed_extents (o.img, m.h.image_size, 1, stop_fn, &s), EINVAL,
               MEM_NAME);
  CHECK_FAILS (qed_extents (o.img, UINT64_MAX, 2, stop_fn, &s), EINVAL,
               MEM_NAME);
  CHECK_EQ (s.calls, 0);
  close_image (&o);
  mem_file_free (f);
}

/* If the file can't report its holes, extents are all data.  If a table can't
 * be read, qed_extents fails.
 */
static void
test_extents_errors (void)
{
  const struct mem_faults faults = {
    .op = MEM_PREAD, .first = 1, .count = 100, .err = EIO
  };
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct opened o;
  struct stop s = { .stop_at = 100 };

  model_create (&m, f, 65536, 4, 4 * 65536);
  model_data (&m, 1);
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  mem_set_hook (f, no_holes, NULL);
  CHECK_EQ (qed_extents (o.img, 65536, 65536, stop_fn, &s), 0);
  CHECK_EQ (s.calls, 1);
  CHECK (!s.last_zero);
  mem_set_hook (f, NULL, NULL);
  s.calls = 0;
  CHECK_EQ (qed_extents (o.img, 65536, 65536, stop_fn, &s), 0);
  CHECK_EQ (s.calls, 3);        /* its middle is a hole */
  close_image (&o);

  /* The file was truncated: clusters that can't be read are not zeros. */
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  compare_map (o.img, &m, 0, 4 * 65536, 10);
  mem_truncate (f, m.h.l1_table_offset + 100);
  CHECK_EQ (qed_extents (o.img, 0, 4 * 65536, stop_fn, &s), 0);
  CHECK_EQ (s.end, 4 * 65536);
  s.calls = 0;
  CHECK_EQ (qed_extents (o.img, 65536, 65536, stop_fn, &s), 0);
  CHECK_EQ (s.calls, 1);
  CHECK (!s.last_zero);
  qed_close (o.img);

  model_create (&m, f, 65536, 4, 4 * 65536);
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  mem_set_faults (f, &faults);
  s.calls = 0;
  CHECK_FAILS (qed_extents (o.img, 0, 65536, stop_fn, &s), EIO, MEM_NAME);
  CHECK_EQ (s.calls, 0);
  close_image (&o);
  mem_file_free (f);
}

HARNESS_MAIN (
  TEST (test_contiguous),
  TEST (test_break),
  TEST (test_not_contiguous),
  TEST (test_types),
  TEST (test_unsound),
  TEST (test_file_grows),
  TEST (test_jump_absent),
  TEST (test_jump_largest),
  TEST (test_jump_hole),
  TEST (test_jump_ends_with_table),
  TEST (test_hole_in_slice),
  TEST (test_end_of_disk),
  TEST (test_ranges),
  TEST (test_random_sound),
  TEST (test_random_unsound),
  TEST (test_extents_host_holes),
  TEST (test_extents_random_images),
  TEST (test_extents_stop),
  TEST (test_extents_ranges),
  TEST (test_extents_errors),
)
