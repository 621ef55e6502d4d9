/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

#include <config.h>

#include "model.h"

typedef unsigned __int128 u128;

/* ---- numbers in the file ---- */

static uint64_t
get_number (const struct model *m, uint64_t offset, int bytes)
{
  uint8_t b[8] = { 0 };
  uint64_t v = 0;

  mem_read (m->file, b, (size_t) bytes, offset);
  for (int i = bytes - 1; i >= 0; i--)
    v = v * 256 + b[i];
  return v;
}

static void
put_number (struct model *m, uint64_t offset, int bytes, uint64_t v)
{
  uint8_t b[8];

  for (int i = 0; i < bytes; i++, v /= 256)
    b[i] = (uint8_t) (v % 256);
  mem_write (m->file, b, (size_t) bytes, offset);
}

uint64_t
model_get64 (const struct model *m, uint64_t offset)
{
  return get_number (m, offset, 8);
}

void
model_put64 (struct model *m, uint64_t offset, uint64_t v)
{
  put_number (m, offset, 8, v);
}

/* ---- geometry ---- */

uint64_t
model_table_bytes (const struct model *m)
{
  return (uint64_t) m->h.table_size * m->h.cluster_size;
}

uint64_t
model_entries (const struct model *m)
{
  return model_table_bytes (m) / 8;
}

unsigned __int128
model_max_size (const struct model *m)
{
  return (u128) model_entries (m) * model_entries (m) * m->h.cluster_size;
}

uint64_t
model_clusters (const struct model *m)
{
  return m->h.image_size / m->h.cluster_size +
    (m->h.image_size % m->h.cluster_size != 0);
}

/* ---- building ---- */

void
model_write_header (struct model *m)
{
  mem_write (m->file, "QED", 4, 0);
  put_number (m, 4, 4, m->h.cluster_size);
  put_number (m, 8, 4, m->h.table_size);
  put_number (m, 12, 4, m->h.header_size);
  put_number (m, 16, 8, m->h.features);
  put_number (m, 24, 8, m->h.compat_features);
  put_number (m, 32, 8, m->h.autoclear_features);
  put_number (m, 40, 8, m->h.l1_table_offset);
  put_number (m, 48, 8, m->h.image_size);
  put_number (m, 56, 4, m->h.backing_filename_offset);
  put_number (m, 60, 4, m->h.backing_filename_size);
}

void
model_name_backing (struct model *m)
{
  static const char name[] = { 'b', 'a', 's', 'e' };

  m->h.features |= QED_F_BACKING_FILE;
  m->h.backing_filename_offset = QED_HEADER_BYTES;
  m->h.backing_filename_size = sizeof name;
  model_write_header (m);
  mem_write (m->file, name, sizeof name, QED_HEADER_BYTES);
}

void
model_raw (struct model *m, struct mem_file *f)
{
  *m = (struct model) {
    .file = f, .h.image_size = mem_size (f), .raw = true,
  };
}

void
model_create_at (struct model *m, struct mem_file *f, uint32_t cluster_size,
                 uint32_t table_size, uint32_t header_size,
                 uint64_t l1_cluster, uint64_t image_size)
{
  *m = (struct model) {
    .file = f,
    .h = {
      .cluster_size = cluster_size,
      .table_size = table_size,
      .header_size = header_size,
      .l1_table_offset = l1_cluster * cluster_size,
      .image_size = image_size,
    },
  };
  mem_truncate (f, 0);
  mem_truncate (f, m->h.l1_table_offset + model_table_bytes (m));
  model_write_header (m);
  m->file_size = mem_size (f);
}

void
model_create (struct model *m, struct mem_file *f, uint32_t cluster_size,
              uint32_t table_size, uint64_t image_size)
{
  model_create_at (m, f, cluster_size, table_size, 1, 1, image_size);
}

uint64_t
model_append (struct model *m, uint64_t count)
{
  uint64_t cs = m->h.cluster_size;
  uint64_t offset = (mem_size (m->file) + cs - 1) / cs * cs;

  mem_truncate (m->file, offset + count * cs);
  m->file_size = mem_size (m->file);
  return offset;
}

uint64_t
model_get_l1 (const struct model *m, uint64_t l1_index)
{
  return model_get64 (m, m->h.l1_table_offset + 8 * l1_index);
}

void
model_set_l1 (struct model *m, uint64_t l1_index, uint64_t entry)
{
  CHECK_OP (l1_index, <, model_entries (m));
  model_put64 (m, m->h.l1_table_offset + 8 * l1_index, entry);
}

void
model_set (struct model *m, uint64_t cluster, uint64_t entry)
{
  uint64_t l1_index = cluster / model_entries (m);

  if (model_get_l1 (m, l1_index) == 0)
    model_set_l1 (m, l1_index, model_append (m, m->h.table_size));
  model_put64 (m, model_get_l1 (m, l1_index) +
               8 * (cluster % model_entries (m)), entry);
}

void
model_pattern (struct model *m, uint64_t offset, uint64_t length)
{
  uint8_t buf[4096];

  while (length > 0) {
    size_t n = length < sizeof buf ? length : sizeof buf;

    for (size_t i = 0; i < n; i++) {
      struct rng r = { (offset + i) / 8 };

      buf[i] = (uint8_t) (rng_next (&r) >> (offset + i) % 8 * 8) | 1;
    }
    mem_write (m->file, buf, n, offset);
    offset += n;
    length -= n;
  }
}

static void
pattern_in_cluster (struct model *m, uint64_t offset)
{
  model_pattern (m, offset, 4096);
  if (m->h.cluster_size > 4096)
    model_pattern (m, offset + m->h.cluster_size - 4096, 4096);
}

uint64_t
model_data (struct model *m, uint64_t cluster)
{
  uint64_t offset;

  /* Append the table before the data, or the first data cluster of a table
   * would never be contiguous with the next one.
   */
  if (model_get_l1 (m, cluster / model_entries (m)) == 0)
    model_set (m, cluster, 0);
  offset = model_append (m, 1);
  pattern_in_cluster (m, offset);
  model_set (m, cluster, offset);
  return offset;
}

/* A size for the disk: often small, often just about the maximum or a
 * table's end.
 */
static uint64_t
random_size (struct rng *rng, uint32_t cluster_size, uint32_t table_size)
{
  u128 n = (u128) cluster_size * table_size / 8;
  u128 max = n * n * cluster_size, size;
  uint64_t limit = max > QED_MAX_IMAGE_SIZE ? QED_MAX_IMAGE_SIZE :
    (uint64_t) max;

  switch (rng_below (rng, 4)) {
  case 0: size = rng_below (rng, 20 * (uint64_t) cluster_size); break;
  case 1: size = n * cluster_size * (1 + rng_below (rng, 4)) -
      512 * rng_below (rng, 3); break;
  case 2: size = limit - 512 * rng_below (rng, 3); break;
  default: size = rng_next (rng); break;
  }
  if (size > limit)
    size = limit;
  return (uint64_t) size / 512 * 512;
}

uint64_t
model_unsound (struct model *m, struct rng *rng, uint64_t table)
{
  uint64_t cs = m->h.cluster_size, end = mem_size (m->file) / cs * cs;
  uint64_t own = table ? table : cs;

  switch (rng_below (rng, 8)) {
  case 0: return rng_below (rng, m->h.header_size) * cs + (cs / 2);
  case 1: return m->h.l1_table_offset + rng_below (rng, m->h.table_size) * cs;
  case 2: return end + cs * rng_below (rng, 3) + (table ? 0 : cs);
  case 3: return own + cs * rng_below (rng, m->h.table_size);
  case 4: return end / 2 / cs * cs + 1 + rng_below (rng, cs - 1);
  case 5: return UINT64_MAX - rng_below (rng, 3 * cs);
  case 6: return (UINT64_MAX / cs - rng_below (rng, 3)) * cs;
  default: return rng_next (rng) | 1 << 9;
  }
}

size_t
model_random (struct model *m, struct mem_file *f, struct rng *rng,
              uint32_t cluster_size, uint32_t table_size, bool unsound,
              uint64_t *touched, size_t max)
{
  uint32_t header_size = 1 + (uint32_t) rng_below (rng, 3);
  uint64_t l1_cluster = header_size + rng_below (rng, 3);
  uint64_t clusters, n, previous = 0;
  size_t count = 0;

  model_create_at (m, f, cluster_size, table_size, header_size, l1_cluster,
                   random_size (rng, cluster_size, table_size));
  clusters = model_clusters (m);
  n = model_entries (m);
  if (clusters == 0)
    return 0;

  for (int group = 0; group < 6; group++) {
    /* Begin just before: anything, the end of a slice of 512 entries, of a
     * table, of the disk, or go on in the next table.
     */
    uint64_t cluster = rng_below (rng, clusters);
    uint64_t length = 1 + rng_below (rng, 24);
    unsigned kind = 0;

    switch (rng_below (rng, 5)) {
    case 0: cluster -= cluster % 512; break;
    case 1: cluster -= cluster % n; break;
    case 2: cluster = clusters; break;
    case 3: cluster = 0; break;
    }
    cluster -= cluster < length / 2 ? cluster : length / 2;

    if (unsound && rng_below (rng, 6) == 0 &&
        model_get_l1 (m, cluster / n) == 0) {
      model_set_l1 (m, cluster / n, model_unsound (m, rng, 0));
      if (touched && count < max)
        touched[count++] = cluster;
      continue;
    }

    for (; length > 0 && cluster < clusters; length--, cluster++) {
      uint64_t l1 = model_get_l1 (m, cluster / n), entry;
      bool usable = l1 == 0 ||
        model_lookup (m, cluster, &entry) != QED_RUN_UNSOUND || entry != l1;

      if (!usable)
        continue;
      if (rng_below (rng, 4) == 0)
        kind = (unsigned) rng_below (rng, unsound ? 7 : 6);
      switch (kind) {
      case 0: case 1: previous = model_data (m, cluster); break;
      case 2: model_set (m, cluster, 1); break;
      case 3: model_set (m, cluster, 0); break;
      case 4:                   /* descending */
        if (previous > l1 + model_table_bytes (m) + cluster_size)
          previous -= cluster_size;
        /* fall through */
      case 5:                   /* shared */
        if (previous)
          model_set (m, cluster, previous);
        break;
      default:
        model_set (m, cluster,
                   model_unsound (m, rng, model_get_l1 (m, cluster / n)));
      }
      if (touched && count < max)
        touched[count++] = cluster;
    }
  }

  /* A trailing partial cluster. */
  if (rng_below (rng, 2)) {
    uint64_t offset = mem_size (f);

    mem_truncate (f, offset + 1 + rng_below (rng, cluster_size - 1));
    m->file_size = mem_size (f);
  }
  return count;
}

/* ---- reading ---- */

/* The backing file's name, if there is one. */
static bool
valid_name (const struct model *m)
{
  const struct qed_header *h = &m->h;
  uint64_t offset = h->backing_filename_offset;
  uint64_t size = h->backing_filename_size;
  char name[QED_MAX_BACKING_FILENAME];

  if (h->features % 2 == 0)
    return true;
  if (size == 0 || size > sizeof name ||
      offset + size > (uint64_t) h->header_size * h->cluster_size)
    return false;
  mem_read (m->file, name, size, offset);
  return offset + size <= m->file_size && memchr (name, 0, size) == NULL;
}

bool
model_open (struct model *m, struct mem_file *f)
{
  struct qed_header *h = &m->h;
  char magic[4];

  *m = (struct model) { .file = f, .file_size = mem_size (f) };
  mem_read (f, magic, 4, 0);
  if (m->file_size < 64 || memcmp (magic, "QED", 4) != 0)
    return false;
  h->cluster_size = (uint32_t) get_number (m, 4, 4);
  h->table_size = (uint32_t) get_number (m, 8, 4);
  h->header_size = (uint32_t) get_number (m, 12, 4);
  h->features = get_number (m, 16, 8);
  h->compat_features = get_number (m, 24, 8);
  h->autoclear_features = get_number (m, 32, 8);
  h->l1_table_offset = get_number (m, 40, 8);
  h->image_size = get_number (m, 48, 8);
  h->backing_filename_offset = (uint32_t) get_number (m, 56, 4);
  h->backing_filename_size = (uint32_t) get_number (m, 60, 4);

  if (h->features > 7)
    return false;
  for (uint32_t cs = 4096;; cs *= 2)
    if (cs > 64 << 20)
      return false;
    else if (cs == h->cluster_size)
      break;
  if (h->table_size != 1 && h->table_size != 2 && h->table_size != 4 &&
      h->table_size != 8 && h->table_size != 16)
    return false;
  return h->header_size > 0 &&
    (u128) h->header_size * h->cluster_size < (u128) 1 << 32 &&
    h->l1_table_offset % h->cluster_size == 0 &&
    h->l1_table_offset >= (u128) h->header_size * h->cluster_size &&
    (u128) h->l1_table_offset + model_table_bytes (m) <= m->file_size &&
    h->image_size % 512 == 0 &&
    h->image_size <= model_max_size (m) &&
    h->image_size < (u128) 1 << 63 &&
    valid_name (m);
}

static bool
overlap (u128 a, u128 a_len, u128 b, u128 b_len)
{
  return a < b + b_len && b < a + a_len;
}

bool
model_sound (const struct model *m, uint64_t entry, uint64_t length,
             uint64_t table)
{
  uint64_t cs = m->h.cluster_size;

  return entry % cs == 0 &&
    entry >= m->h.header_size * cs &&
    (u128) entry + length <= m->file_size / cs * cs &&
    !overlap (entry, length, m->h.l1_table_offset, model_table_bytes (m)) &&
    !(table && overlap (entry, length, table, model_table_bytes (m)));
}

enum qed_run_type
model_lookup (const struct model *m, uint64_t cluster, uint64_t *entry)
{
  uint64_t table = model_get_l1 (m, cluster / model_entries (m));

  *entry = table;
  if (table == 0)
    return QED_RUN_UNALLOCATED;
  if (!model_sound (m, table, model_table_bytes (m), 0))
    return QED_RUN_UNSOUND;
  *entry = model_get64 (m, table + 8 * (cluster % model_entries (m)));
  if (*entry == 0)
    return QED_RUN_UNALLOCATED;
  if (*entry == 1)
    return QED_RUN_ZERO;
  return model_sound (m, *entry, m->h.cluster_size, table) ?
    QED_RUN_DATA : QED_RUN_UNSOUND;
}

void
model_map (const struct model *m, uint64_t offset, uint64_t length,
           uint64_t max, struct qed_run *run)
{
  uint64_t cs = m->h.cluster_size, cluster = offset / cs, entry, next;
  u128 end = (u128) (cluster + 1) * cs;

  run->type = model_lookup (m, cluster, &entry);
  run->file_offset = entry;
  if (run->type == QED_RUN_DATA)
    run->file_offset += offset % cs;
  for (; end < (u128) offset + length && max > 0; end += cs, max--) {
    if (model_lookup (m, ++cluster, &next) != run->type ||
        (run->type == QED_RUN_DATA && next != entry + cs))
      break;
    entry = next;
  }
  run->length = end - offset < length ? (uint64_t) (end - offset) : length;
}

/* How many bytes, COUNT at most, the backing file has at OFFSET; the others
 * are zeros.
 */
static uint64_t
length_in_backing (const struct model *m, uint64_t offset, uint64_t count)
{
  uint64_t size = m->backing ? m->backing->h.image_size : 0;

  return offset >= size ? 0 : size - offset < count ? size - offset : count;
}

int
model_pread (const struct model *m, void *buf, size_t count, uint64_t offset)
{
  uint64_t cs = m->h.cluster_size, entry;
  uint8_t *p = buf;

  if (m->raw) {
    mem_read (m->file, buf, count, offset);
    return 0;
  }
  while (count > 0) {
    size_t n = cs - offset % cs < count ? cs - offset % cs : count;

    switch (model_lookup (m, offset / cs, &entry)) {
    case QED_RUN_UNSOUND:
      return -1;
    case QED_RUN_DATA:
      mem_read (m->file, p, n, entry + offset % cs);
      break;
    case QED_RUN_UNALLOCATED:
      memset (p, 0, n);
      if (length_in_backing (m, offset, n) > 0 &&
          model_pread (m->backing, p, length_in_backing (m, offset, n),
                       offset) == -1)
        return -1;
      break;
    case QED_RUN_ZERO:
      memset (p, 0, n);
    }
    p += n;
    offset += n;
    count -= n;
  }
  return 0;
}

/* ---- comparing ---- */

void
open_over (struct opened *o, struct mem_file *f, struct qed_backing *backing)
{
  o->file = f;
  o->hash = mem_hash (f);
  o->img = qed_open_overlay (mem_open (f), backing, QED_MIN_CACHE_SIZE);
  CHECK (o->img != NULL);
  mem_reset_counters (f);
}

void
open_image (struct opened *o, struct mem_file *f, size_t cache_size)
{
  struct qed_storage *st = mem_open (f);

  o->file = f;
  o->hash = mem_hash (f);
  o->img = qed_open (st, cache_size);
  CHECK (o->img != NULL);
  mem_reset_counters (f);
}

void
close_image (struct opened *o)
{
  qed_close (o->img);
  CHECK_EQ (mem_calls (o->file, MEM_CLOSE), 1);
  CHECK_EQ (mem_open_storages (o->file), 0);
  CHECK_EQ (mem_calls (o->file, MEM_PWRITE), 0);
  CHECK_EQ (mem_calls (o->file, MEM_RESIZE), 0);
  CHECK_EQ (mem_hash (o->file), o->hash);
}

struct qed_run
compare_map (struct qed_image *img, const struct model *m, uint64_t offset,
             uint64_t length, uint64_t max)
{
  struct qed_run run = { 0 }, want;

  CHECK_EQ (qed_map (img, offset, length, &run), 0);
  model_map (m, offset, length, max, &want);
  CONTEXT ("clusters %u * %u, map of %#" PRIx64 " + %#" PRIx64
           ": got type %d length %#" PRIx64 " at %#" PRIx64
           ", want type %d length %#" PRIx64 " at %#" PRIx64,
           m->h.cluster_size, m->h.table_size, offset, length,
           run.type, run.length, run.file_offset,
           want.type, want.length, want.file_offset);
  CHECK_EQ (run.type, want.type);
  if (run.type == QED_RUN_DATA || run.type == QED_RUN_UNSOUND)
    CHECK_EQ (run.file_offset, want.file_offset);
  CHECK_OP (run.length, <=, length);

  /* The model stopped looking after MAX clusters. */
  if (want.length / m->h.cluster_size >= max)
    CHECK_OP (run.length, >=, want.length);
  else
    CHECK_EQ (run.length, want.length);
  return run;
}

void
compare_pread (struct qed_image *img, const struct model *m, uint64_t offset,
               size_t count)
{
  uint8_t *got = malloc (count + 1), *want = malloc (count + 1);
  int r;

  CHECK (got && want);
  CONTEXT ("clusters %u * %u, pread of %#zx at %#" PRIx64,
           m->h.cluster_size, m->h.table_size, count, offset);
  memset (got, 0xda, count + 1);
  r = model_pread (m, want, count, offset);
  if (r == -1)
    CHECK_FAILS (qed_pread (img, got, count, offset), EIO, MEM_NAME);
  else {
    CHECK_EQ (qed_pread (img, got, count, offset), 0);
    for (size_t i = 0; memcmp (got, want, count) != 0 && i < count; i++)
      if (got[i] != want[i])
        harness_fail (__FILE__, __LINE__, "byte %zu is %02x, should be %02x",
                      i, got[i], want[i]);
  }
  CHECK_EQ (got[count], 0xda);  /* nothing after the end */
  free (got);
  free (want);
}

/* The type that qed_extents must report for a byte. */
static bool
model_zero (const struct model *m, uint64_t offset)
{
  uint64_t cs = m->h.cluster_size, entry;
  bool hole;

  if (m->raw) {
    mem_next_extent (m->file, offset, &hole);
    return hole;
  }
  switch (model_lookup (m, offset / cs, &entry)) {
  case QED_RUN_UNSOUND:
    return false;
  case QED_RUN_DATA:
    mem_next_extent (m->file, entry + offset % cs, &hole);
    return hole;
  case QED_RUN_UNALLOCATED:
    return length_in_backing (m, offset, 1) == 0 ||
      model_zero (m->backing, offset);
  default:
    return true;
  }
}

/* The type is the same within a chunk, unless a backing file ends there. */
static uint64_t
next_change (const struct model *m, uint64_t offset)
{
  uint64_t next = (offset / MEM_CHUNK + 1) * MEM_CHUNK;

  for (m = m->backing; m; m = m->backing)
    if (m->h.image_size > offset && m->h.image_size < next)
      next = m->h.image_size;
  return next;
}

struct extents_state {
  const struct model *m;
  uint64_t next, end;
  int last;                     /* -1, or the zero of the last extent */
};

static int
check_extent (void *opaque, uint64_t offset, uint64_t length, bool zero)
{
  struct extents_state *s = opaque;

  CONTEXT ("clusters %u * %u, extent %#" PRIx64 " + %#" PRIx64 " zero %d",
           s->m->h.cluster_size, s->m->h.table_size, offset, length, zero);
  CHECK_EQ (offset, s->next);
  CHECK_OP (length, >, 0);
  CHECK_OP (length, <=, s->end - offset);
  CHECK (s->last != zero);

  for (uint64_t o = offset; o < offset + length; o = next_change (s->m, o))
    if (model_zero (s->m, o) != zero)
      harness_fail (__FILE__, __LINE__, "zero isn't so at %#" PRIx64, o);
  s->next = offset + length;
  s->last = zero;
  return 0;
}

void
compare_extents (struct qed_image *img, const struct model *m,
                 uint64_t offset, uint64_t length)
{
  struct extents_state s = { m, offset, offset + length, -1 };

  CONTEXT ("clusters %u * %u, extents of %#" PRIx64 " + %#" PRIx64,
           m->h.cluster_size, m->h.table_size, offset, length);
  CHECK_EQ (qed_extents (img, offset, length, check_extent, &s), 0);
  CHECK_EQ (s.next, offset + length);
}
