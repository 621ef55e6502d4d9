/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The QED format: decoding and encoding the header, and all arithmetic on
 * geometry.  Pure functions: no I/O, no state, no locks.
 *
 * Byte order is in the types.  The header on disk is a struct of le32 and
 * le64, which only the functions here turn into numbers, so that using a raw
 * value as a number doesn't compile.
 *
 *     0       header_bytes        l1_offset
 *     +-------+---------+---------+----------+---------+------+-- - -
 *     | header, name    | ...     | L1 table | ...     | data | L2 ...
 *     +-------+---------+---------+----------+---------+------+-- - -
 *
 *     guest offset = | L1 index   | L2 index   | byte in cluster |
 *                      table_bits   table_bits   cluster_bits
 *
 * Why nothing overflows (I9): cluster_bits <= 26 and table_bits <= 27.  So a
 * table has at most 2^30 bytes, and the three parts of a guest offset may
 * take 80 bits.  But image_size, a 64-bit number, bounds every guest offset.
 * Only the geometry's own maximum can need the 80 bits: qed_max_image_size
 * caps it.  Offsets from a file are compared by subtracting from a known
 * larger value, never by adding to them.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "error.h"
#include "format.h"

struct le32 { uint8_t b[4]; };
struct le64 { uint8_t b[8]; };

/* QED-FORMAT.md, Header. */
struct disk_header {
  uint8_t magic[4];
  struct le32 cluster_size;
  struct le32 table_size;
  struct le32 header_size;
  struct le64 features;
  struct le64 compat_features;
  struct le64 autoclear_features;
  struct le64 l1_table_offset;
  struct le64 image_size;
  struct le32 backing_filename_offset;
  struct le32 backing_filename_size;
};
_Static_assert (sizeof (struct disk_header) == QED_HEADER_BYTES, "header");
_Static_assert (offsetof (struct disk_header, features) == 16, "features");
_Static_assert (offsetof (struct disk_header, l1_table_offset) == 40, "L1");
_Static_assert (offsetof (struct disk_header, image_size) == 48, "size");
_Static_assert (offsetof (struct disk_header, backing_filename_size) == 60,
                "backing_filename_size");

static const uint8_t magic[4] = { 'Q', 'E', 'D', 0 };

static uint32_t
get32 (struct le32 v)
{
  return (uint32_t) v.b[0] | (uint32_t) v.b[1] << 8 |
    (uint32_t) v.b[2] << 16 | (uint32_t) v.b[3] << 24;
}

static struct le32
put32 (uint32_t v)
{
  return (struct le32) { { (uint8_t) v, (uint8_t) (v >> 8),
                           (uint8_t) (v >> 16), (uint8_t) (v >> 24) } };
}

static uint64_t
get64 (struct le64 v)
{
  struct le32 lo, hi;

  memcpy (&lo, &v.b[0], 4);
  memcpy (&hi, &v.b[4], 4);
  return get32 (lo) | (uint64_t) get32 (hi) << 32;
}

static struct le64
put64 (uint64_t v)
{
  struct le32 lo = put32 ((uint32_t) v), hi = put32 ((uint32_t) (v >> 32));
  struct le64 r;

  memcpy (&r.b[0], &lo, 4);
  memcpy (&r.b[4], &hi, 4);
  return r;
}

int
qed_header_decode (const uint8_t buf[QED_HEADER_BYTES], const char *name,
                   struct qed_header *h)
{
  struct disk_header d;

  memcpy (&d, buf, sizeof d);
  if (memcmp (d.magic, magic, sizeof magic) != 0)
    return qed_error (EINVAL, "%s: header: magic %02x %02x %02x %02x: "
                      "a QED image starts with 51 45 44 00: this is not a "
                      "QED image", name,
                      d.magic[0], d.magic[1], d.magic[2], d.magic[3]);

  h->cluster_size = get32 (d.cluster_size);
  h->table_size = get32 (d.table_size);
  h->header_size = get32 (d.header_size);
  h->features = get64 (d.features);
  h->compat_features = get64 (d.compat_features);
  h->autoclear_features = get64 (d.autoclear_features);
  h->l1_table_offset = get64 (d.l1_table_offset);
  h->image_size = get64 (d.image_size);
  h->backing_filename_offset = get32 (d.backing_filename_offset);
  h->backing_filename_size = get32 (d.backing_filename_size);
  return 0;
}

void
qed_header_encode (const struct qed_header *h, uint8_t buf[QED_HEADER_BYTES])
{
  struct disk_header d;

  memcpy (d.magic, magic, sizeof magic);
  d.cluster_size = put32 (h->cluster_size);
  d.table_size = put32 (h->table_size);
  d.header_size = put32 (h->header_size);
  d.features = put64 (h->features);
  d.compat_features = put64 (h->compat_features);
  d.autoclear_features = put64 (h->autoclear_features);
  d.l1_table_offset = put64 (h->l1_table_offset);
  d.image_size = put64 (h->image_size);
  d.backing_filename_offset = put32 (h->backing_filename_offset);
  d.backing_filename_size = put32 (h->backing_filename_size);
  memcpy (buf, &d, sizeof d);
}

/* ---- validation ---- */

static bool
power_of_2_within (uint32_t v, uint32_t min, uint32_t max)
{
  return v >= min && v <= max && (v & (v - 1)) == 0;
}

int
qed_header_check_sizes (const struct qed_header *h, const char *name)
{
  if (!power_of_2_within (h->cluster_size, QED_MIN_CLUSTER_SIZE,
                          QED_MAX_CLUSTER_SIZE))
    return qed_error (EINVAL, "%s: header: cluster_size %" PRIu32
                      ": must be a power of 2 from %" PRIu32 " to %" PRIu32,
                      name, h->cluster_size,
                      QED_MIN_CLUSTER_SIZE, QED_MAX_CLUSTER_SIZE);
  if (!power_of_2_within (h->table_size, QED_MIN_TABLE_SIZE,
                          QED_MAX_TABLE_SIZE))
    return qed_error (EINVAL, "%s: header: table_size %" PRIu32
                      ": must be a power of 2 from %" PRIu32 " to %" PRIu32,
                      name, h->table_size,
                      QED_MIN_TABLE_SIZE, QED_MAX_TABLE_SIZE);
  return 0;
}

static int
check_header_size (const struct qed_header *h, const char *name)
{
  /* The format's own limit: the header clusters take less than 4 GiB. */
  uint32_t max = UINT32_MAX / h->cluster_size;

  if (h->header_size < 1 || h->header_size > max)
    return qed_error (EINVAL, "%s: header: header_size %" PRIu32
                      ": must be from 1 to %" PRIu32
                      " clusters with this cluster_size",
                      name, h->header_size, max);
  return 0;
}

static int
check_l1 (const struct qed_header *h, const struct qed_geometry *g,
          uint64_t file_size, const char *name)
{
  uint64_t l1 = h->l1_table_offset;

  if ((l1 & (g->cluster_size - 1)) != 0)
    return qed_error (EINVAL, "%s: header: l1_table_offset %" PRIu64
                      ": must be a multiple of cluster_size %" PRIu64,
                      name, l1, g->cluster_size);
  if (l1 < g->header_bytes)
    return qed_error (EINVAL, "%s: header: l1_table_offset %" PRIu64
                      ": must lie after the header clusters, which end at %"
                      PRIu64, name, l1, g->header_bytes);
  if (g->table_bytes > file_size || l1 > file_size - g->table_bytes)
    return qed_error (EINVAL, "%s: header: l1_table_offset %" PRIu64
                      ": the L1 table of %" PRIu64 " bytes must lie inside "
                      "the file of %" PRIu64 " bytes: the file has been cut "
                      "short", name, l1, g->table_bytes, file_size);
  return 0;
}

static int
check_image_size (const struct qed_header *h, const struct qed_geometry *g,
                  const char *name)
{
  uint64_t max = qed_max_image_size (g);

  if (h->image_size % QED_SECTOR_SIZE != 0)
    return qed_error (EINVAL, "%s: header: image_size %" PRIu64
                      ": must be a multiple of %" PRIu32,
                      name, h->image_size, QED_SECTOR_SIZE);
  if (h->image_size > max)
    return qed_error (EINVAL, "%s: header: image_size %" PRIu64
                      ": must be at most %" PRIu64 " with cluster_size %"
                      PRIu32 " and table_size %" PRIu32,
                      name, h->image_size, max,
                      h->cluster_size, h->table_size);
  return 0;
}

static int
check_backing (const struct qed_header *h, const struct qed_geometry *g,
               const char *name)
{
  uint64_t offset = h->backing_filename_offset;
  uint64_t size = h->backing_filename_size;

  if (!(h->features & QED_F_BACKING_FILE))
    return 0;
  if (size < 1 || size > QED_MAX_BACKING_FILENAME)
    return qed_error (EINVAL, "%s: header: backing_filename_size %" PRIu64
                      ": must be from 1 to %d", name, size,
                      QED_MAX_BACKING_FILENAME);
  if (offset + size > g->header_bytes)
    return qed_error (EINVAL, "%s: header: backing_filename_offset %" PRIu64
                      ": the name of %" PRIu64 " bytes must lie inside the "
                      "header clusters, which end at %" PRIu64,
                      name, offset, size, g->header_bytes);
  return 0;
}

int
qed_header_validate (const struct qed_header *h, uint64_t file_size,
                     const char *name)
{
  struct qed_geometry g;

  /* First, because an unknown feature may change any other rule. */
  if (h->features & ~QED_F_KNOWN)
    return qed_error (ENOTSUP, "%s: header: features 0x%" PRIx64
                      ": only 0x%" PRIx64 " are known: the image needs a "
                      "program that knows the others",
                      name, h->features, QED_F_KNOWN);
  if (qed_header_check_sizes (h, name) == -1 ||
      check_header_size (h, name) == -1)
    return -1;

  qed_geometry_init (&g, h);
  if (check_l1 (h, &g, file_size, name) == -1 ||
      check_image_size (h, &g, name) == -1 ||
      check_backing (h, &g, name) == -1)
    return -1;
  return 0;
}

/* ---- geometry ---- */

void
qed_geometry_init (struct qed_geometry *g, const struct qed_header *h)
{
  g->cluster_bits = (unsigned) __builtin_ctz (h->cluster_size);
  g->table_bits = g->cluster_bits + (unsigned) __builtin_ctz (h->table_size)
    - 3 /* log2 of the size of an entry */;
  g->cluster_size = h->cluster_size;
  g->table_bytes = (uint64_t) h->table_size << g->cluster_bits;
  g->header_bytes = (uint64_t) h->header_size << g->cluster_bits;
  g->l1_offset = h->l1_table_offset;
  g->image_size = h->image_size;
}

uint64_t
qed_max_image_size (const struct qed_geometry *g)
{
  unsigned bits = 2 * g->table_bits + g->cluster_bits;

  return bits >= 63 ? QED_MAX_IMAGE_SIZE : UINT64_C (1) << bits;
}

const char *
qed_advise_geometry (const struct qed_header *h, uint64_t size,
                     char buf[QED_ADVICE_BYTES])
{
  struct qed_header larger = *h;
  struct qed_geometry g;

  if (size > QED_MAX_IMAGE_SIZE)
    return NULL;
  for (qed_geometry_init (&g, &larger); qed_max_image_size (&g) < size;
       qed_geometry_init (&g, &larger))
    if (larger.table_size < QED_MAX_TABLE_SIZE)
      larger.table_size *= 2;
    else
      larger.cluster_size *= 2;
  snprintf (buf, QED_ADVICE_BYTES, "-o cluster_size=%" PRIu32 "k,table_size=%"
            PRIu32, larger.cluster_size >> 10, larger.table_size);
  return buf;
}

const char *
qed_entry_unsound (const struct qed_geometry *g, uint64_t entry,
                   uint64_t length, uint64_t file_end, uint64_t own_table)
{
  if (qed_entry_sound (g, entry, length, file_end, own_table))
    return NULL;
  if ((entry & (g->cluster_size - 1)) != 0)
    return "is not a multiple of the cluster size";
  if (entry < g->header_bytes)
    return "points into the header clusters";
  if (length > file_end || entry > file_end - length)
    return "points past the end of the file";
  if (qed_overlaps (entry, length, g->l1_offset, g->table_bytes))
    return "points into the L1 table";
  return "points into the L2 table it stands in";
}
