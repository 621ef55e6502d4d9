/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The header decodes and encodes as QED-FORMAT.md says, and each rule for its
 * fields holds exactly up to its limit.  Geometry arithmetic is right at its
 * edges and never overflows, and an entry is sound exactly if it can be
 * followed.
 */

#include <config.h>

#include "format.h"
#include "harness.h"

#define NAME "dir/disk.qed"

typedef unsigned __int128 u128;

/* ---- decode and encode ---- */

/* The example of QED-FORMAT.md, byte by byte: each byte differs from all
 * others in its field.
 */
static const uint8_t example[QED_HEADER_BYTES] = {
  0x51, 0x45, 0x44, 0x00,       0x11, 0x12, 0x13, 0x94,
  0x21, 0x22, 0x23, 0xa4,       0x31, 0x32, 0x33, 0xb4,
  0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0xc8,
  0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0xd8,
  0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0xe8,
  0x71, 0x72, 0x73, 0x74, 0x75, 0x76, 0x77, 0xf8,
  0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88,
  0x91, 0x92, 0x93, 0x94,       0xa1, 0xa2, 0xa3, 0xa4,
};

static void
test_decode (void)
{
  struct qed_header h;

  CHECK_EQ (qed_header_decode (example, NAME, &h), 0);
  CHECK_EQ (h.cluster_size, 0x94131211);
  CHECK_EQ (h.table_size, 0xa4232221);
  CHECK_EQ (h.header_size, 0xb4333231);
  CHECK_EQ (h.features, UINT64_C (0xc847464544434241));
  CHECK_EQ (h.compat_features, UINT64_C (0xd857565554535251));
  CHECK_EQ (h.autoclear_features, UINT64_C (0xe867666564636261));
  CHECK_EQ (h.l1_table_offset, UINT64_C (0xf877767574737271));
  CHECK_EQ (h.image_size, UINT64_C (0x8887868584838281));
  CHECK_EQ (h.backing_filename_offset, 0x94939291);
  CHECK_EQ (h.backing_filename_size, 0xa4a3a2a1);
}

static void
test_encode (void)
{
  struct qed_header h;
  uint8_t buf[QED_HEADER_BYTES + 1];

  CHECK_EQ (qed_header_decode (example, NAME, &h), 0);
  memset (buf, 0xda, sizeof buf);
  qed_header_encode (&h, buf);
  CHECK (memcmp (buf, example, sizeof example) == 0);
  CHECK_EQ (buf[QED_HEADER_BYTES], 0xda);
}

/* Any bytes survive decoding and encoding, valid or not. */
static void
test_round_trip (void)
{
  struct rng rng = { 1 };

  for (int i = 0; i < 20000; i++) {
    uint8_t in[QED_HEADER_BYTES], out[QED_HEADER_BYTES];
    struct qed_header h;

    for (size_t j = 0; j < sizeof in; j++)
      in[j] = (uint8_t) rng_next (&rng);
    memcpy (in, example, 4);
    CHECK_EQ (qed_header_decode (in, NAME, &h), 0);
    qed_header_encode (&h, out);
    CHECK (memcmp (in, out, sizeof in) == 0);
  }
}

static void
test_magic (void)
{
  for (int bit = 0; bit < 32; bit++) {
    uint8_t buf[QED_HEADER_BYTES];
    struct qed_header h;

    memcpy (buf, example, sizeof buf);
    buf[bit / 8] ^= (uint8_t) (1 << bit % 8);
    CHECK_FAILS (qed_header_decode (buf, NAME, &h), EINVAL,
                 NAME ": header: magic ", "51 45 44 00");
  }
}

/* ---- magics ---- */

#define BYTES(s) (const uint8_t *) s, sizeof s - 1

/* Each format is known by the bytes of its own specification, where they
 * are and if all of them are there.
 */
static void
test_find_magic (void)
{
  static const struct {
    const char *format;
    size_t offset;
    const uint8_t *bytes;
    size_t length;
    bool packed;
  } cases[] = {
    { "qed", 0, BYTES ("QED\0"), false },
    { "qcow", 0, BYTES ("QFI\xfb\0\0\0\1"), false },
    { "vmdk", 0, BYTES ("KDMV"), false },
    { "vmdk", 0, BYTES ("COWD"), false },
    { "vmdk", 0, BYTES ("# Disk DescriptorFile"), false },
    { "vhdx", 0, BYTES ("vhdxfile"), false },
    { "vpc", 0, BYTES ("conectix"), false },
    { "vdi", 64, BYTES ("\x7f\x10\xda\xbe"), false },
    { "luks", 0, BYTES ("LUKS\xba\xbe"), false },
    { "parallels", 0, BYTES ("WithoutFreeSpace"), false },
    { "parallels", 0, BYTES ("WithouFreSpacExt"), false },
    { "bochs", 0, BYTES ("Bochs Virtual HD Image"), false },
    { "cloop", 0, BYTES ("#!/bin/sh\n#V2.0 Format\n"), false },
    { "gzip", 0, BYTES ("\x1f\x8b\x08"), true },
    { "xz", 0, BYTES ("\xfd\x37\x7a\x58\x5a\x00"), true },
    { "tar", 257, BYTES ("ustar"), true },
    { "bzip2", 4, BYTES ("\x31\x41\x59\x26\x53\x59"), true },
    { "zstd", 0, BYTES ("\x28\xb5\x2f\xfd"), true },
    { "lz4", 0, BYTES ("\x04\x22\x4d\x18"), true },
    { "lzip", 0, BYTES ("LZIP\1"), true },
    { "lzop", 0, BYTES ("\x89\x4c\x5a\x4f\x00\x0d\x0a\x1a\x0a"), true },
    { "zip", 0, BYTES ("PK\3\4"), true },
    { "7z", 0, BYTES ("\x37\x7a\xbc\xaf\x27\x1c"), true },
  };

  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    size_t start = cases[i].offset, end = start + cases[i].length;
    /* A buffer of exactly that size, so that sanitizers see reads past it. */
    uint8_t *buf = calloc (1, end);
    const char *format;

    CHECK (buf != NULL);
    memcpy (buf + start, cases[i].bytes, cases[i].length);
    format = qed_find_magic (buf, end);
    CHECK (format && strcmp (format, cases[i].format) == 0);
    CHECK ((qed_packed_advice (format) != NULL) == cases[i].packed);
    free (buf);

    for (size_t n = 0; n < end; n++) {
      buf = calloc (1, n + 1);
      CHECK (buf != NULL);
      if (n > start)
        memcpy (buf + start, cases[i].bytes, n - start);
      format = qed_find_magic (buf, n);
      /* One begins with the other. */
      CHECK (format == NULL || (strcmp (format, "qcow2") == 0 &&
                                strcmp (cases[i].format, "qcow") == 0));
      free (buf);
    }
    for (size_t bit = 0; bit < 8 * cases[i].length; bit++) {
      uint8_t bad[QED_MAGIC_BYTES] = { 0 };

      memcpy (bad + start, cases[i].bytes, cases[i].length);
      bad[start + bit / 8] ^= (uint8_t) (1 << bit % 8);
      format = qed_find_magic (bad, sizeof bad);
      CHECK (format == NULL || (strcmp (format, "qcow2") == 0 &&
                                strcmp (cases[i].format, "qcow") == 0));
    }
  }
  CHECK_STR (qed_find_magic (BYTES ("QFI\xfb\0\0\0\3")), "qcow2");
  CHECK (qed_packed_advice ("raw") == NULL);
  CHECK (qed_packed_advice ("") == NULL);
}

/* ---- geometry ---- */

static unsigned
log_2 (uint64_t v)
{
  unsigned r = 0;

  while (v > 1) {
    CHECK_EQ (v % 2, 0);
    v /= 2;
    r++;
  }
  return r;
}

/* A valid header, and the length of the smallest file for it. */
static struct qed_header
header (uint32_t cluster_size, uint32_t table_size)
{
  return (struct qed_header) {
    .cluster_size = cluster_size,
    .table_size = table_size,
    .header_size = 1,
    .l1_table_offset = cluster_size,
    .image_size = 1 << 20,
  };
}

static uint64_t
file_size (const struct qed_header *h)
{
  return h->l1_table_offset + (uint64_t) h->table_size * h->cluster_size;
}

/* n * n * cluster_size, in numbers that can hold it, cut to NBD's limit. */
static uint64_t
max_image_size (const struct qed_header *h)
{
  u128 n = (u128) h->table_size * h->cluster_size / 8;
  u128 max = n * n * h->cluster_size, limit = ((u128) 1 << 63) - 512;

  return (uint64_t) (max < limit ? max : limit);
}

#define FOR_ALL_GEOMETRIES(cs, ts)                                      \
  for (uint32_t cs = 1 << 12; cs <= 1 << 26; cs *= 2)                   \
    for (uint32_t ts = 1; ts <= 16; ts *= 2)

static void
test_geometry (void)
{
  FOR_ALL_GEOMETRIES (cs, ts) {
    struct qed_header h = header (cs, ts);
    struct qed_geometry g;

    CONTEXT ("cluster_size %u table_size %u", cs, ts);
    h.header_size = UINT32_MAX / cs;
    h.l1_table_offset = UINT64_C (5) << 40;
    h.image_size = UINT64_C (123) * 512;
    CHECK_EQ (qed_header_check_sizes (&h, NAME), 0);
    qed_geometry_init (&g, &h);
    CHECK_EQ (g.cluster_bits, log_2 (cs));
    CHECK_EQ (g.table_bits, log_2 ((uint64_t) cs * ts / 8));
    CHECK_EQ (g.cluster_size, cs);
    CHECK_EQ (g.table_bytes, (uint64_t) cs * ts);
    CHECK_EQ (g.header_bytes, (uint64_t) (UINT32_MAX / cs) * cs);
    CHECK_EQ (g.l1_offset, UINT64_C (5) << 40);
    CHECK_EQ (g.image_size, UINT64_C (123) * 512);
    CHECK_EQ (qed_max_image_size (&g), max_image_size (&h));
  }
}

/* The numbers that the documents name, and both sides of the edges. */
static void
test_max_image_size (void)
{
  static const struct {
    uint32_t cs, ts;
    uint64_t max;
  } known[] = {
    { 4096, 1, UINT64_C (1) << 30 },
    { 4096, 2, UINT64_C (1) << 32 }, /* the first beyond 32 bits */
    { 4096, 16, UINT64_C (1) << 38 },
    { 65536, 4, UINT64_C (1) << 46 }, /* 64 TiB, the default */
    { 1 << 20, 16, UINT64_C (1) << 62 },
    { 1 << 21, 4, UINT64_C (1) << 61 },
    { 1 << 21, 8, QED_MAX_IMAGE_SIZE },  /* 2^63 */
    { 1 << 22, 4, QED_MAX_IMAGE_SIZE },  /* 2^64 */
    { 1 << 26, 1, QED_MAX_IMAGE_SIZE },
    { 1 << 26, 16, QED_MAX_IMAGE_SIZE }, /* 2^80 */
  };

  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
    struct qed_header h = header (known[i].cs, known[i].ts);
    struct qed_geometry g;

    CONTEXT ("cluster_size %u table_size %u", known[i].cs, known[i].ts);
    qed_geometry_init (&g, &h);
    CHECK_EQ (qed_max_image_size (&g), known[i].max);
  }
}

/* ---- validation ---- */

#define CHECK_VALID(h, size)                                            \
  CHECK_EQ (qed_header_validate (&(h), (size), NAME), 0)

/* Invalid because of FIELD, whose VALUE the message has to name. */
static void
check_invalid (int line, const struct qed_header *h, uint64_t size, int err,
               const char *field, uint64_t value)
{
  char dec[100], hex[100];

  snprintf (dec, sizeof dec, NAME ": header: %s %" PRIu64 ":", field, value);
  snprintf (hex, sizeof hex, NAME ": header: %s 0x%" PRIx64 ":",
            field, value);
  errno = 0;
  if (qed_header_validate (h, size, NAME) != -1)
    harness_fail (__FILE__, line, "valid, but should fail with: %s", dec);
  if (errno != err)
    harness_fail (__FILE__, line, "errno %d, should be %d", errno, err);
  if (strncmp (qed_get_error (), dec, strlen (dec)) != 0 &&
      strncmp (qed_get_error (), hex, strlen (hex)) != 0)
    harness_fail (__FILE__, line, "message doesn't start with \"%s\"", dec);
}
#define CHECK_INVALID(h, size, field)                                   \
  check_invalid (__LINE__, &(h), (size), EINVAL, #field, (h).field)

static void
test_valid (void)
{
  FOR_ALL_GEOMETRIES (cs, ts) {
    struct qed_header h = header (cs, ts);

    CONTEXT ("cluster_size %u table_size %u", cs, ts);
    CHECK_VALID (h, file_size (&h));
  }
}

static void
test_cluster_size (void)
{
  static const uint32_t bad[] = {
    0, 1, 512, 2048, 4095, 4097, 4096 + 2048, 65535, 65537, 3 << 16,
    (1 << 26) - 1, (1 << 26) + 1, (1 << 26) + 4096, 1 << 27,
    UINT32_C (1) << 31, UINT32_MAX,
  };

  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    struct qed_header h = header (65536, 4);
    char s[100];

    h.cluster_size = bad[i];
    CHECK_INVALID (h, INT64_MAX, cluster_size);
    snprintf (s, sizeof s, NAME ": header: cluster_size %u: ", bad[i]);
    CHECK_FAILS (qed_header_check_sizes (&h, NAME), EINVAL, s, "4096",
                 "67108864");
  }
}

static void
test_table_size (void)
{
  static const uint32_t bad[] = {
    0, 3, 5, 6, 7, 9, 12, 15, 17, 24, 31, 32, 64, 65536,
    UINT32_C (1) << 31, UINT32_MAX,
  };

  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    struct qed_header h = header (65536, 4);
    char s[100];

    h.table_size = bad[i];
    CHECK_INVALID (h, INT64_MAX, table_size);
    snprintf (s, sizeof s, NAME ": header: table_size %u: ", bad[i]);
    CHECK_FAILS (qed_header_check_sizes (&h, NAME), EINVAL, s, " 1 ", "16");
  }
}

static void
test_header_size (void)
{
  FOR_ALL_GEOMETRIES (cs, ts) {
    struct qed_header h = header (cs, ts);
    uint32_t max = (uint32_t) (((UINT64_C (1) << 32) - 1) / cs);

    CONTEXT ("cluster_size %u table_size %u", cs, ts);
    h.l1_table_offset = UINT64_C (1) << 33;
    h.header_size = 0;
    CHECK_INVALID (h, INT64_MAX, header_size);
    h.header_size = max;
    CHECK_VALID (h, file_size (&h));
    h.header_size = max + 1;    /* * cs == 2^32, which is 0 in 32 bits */
    CHECK_INVALID (h, INT64_MAX, header_size);
    h.header_size = max + 2;
    CHECK_INVALID (h, INT64_MAX, header_size);
    h.header_size = UINT32_C (1) << 31;
    CHECK_INVALID (h, INT64_MAX, header_size);
    h.header_size = UINT32_MAX;
    CHECK_INVALID (h, INT64_MAX, header_size);
  }
}

static void
test_l1_offset (void)
{
  FOR_ALL_GEOMETRIES (cs, ts) {
    struct qed_header h = header (cs, ts);
    uint64_t table_bytes = (uint64_t) cs * ts, size, l1;

    CONTEXT ("cluster_size %u table_size %u", cs, ts);

    /* Unaligned. */
    for (l1 = 1; l1 < cs; l1 *= 2) {
      h.l1_table_offset = cs + l1;
      CHECK_INVALID (h, INT64_MAX, l1_table_offset);
    }
    h.l1_table_offset = 2 * (uint64_t) cs - 1;
    CHECK_INVALID (h, INT64_MAX, l1_table_offset);

    /* In the header clusters. */
    h.l1_table_offset = 0;
    CHECK_INVALID (h, INT64_MAX, l1_table_offset);
    h.header_size = 3;
    h.l1_table_offset = 2 * (uint64_t) cs;
    CHECK_INVALID (h, INT64_MAX, l1_table_offset);
    h.l1_table_offset = 3 * (uint64_t) cs;
    CHECK_VALID (h, file_size (&h));

    /* The end of the file. */
    size = file_size (&h);
    CHECK_VALID (h, size + 1);
    CHECK_VALID (h, size + cs - 1);
    CHECK_INVALID (h, size - 1, l1_table_offset);
    CHECK_INVALID (h, size - 512, l1_table_offset);
    CHECK_INVALID (h, size - cs, l1_table_offset);
    CHECK_INVALID (h, h.l1_table_offset, l1_table_offset);
    CHECK_INVALID (h, table_bytes, l1_table_offset);
    CHECK_INVALID (h, table_bytes - 1, l1_table_offset);
    CHECK_INVALID (h, QED_HEADER_BYTES, l1_table_offset);
    CHECK_INVALID (h, 0, l1_table_offset);

    /* Sums that wrap around. */
    for (l1 = UINT64_MAX - cs + 1; l1 >= UINT64_MAX - 2 * table_bytes;
         l1 -= cs) {
      h.l1_table_offset = l1;
      CHECK_INVALID (h, INT64_MAX, l1_table_offset);
      CHECK_INVALID (h, 1 << 20, l1_table_offset);
    }
    h.l1_table_offset = (UINT64_C (1) << 63) - table_bytes;
    CHECK_INVALID (h, INT64_MAX, l1_table_offset);
    h.l1_table_offset = UINT64_C (1) << 63;
    CHECK_INVALID (h, INT64_MAX, l1_table_offset);
    h.l1_table_offset = (UINT64_C (1) << 63) - table_bytes - cs;
    CHECK_VALID (h, INT64_MAX);
  }
}

static void
test_image_size (void)
{
  FOR_ALL_GEOMETRIES (cs, ts) {
    struct qed_header h = header (cs, ts);
    uint64_t size = file_size (&h), max = max_image_size (&h);

    CONTEXT ("cluster_size %u table_size %u", cs, ts);
    h.image_size = 0;
    CHECK_VALID (h, size);
    h.image_size = 512;
    CHECK_VALID (h, size);
    h.image_size = max - 512;
    CHECK_VALID (h, size);
    h.image_size = max;
    CHECK_VALID (h, size);
    h.image_size = max + 512;
    CHECK_INVALID (h, size, image_size);
    h.image_size = max + 4096;
    CHECK_INVALID (h, size, image_size);
    h.image_size = UINT64_C (1) << 63;
    CHECK_INVALID (h, size, image_size);
    h.image_size = 0 - UINT64_C (512);
    CHECK_INVALID (h, size, image_size);

    for (int bit = 0; bit < 9; bit++) {
      h.image_size = 4096 + (1 << bit);
      CHECK_INVALID (h, size, image_size);
    }
    h.image_size = 511;
    CHECK_INVALID (h, size, image_size);
    h.image_size = UINT64_MAX;
    CHECK_INVALID (h, size, image_size);
  }
}

static void
test_backing_name (void)
{
  FOR_ALL_GEOMETRIES (cs, ts) {
    struct qed_header h = header (cs, ts);
    uint64_t size;

    CONTEXT ("cluster_size %u table_size %u", cs, ts);
    h.header_size = 2;
    h.l1_table_offset = 2 * (uint64_t) cs;
    size = file_size (&h);
    h.features = QED_F_BACKING_FILE;
    h.backing_filename_offset = QED_HEADER_BYTES;
    h.backing_filename_size = 1;
    CHECK_VALID (h, size);
    h.features |= QED_F_BACKING_FORMAT_NO_PROBE;
    CHECK_VALID (h, size);

    h.backing_filename_size = 0;
    CHECK_INVALID (h, size, backing_filename_size);
    h.backing_filename_size = QED_MAX_BACKING_FILENAME;
    CHECK_VALID (h, size);
    h.backing_filename_size = QED_MAX_BACKING_FILENAME + 1;
    CHECK_INVALID (h, size, backing_filename_size);
    h.backing_filename_size = UINT32_MAX;
    CHECK_INVALID (h, size, backing_filename_size);
    h.backing_filename_size = 0 - QED_HEADER_BYTES; /* sum: 2^32 */
    CHECK_INVALID (h, size, backing_filename_size);

    /* The last bytes of the header clusters, and one more. */
    h.backing_filename_size = 10;
    h.backing_filename_offset = 2 * cs - 10;
    CHECK_VALID (h, size);
    h.backing_filename_offset++;
    CHECK_INVALID (h, size, backing_filename_offset);
    h.backing_filename_offset = 2 * cs;
    CHECK_INVALID (h, size, backing_filename_offset);
    h.backing_filename_offset = UINT32_MAX - 9;     /* sum: 2^32 */
    CHECK_INVALID (h, size, backing_filename_offset);
    h.backing_filename_offset = UINT32_MAX;
    CHECK_INVALID (h, size, backing_filename_offset);

    /* Without the feature the fields mean nothing. */
    h.features = QED_F_NEED_CHECK | QED_F_BACKING_FORMAT_NO_PROBE;
    CHECK_VALID (h, size);
    h.backing_filename_size = 0;
    CHECK_VALID (h, size);
  }
}

static void
test_features (void)
{
  struct qed_header h = header (65536, 4);
  uint64_t size = file_size (&h);

  h.backing_filename_offset = QED_HEADER_BYTES;
  h.backing_filename_size = 1;
  for (uint64_t f = 0; f < 8; f++) {
    h.features = f;
    CHECK_VALID (h, size);
  }
  for (int bit = 3; bit < 64; bit++)
    for (uint64_t f = 0; f < 8; f++) {
      h.features = UINT64_C (1) << bit | f;
      check_invalid (__LINE__, &h, size, ENOTSUP, "features", h.features);
    }

  /* Of the others every bit is ignored. */
  h.features = 0;
  for (int bit = 0; bit < 64; bit++) {
    h.compat_features = UINT64_C (1) << bit;
    h.autoclear_features = 0;
    CHECK_VALID (h, size);
    h.compat_features = 0;
    h.autoclear_features = UINT64_C (1) << bit;
    CHECK_VALID (h, size);
  }
  h.compat_features = h.autoclear_features = UINT64_MAX;
  CHECK_VALID (h, size);
}

/* ---- entries ---- */

#define CHECK_SOUND(e)                                                  \
  do {                                                                  \
    const char *why_ = qed_entry_unsound (&g, (e), length, end, own);   \
    if (why_)                                                           \
      harness_fail (__FILE__, __LINE__, "%s = %#" PRIx64 ": %s",        \
                    #e, (uint64_t) (e), why_);                          \
  } while (0)
#define CHECK_UNSOUND(e, word)                                          \
  do {                                                                  \
    const char *why_ = qed_entry_unsound (&g, (e), length, end, own);   \
    if (why_ == NULL)                                                   \
      harness_fail (__FILE__, __LINE__, "%s = %#" PRIx64 " is sound",   \
                    #e, (uint64_t) (e));                                \
    if (strstr (why_, word) == NULL)                                    \
      harness_fail (__FILE__, __LINE__, "%s = %#" PRIx64 ": %s",        \
                    #e, (uint64_t) (e), why_);                          \
  } while (0)

/* The rules for both kinds of entries.  LENGTH is the number of bytes that an
 * entry points to; the L1 table is in the middle of the file.
 */
static void
check_entries (const struct qed_geometry *gp, uint64_t length, uint64_t end,
               uint64_t own)
{
  const struct qed_geometry g = *gp;
  uint64_t cs = g.cluster_size, l1 = g.l1_offset, l1_end = l1 + g.table_bytes;

  /* The header clusters. */
  CHECK_UNSOUND (0, "header");
  CHECK_UNSOUND (g.header_bytes - cs, "header");
  CHECK_SOUND (g.header_bytes);
  CHECK_SOUND (g.header_bytes + cs);

  /* The L1 table: up to it, into it, out of it. */
  CHECK_SOUND (l1 - length);
  CHECK_UNSOUND (l1 - length + cs, "L1");
  CHECK_UNSOUND (l1, "L1");
  CHECK_UNSOUND (l1_end - cs, "L1");
  CHECK_SOUND (l1_end);

  /* The end of the file. */
  CHECK_SOUND (end - length);
  CHECK_UNSOUND (end - length + cs, "end of the file");
  CHECK_UNSOUND (end, "end of the file");
  CHECK_UNSOUND (end + cs, "end of the file");

  /* Alignment. */
  for (uint64_t bit = 1; bit < cs; bit *= 2)
    CHECK_UNSOUND (g.header_bytes + bit, "multiple");
  CHECK_UNSOUND (g.header_bytes + cs - 1, "multiple");
  CHECK_UNSOUND (l1 - length - 1, "multiple");
  CHECK_UNSOUND (end - length + 1, "multiple");
  CHECK_UNSOUND (1, "multiple");
  CHECK_UNSOUND (UINT64_MAX, "multiple");
  CHECK_UNSOUND (UINT64_MAX - 1, "multiple");

  /* Sums that wrap around. */
  for (uint64_t e = 0 - cs; e >= 0 - length - 2 * cs; e -= cs)
    CHECK_UNSOUND (e, "end of the file");
  CHECK_UNSOUND (UINT64_C (1) << 63, "end of the file");
  CHECK_UNSOUND ((UINT64_C (1) << 63) - cs, "end of the file");
  CHECK_UNSOUND (UINT64_C (1) << 32 << g.cluster_bits, "end of the file");
}

static void
test_entry_unsound (void)
{
  FOR_ALL_GEOMETRIES (cs, ts) {
    struct qed_header h = header (cs, ts);
    struct qed_geometry g;
    uint64_t end, own, length = cs;

    CONTEXT ("cluster_size %u table_size %u", cs, ts);
    h.header_size = 3;
    h.l1_table_offset = 100 * (uint64_t) cs;
    qed_geometry_init (&g, &h);
    end = 300 * (uint64_t) cs;
    own = 200 * (uint64_t) cs;

    CONTEXT ("cluster_size %u table_size %u, L1 entry", cs, ts);
    check_entries (&g, g.table_bytes, end, 0);
    CONTEXT ("cluster_size %u table_size %u, L2 entry", cs, ts);
    check_entries (&g, cs, end, own);

    /* An L2 entry that points into its table. */
    CHECK_SOUND (own - cs);
    CHECK_UNSOUND (own, "L2 table");
    CHECK_UNSOUND (own + g.table_bytes - cs, "L2 table");
    CHECK_SOUND (own + g.table_bytes);

    /* A file with nothing but the L1 table, or less than a cluster. */
    own = 0;
    h.l1_table_offset = 3 * (uint64_t) cs;
    qed_geometry_init (&g, &h);
    end = file_size (&h);
    length = g.table_bytes;
    CHECK_UNSOUND (h.l1_table_offset - cs, "header");
    CHECK_UNSOUND (h.l1_table_offset, "L1");
    CHECK_UNSOUND (end, "end of the file");
    end = 0;
    CHECK_UNSOUND (3 * (uint64_t) cs, "");
    length = cs;
    CHECK_UNSOUND (3 * (uint64_t) cs, "");

    /* The largest file. */
    end = INT64_MAX / cs * cs;
    CHECK_SOUND (end - cs);
    CHECK_UNSOUND (end, "end of the file");
  }
}

/* Against a definition by counting clusters, for small numbers. */
static void
test_entry_unsound_model (void)
{
  const uint32_t cs = 4096;

  for (uint32_t ts = 1; ts <= 4; ts *= 2)
    for (uint64_t l1 = 2; l1 < 9; l1++)
      for (uint64_t own = 1; own < 15; own++)
        for (uint64_t end = 9; end < 16; end++)
          for (uint64_t e = 0; e < 18; e++) {
            struct qed_header h = header (cs, ts);
            struct qed_geometry g;
            bool bad = false;
            const char *why;
            uint64_t length = own == 1 ? ts : 1, table = own == 1 ? 0 : own;

            h.header_size = 2;
            h.l1_table_offset = l1 * cs;
            qed_geometry_init (&g, &h);
            for (uint64_t i = e; i < e + length; i++)
              bad |= i < 2 || i >= end || (i >= l1 && i < l1 + ts) ||
                (table && i >= table && i < table + ts);
            why = qed_entry_unsound (&g, e * cs, length * cs, end * cs,
                                     table * cs);
            CONTEXT ("table_size %u L1 at %" PRIu64 " own %" PRIu64
                     " end %" PRIu64 " entry %" PRIu64 ": %s",
                     ts, l1, table, end, e, why ? why : "sound");
            CHECK_EQ (why != NULL, bad);
          }
}

/* The advised geometry is the first one that is large enough, in the order of
 * larger tables and then larger clusters.
 */
static void
test_advise_geometry (void)
{
  char buf[QED_ADVICE_BYTES];

  for (uint32_t cs = QED_MIN_CLUSTER_SIZE; cs <= QED_MAX_CLUSTER_SIZE; cs *= 2)
    for (uint32_t ts = 1; ts <= 16; ts *= 2)
      for (unsigned bits = 9; bits <= 63; ++bits)
        for (int more = 0; more < 2; ++more) {
          const struct qed_header h = header (cs, ts);
          uint64_t size = (UINT64_C (1) << bits) + (more ? 512 : 0);
          struct qed_header next = h;
          char want[QED_ADVICE_BYTES];

          CONTEXT ("%u x %u, 2^%u + %d", cs, ts, bits, more);
          if (size > QED_MAX_IMAGE_SIZE) {
            CHECK (qed_advise_geometry (&h, size, buf) == NULL);
            continue;
          }
          while (max_image_size (&next) < size)
            if (next.table_size < 16)
              next.table_size *= 2;
            else
              next.cluster_size *= 2;
          CHECK_OP (next.cluster_size, <=, QED_MAX_CLUSTER_SIZE);
          sprintf (want, "-o cluster_size=%uk,table_size=%u",
                   next.cluster_size / 1024, next.table_size);
          CHECK (qed_advise_geometry (&h, size, buf) == buf);
          CHECK_STR (buf, want);
        }
}

HARNESS_MAIN (
  TEST (test_decode),
  TEST (test_encode),
  TEST (test_round_trip),
  TEST (test_magic),
  TEST (test_find_magic),
  TEST (test_geometry),
  TEST (test_max_image_size),
  TEST (test_advise_geometry),
  TEST (test_valid),
  TEST (test_cluster_size),
  TEST (test_table_size),
  TEST (test_header_size),
  TEST (test_l1_offset),
  TEST (test_image_size),
  TEST (test_backing_name),
  TEST (test_features),
  TEST (test_entry_unsound),
  TEST (test_entry_unsound_model),
)
