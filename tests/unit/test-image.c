/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* An image opens exactly if its header is valid and every resource is there;
 * an open that fails leaks nothing.  Reads return the data of sound clusters
 * in as few storage calls as possible and fail on unsound ones.  Prefetching
 * never fails a request.
 */

#include <config.h>

#include "alloc.h"
#include "harness.h"
#include "memory-storage.h"
#include "model.h"

/* ---- open ---- */

/* Opening the image in F fails for this reason, leaks no memory, and leaves
 * the storage to the caller.
 */
static void
check_open_fails (int line, struct mem_file *f, size_t cache_size, int err,
                  const char *word)
{
  struct qed_storage *st = mem_open (f);
  int64_t before = alloc_bytes ();

  CONTEXT ("from line %d", line);
  CHECK_FAILS_NULL (qed_open (st, cache_size), err, MEM_NAME ": ", word);
  CHECK_EQ (alloc_bytes (), before);
  CHECK_EQ (mem_open_storages (f), 1);
  qed_storage_close (st);
  CHECK_EQ (mem_calls (f, MEM_PWRITE), 0);
}
#define CHECK_OPEN_FAILS(f, err, word)                                  \
  check_open_fails (__LINE__, f, QED_MIN_CACHE_SIZE, err, word)

static void
test_open_invalid (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;

  /* Too short for a header. */
  CHECK_OPEN_FAILS (f, EINVAL, "0 bytes");
  mem_write (f, "QED", 4, 0);
  CHECK_OPEN_FAILS (f, EINVAL, "4 bytes");
  model_create (&m, f, 65536, 4, 1 << 20);
  for (uint64_t size = 1; size < QED_HEADER_BYTES; size++) {
    mem_truncate (f, QED_HEADER_BYTES - size);
    CHECK_OPEN_FAILS (f, EINVAL, "not a QED image");
  }

  /* A header and not all of the L1 table. */
  for (uint64_t size = QED_HEADER_BYTES; size < 5 * 65536; size += 32749) {
    model_create (&m, f, 65536, 4, 1 << 20);
    mem_truncate (f, size);
    CHECK_OPEN_FAILS (f, EINVAL, "l1_table_offset");
  }
  model_create (&m, f, 65536, 4, 1 << 20);
  mem_truncate (f, 5 * 65536 - 1);
  CHECK_OPEN_FAILS (f, EINVAL, "l1_table_offset");

  /* Another format, and a field of each kind: test-format has them all. */
  model_create (&m, f, 65536, 4, 1 << 20);
  mem_write (f, "QFI\xfb", 4, 0);
  CHECK_OPEN_FAILS (f, EINVAL, "magic");
  model_create (&m, f, 65536, 4, 1 << 20);
  m.h.cluster_size = 3000;
  model_write_header (&m);
  CHECK_OPEN_FAILS (f, EINVAL, "header: cluster_size 3000: must be a power "
                    "of 2 from 4096 to 67108864");
  model_create (&m, f, 65536, 4, 1 << 20);
  m.h.features = 8;
  model_write_header (&m);
  CHECK_OPEN_FAILS (f, ENOTSUP, "features");
  model_create (&m, f, 65536, 4, 513);
  CHECK_OPEN_FAILS (f, EINVAL, "image_size 513");

  /* The cache. */
  model_create (&m, f, 65536, 4, 1 << 20);
  check_open_fails (__LINE__, f, 0, EINVAL, "cache");
  check_open_fails (__LINE__, f, QED_MIN_CACHE_SIZE - 1, EINVAL, "cache");
  mem_file_free (f);
}

/* Each storage operation and each allocation of an open fails in turn. */
static void
test_open_faults (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  bool opened = false;
  unsigned k;

  model_create (&m, f, 65536, 4, 1 << 20);
  for (k = 1; !opened; k++) {
    const struct mem_faults faults = {
      .op = MEM_ANY, .first = k, .count = 1, .err = ENXIO,
    };
    struct qed_storage *st = mem_open (f);
    struct qed_image *img;
    int64_t before = alloc_bytes ();

    CONTEXT ("k %u", k);
    mem_set_faults (f, &faults);
    img = qed_open (st, QED_MIN_CACHE_SIZE);
    opened = img != NULL;
    if (img)
      qed_close (img);
    else {
      CHECK_EQ (errno, ENXIO);
      CHECK (strstr (qed_get_error (), MEM_NAME ": ") != NULL);
      CHECK_EQ (alloc_bytes (), before);
      qed_storage_close (st);
    }
    mem_set_faults (f, NULL);
  }
  CHECK_OP (k, >, 3);

  opened = false;
  for (k = 1; !opened; k++) {
    struct qed_storage *st = mem_open (f);
    struct qed_image *img;
    int64_t before = alloc_bytes ();

    CONTEXT ("k %u", k);
    alloc_fail (k);
    img = qed_open (st, QED_MIN_CACHE_SIZE);
    alloc_fail (0);
    opened = img != NULL;
    if (img)
      qed_close (img);
    else {
      CHECK_EQ (errno, ENOMEM);
      CHECK (strstr (qed_get_error (), MEM_NAME ": ") != NULL);
      CHECK_EQ (alloc_bytes (), before);
      qed_storage_close (st);
    }
  }
  CHECK_OP (k, >, 3);
  mem_file_free (f);
}

static void
test_open_short_reads_and_eintr (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  const struct mem_faults faults[] = {
    { .max_transfer = 1 },
    { .op = MEM_PREAD, .first = 1, .count = 3, .err = EINTR },
    { .op = MEM_GET_SIZE, .first = 1, .count = 3, .err = EINTR },
    { .eintr_every = 2, .max_transfer = 7 },
  };

  model_create (&m, f, 65536, 4, 1 << 20);
  for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
    struct qed_storage *st = mem_open (f);
    struct qed_image *img;

    CONTEXT ("faults %zu", i);
    mem_set_faults (f, &faults[i]);
    img = qed_open (st, QED_MIN_CACHE_SIZE);
    CHECK (img != NULL);
    CHECK_EQ (qed_get_header (img)->image_size, 1 << 20);
    qed_close (img);
    mem_set_faults (f, NULL);
  }
  mem_file_free (f);
}

static void
test_close_null (void)
{
  qed_close (NULL);
  qed_storage_close (NULL);
}

static void
test_get_header (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;

  for (int rotational = 0; rotational < 2; rotational++) {
    struct qed_storage *st;
    struct qed_image *img;
    const struct qed_header *h;

    model_create (&m, f, 8192, 2, 512 * 77);
    m.h.features = QED_F_NEED_CHECK;
    m.h.compat_features = UINT64_C (0xabcdef0123456789);
    m.h.autoclear_features = UINT64_C (0x123456789abcdef0);
    model_write_header (&m);
    st = mem_open (f);
    st->rotational = rotational;
    img = qed_open (st, QED_MIN_CACHE_SIZE);
    CHECK (img != NULL);
    CHECK_EQ (qed_is_rotational (img), rotational);
    h = qed_get_header (img);
    CHECK_EQ (h->cluster_size, 8192);
    CHECK_EQ (h->table_size, 2);
    CHECK_EQ (h->header_size, 1);
    CHECK_EQ (h->features, m.h.features);
    CHECK_EQ (h->compat_features, m.h.compat_features);
    CHECK_EQ (h->autoclear_features, m.h.autoclear_features);
    CHECK_EQ (h->l1_table_offset, 8192);
    CHECK_EQ (h->image_size, 512 * 77);
    qed_close (img);
  }
  mem_file_free (f);
}

/* ---- the backing file's name ---- */

static void
test_backing (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_storage *st;
  struct qed_header h;
  struct model m;
  char *name, expected[QED_MAX_BACKING_FILENAME + 1];
  bool opened;

  /* No backing file. */
  model_create (&m, f, 4096, 1, 1 << 20);
  m.h.backing_filename_offset = 64;     /* means nothing */
  m.h.backing_filename_size = 5;
  model_write_header (&m);
  st = mem_open (f);
  name = (char *) "untouched";
  CHECK_EQ (qed_read_header (st, &h, &name), 0);
  CHECK (name == NULL);
  CHECK_EQ (h.image_size, 1 << 20);
  CHECK_EQ (qed_read_header (st, &h, NULL), 0);
  qed_storage_close (st);

  /* A name, without NUL in the file and with other bytes right after it. */
  memset (expected, 'x', sizeof expected);
  memcpy (expected, "base.img", 8);
  for (uint32_t size = 1; size <= QED_MAX_BACKING_FILENAME;
       size = size < 8 ? 8 : size < 4094 ? 4094 : size + 1)
    for (int place = 0; place < 2; place++) {
      model_create (&m, f, 8192, 1, 1 << 20);
      m.h.features = place ? 5 : 1;
      m.h.backing_filename_offset = place ? 8192 - size : 64;
      m.h.backing_filename_size = size;
      model_write_header (&m);
      mem_write (f, expected, size, m.h.backing_filename_offset);
      if (!place)
        mem_write (f, "yyy", 4, 64 + size);
      st = mem_open (f);
      CHECK_EQ (qed_read_header (st, &h, &name), 0);
      CHECK_EQ (strlen (name), size);
      CHECK (memcmp (name, expected, size) == 0);
      CHECK_EQ (h.features, m.h.features);
      free (name);
      CHECK_EQ (qed_read_header (st, &h, NULL), 0);
      qed_storage_close (st);
    }

  /* The image can't be read without its backing file. */
  model_create (&m, f, 4096, 1, 1 << 20);
  model_name_backing (&m);
  CHECK_OPEN_FAILS (f, ENOTSUP, "backing file, without which it can't be");

  /* A NUL in the name; a name outside of the header clusters. */
  m.h.backing_filename_size = 8;
  model_write_header (&m);
  mem_write (f, "base\0img", 8, 64);
  CHECK_OPEN_FAILS (f, EINVAL, "NUL");
  m.h.backing_filename_offset = 4090;
  model_write_header (&m);
  CHECK_OPEN_FAILS (f, EINVAL, "backing_filename_offset 4090");
  st = mem_open (f);
  CHECK_FAILS (qed_read_header (st, &h, &name), EINVAL,
               "backing_filename_offset 4090");
  qed_storage_close (st);

  /* Faults on the way to the name. */
  m.h.backing_filename_offset = 64;
  model_write_header (&m);
  mem_write (f, "base.img", 8, 64);
  opened = false;
  for (unsigned k = 1; !opened; k++) {
    const struct mem_faults faults = {
      .op = MEM_ANY, .first = k, .count = 1, .err = EACCES
    };
    int64_t before;

    st = mem_open (f);
    before = alloc_bytes ();
    mem_set_faults (f, &faults);
    opened = qed_read_header (st, &h, &name) == 0;
    mem_set_faults (f, NULL);
    if (opened) {
      CHECK_STR (name, "base.img");
      free (name);
      CHECK_OP (k, >, 3);
    }
    else
      CHECK_EQ (errno, EACCES);
    CHECK_EQ (alloc_bytes (), before);
    qed_storage_close (st);
  }

  /* No memory for it. */
  st = mem_open (f);
  alloc_fail (1);
  CHECK_FAILS (qed_read_header (st, &h, &name), ENOMEM, MEM_NAME);
  alloc_fail (0);
  qed_storage_close (st);
  mem_file_free (f);
}

/* ---- reading ---- */

static void
test_pread_random (void)
{
  FOR_ALL_GEOMETRIES (cs, ts) {
    for (uint64_t seed = 0; seed < 2; seed++) {
      struct rng rng = { 4000 + seed };
      struct mem_file *f = mem_file_new ();
      uint64_t touched[200];
      struct opened o;
      struct model m;
      size_t n = model_random (&m, f, &rng, (uint32_t) cs, (uint32_t) ts,
                               seed > 0, touched, 200);

      open_image (&o, f, QED_MIN_CACHE_SIZE);
      for (size_t i = 0; i < n; i++) {
        uint64_t from = touched[i] * cs, left = m.h.image_size - from;
        uint64_t limit = left < 4 * cs ? left : 4 * cs;
        uint64_t k, count;

        if (limit > 1 << 18)
          limit = 1 << 18;
        compare_pread (o.img, &m, from, limit < cs ? limit : 512);
        k = rng_below (&rng, limit);
        count = 1 + rng_below (&rng, limit - k);
        compare_pread (o.img, &m, from + k, count);

        /* Around the end of the cluster. */
        if (left > cs) {
          k = 1 + rng_below (&rng, 600);
          count = left - cs + k < 1300 ? left - cs + k : 1300;
          compare_pread (o.img, &m, from + cs - k, count);
        }
      }
      close_image (&o);
      mem_file_free (f);
    }
  }
}

/* Every byte range of two clusters' neighbourhood, where nothing is alike. */
static void
test_pread_edges (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct opened o;
  const uint64_t points[] = {
    0, 1, 511, 512, 4095, 4096, 4097, 8191, 8192, 8193, 12287, 12288, 16383,
    16384, 16385, 20479, 20480, 20481, 24575, 24576, 24577, 28672, 28673,
    32767, 32768, 33279, 33280,
  };
  const size_t n = sizeof points / sizeof points[0];

  /* data, zero, data far away, unallocated, data contiguous twice, data,
   * and a part of a cluster
   */
  model_create (&m, f, 4096, 1, 33280);
  model_data (&m, 0);
  model_set (&m, 1, 1);
  model_append (&m, 7);
  model_data (&m, 2);
  model_data (&m, 4);
  model_data (&m, 5);
  model_append (&m, 1);
  model_data (&m, 6);
  model_data (&m, 8);
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  for (size_t i = 0; i < n; i++)
    for (size_t j = i; j < n; j++)
      compare_pread (o.img, &m, points[i], points[j] - points[i]);
  close_image (&o);
  mem_file_free (f);
}

/* Contiguous data is one read of the file, zeros are none. */
static void
test_pread_calls (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct opened o;

  model_create (&m, f, 4096, 4, 3000 * 4096);
  for (uint64_t i = 0; i < 1000; i++)
    model_data (&m, i);
  for (uint64_t i = 1000; i < 2000; i++)
    model_set (&m, i, 1);
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  compare_pread (o.img, &m, 0, 3000 * 4096);
  mem_reset_counters (f);
  compare_pread (o.img, &m, 0, 1000 * 4096);
  CHECK_EQ (mem_calls (f, MEM_ANY), 1);
  CHECK_EQ (mem_bytes (f, MEM_PREAD), 1000 * 4096);
  mem_reset_counters (f);
  compare_pread (o.img, &m, 1000 * 4096, 2000 * 4096);
  CHECK_EQ (mem_calls (f, MEM_ANY), 0);
  close_image (&o);
  mem_file_free (f);
}

/* An unsound cluster fails the requests that touch it and says why; its
 * neighbours can be read.
 */
static void
test_pread_unsound (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct opened o;
  uint8_t buf[3 * 4096];
  char offset[64], entry[64];

  model_create (&m, f, 4096, 1, 1024 * 4096);
  for (uint64_t i = 0; i < 8; i++)
    model_data (&m, i);
  model_set (&m, 5, 0x123456789000);
  model_set_l1 (&m, 1, 0xabcdef);
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  compare_pread (o.img, &m, 4 * 4096, 4096);
  compare_pread (o.img, &m, 6 * 4096, 4096);
  for (uint64_t k = 0; k < 3 * 4096; k += 512) {
    compare_pread (o.img, &m, 4 * 4096 + k, 1);
    compare_pread (o.img, &m, 4 * 4096, k + 1);
    compare_pread (o.img, &m, 4 * 4096 + k, 3 * 4096 - k);
  }

  /* The message: where on the disk, which entry, and why. */
  snprintf (offset, sizeof offset, " %d ", 5 * 4096);
  snprintf (entry, sizeof entry, "0x%" PRIx64, UINT64_C (0x123456789000));
  CHECK_FAILS (qed_pread (o.img, buf, sizeof buf, 4 * 4096), EIO,
               MEM_NAME ": ", offset, entry, "L2", "end of the file");
  CHECK_FAILS (qed_pread (o.img, buf, 1, 600 * 4096), EIO,
               MEM_NAME ": ", "0xabcdef", "L1", "multiple");

  /* Prefetching is a hint: what is sound is fetched. */
  mem_reset_counters (f);
  CHECK_EQ (qed_prefetch (o.img, 4 * 4096, 3 * 4096), 0);
  CHECK_EQ (mem_bytes (f, MEM_PREFETCH), 2 * 4096);
  close_image (&o);
  mem_file_free (f);
}

static void
test_ranges (void)
{
  static const uint64_t sizes[] = {
    0, 512, 4096, 65536, 65536 + 512, UINT64_C (1) << 46,
    (UINT64_C (1) << 46) - 512,
  };
  struct mem_file *f = mem_file_new ();
  struct model m;

  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    uint64_t size = sizes[i];
    struct opened o;
    uint8_t buf[1024];

    CONTEXT ("image_size %" PRIu64, size);
    model_create (&m, f, 65536, 4, size);
    open_image (&o, f, QED_MIN_CACHE_SIZE);

    /* An empty range is valid anywhere on the disk, but not past its end. */
    CHECK_EQ (qed_pread (o.img, buf, 0, 0), 0);
    CHECK_EQ (qed_pread (o.img, buf, 0, size), 0);
    CHECK_EQ (qed_pread (o.img, NULL, 0, size), 0);
    CHECK_FAILS (qed_pread (o.img, buf, 0, size + 1), EINVAL, MEM_NAME);
    CHECK_EQ (qed_prefetch (o.img, 0, 0), 0);
    CHECK_EQ (qed_prefetch (o.img, size, 0), 0);

    if (size > 0) {
      compare_pread (o.img, &m, size - 1, 1);
      compare_pread (o.img, &m, size - 512, 512);
      compare_pread (o.img, &m, 0, 512);
      CHECK_EQ (qed_prefetch (o.img, 0, size), 0);
      CHECK_FAILS (qed_pread (o.img, buf, 2, size - 1), EINVAL, MEM_NAME);
      CHECK_FAILS (qed_pread (o.img, buf, 513, size - 512), EINVAL,
                   MEM_NAME);
    }
    CHECK_FAILS (qed_pread (o.img, buf, 1, size), EINVAL, MEM_NAME);
    CHECK_FAILS (qed_pread (o.img, buf, 1, size + 512), EINVAL, MEM_NAME);
    CHECK_FAILS (qed_pread (o.img, buf, 1, UINT64_MAX), EINVAL, MEM_NAME);
    CHECK_FAILS (qed_pread (o.img, buf, 2, UINT64_MAX), EINVAL, MEM_NAME);
    CHECK_FAILS (qed_pread (o.img, buf, 1024, UINT64_MAX - 1023), EINVAL,
                 MEM_NAME);
    CHECK_FAILS (qed_pread (o.img, buf, 1024, UINT64_MAX - 512), EINVAL,
                 MEM_NAME);
    CHECK_FAILS (qed_pread (o.img, buf, SIZE_MAX, 1), EINVAL, MEM_NAME);
    CHECK_FAILS (qed_pread (o.img, buf, 1, UINT64_C (1) << 63), EINVAL,
                 MEM_NAME);
    CHECK_FAILS (qed_prefetch (o.img, 0, size + 1), EINVAL, MEM_NAME);
    CHECK_FAILS (qed_prefetch (o.img, UINT64_MAX, 2), EINVAL, MEM_NAME);
    close_image (&o);
  }
  mem_file_free (f);
}

/* The file is cut while the image is open. */
static void
test_file_cut (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct opened o;
  uint64_t a;

  model_create (&m, f, 4096, 1, 1 << 20);
  model_data (&m, 0);
  a = model_data (&m, 1);
  for (uint64_t cut = 0; cut < 4096; cut += 1023) {
    uint8_t buf[8192];

    model_pattern (&m, a, 4096);
    open_image (&o, f, QED_MIN_CACHE_SIZE);
    mem_truncate (f, a + cut);
    CHECK_FAILS (qed_pread (o.img, buf, 8192, 0), EIO, MEM_NAME);
    CHECK_FAILS (qed_pread (o.img, buf, 1, 8191), EIO, MEM_NAME);
    compare_pread (o.img, &m, 0, 4096);
    compare_pread (o.img, &m, 0, 4096 + cut);
    compare_pread (o.img, &m, 8192, 4096);
    qed_close (o.img);
    mem_truncate (f, a + 4096);
  }
  mem_file_free (f);
}

/* Whether a data cluster is in the file is decided at the open: here the last
 * cluster of the file is partial.
 */
static void
test_partial_tail (void)
{
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct opened o;
  uint64_t a, b;
  uint8_t buf[512];

  model_create (&m, f, 65536, 1, 1 << 20);
  a = model_data (&m, 0);
  b = model_data (&m, 1);
  CHECK_EQ (b, a + 65536);
  for (uint64_t tail = 0; tail <= 65536; tail += 16384) {
    mem_truncate (f, b + tail);
    CHECK (model_open (&m, f));
    open_image (&o, f, QED_MIN_CACHE_SIZE);
    compare_pread (o.img, &m, 0, 65536);
    compare_pread (o.img, &m, 65535, 2);
    if (tail < 65536)
      CHECK_FAILS (qed_pread (o.img, buf, 512, 65536), EIO, MEM_NAME,
                   "end of the file");
    close_image (&o);
  }
  mem_file_free (f);
}

/* A read of data fails with the storage's errno; the next one succeeds. */
static void
test_pread_errors (void)
{
  static const int errors[] = { EIO, ENOMEM, ENXIO };
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct opened o;

  model_create (&m, f, 4096, 1, 1 << 20);
  for (uint64_t i = 0; i < 10; i++) {
    model_append (&m, i % 2);
    model_data (&m, i);
  }
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  compare_pread (o.img, &m, 0, 10 * 4096);
  for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
    uint8_t buf[10 * 4096];

    for (uint64_t k = 1; k <= 5; k++) {
      const struct mem_faults faults = {
        .op = MEM_PREAD, .first = k, .count = 1, .err = errors[i],
        .max_transfer = k % 2 ? 0 : 4000,
      };

      mem_set_faults (f, &faults);
      CHECK_FAILS (qed_pread (o.img, buf, sizeof buf, 0), errors[i],
                   MEM_NAME, strerror (errors[i]));
      compare_pread (o.img, &m, 0, sizeof buf);
    }
  }
  mem_set_faults (f, NULL);
  close_image (&o);
  mem_file_free (f);
}

static void
test_pread_short_and_eintr (void)
{
  const struct mem_faults faults[] = {
    { .max_transfer = 1 }, { .max_transfer = 4095 }, { .eintr_every = 2 },
    { .eintr_every = 2, .max_transfer = 511 },
  };
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct opened o;

  model_create (&m, f, 4096, 1, 1 << 20);
  for (uint64_t i = 0; i < 10; i++)
    model_data (&m, i);
  for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
    open_image (&o, f, QED_MIN_CACHE_SIZE);
    mem_set_faults (f, &faults[i]);
    compare_pread (o.img, &m, 0, 12 * 4096);
    compare_pread (o.img, &m, 4095, 4099);
    close_image (&o);
    mem_set_faults (f, NULL);
  }
  mem_file_free (f);
}

/* ---- prefetching ---- */

/* Only data is prefetched, each part once. */
static void
test_prefetch (void)
{
  const struct mem_faults faults = {
    .op = MEM_PREFETCH, .first = 1, .count = 1, .err = ENOMEM
  };
  struct mem_file *f = mem_file_new ();
  struct model m;
  struct opened o;

  model_create (&m, f, 4096, 1, 1 << 20);
  for (uint64_t i = 10; i < 20; i++)
    model_data (&m, i);
  model_set (&m, 20, 1);
  open_image (&o, f, QED_MIN_CACHE_SIZE);
  CHECK_EQ (qed_prefetch (o.img, 0, 1 << 20), 0);
  CHECK_EQ (mem_calls (f, MEM_PREFETCH), 1);
  CHECK_EQ (mem_bytes (f, MEM_PREFETCH), 10 * 4096);
  mem_reset_counters (f);
  CHECK_EQ (qed_prefetch (o.img, 10 * 4096 + 100, 1000), 0);
  CHECK_EQ (mem_bytes (f, MEM_PREFETCH), 1000);
  CHECK_EQ (mem_calls (f, MEM_PREAD), 0);
  mem_set_faults (f, &faults);
  CHECK_FAILS (qed_prefetch (o.img, 0, 1 << 20), ENOMEM, MEM_NAME);
  mem_set_faults (f, NULL);
  close_image (&o);
  mem_file_free (f);
}

HARNESS_MAIN (
  TEST (test_open_invalid),
  TEST (test_open_faults),
  TEST (test_open_short_reads_and_eintr),
  TEST (test_close_null),
  TEST (test_get_header),
  TEST (test_backing),
  TEST (test_pread_random),
  TEST (test_pread_edges),
  TEST (test_pread_calls),
  TEST (test_pread_unsound),
  TEST (test_ranges),
  TEST (test_file_cut),
  TEST (test_partial_tail),
  TEST (test_pread_errors),
  TEST (test_pread_short_and_eintr),
  TEST (test_prefetch),
)
