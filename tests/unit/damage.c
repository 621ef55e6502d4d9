/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

#include <config.h>

#include "damage.h"

typedef unsigned __int128 u128;

/* ---- building ---- */

#define MAX_TABLES 8
#define MAX_DATA 256

struct builder {
  struct model *m;
  struct rng *rng;
  uint64_t tables[MAX_TABLES];  /* L1 indexes */
  size_t n_tables;
  struct { uint64_t cluster, offset; } data[MAX_DATA];
  size_t n_data;                /* the last ones */
  uint64_t spread;
};

void
damage_copy (struct mem_file *f, struct mem_file *dest, uint64_t from,
             uint64_t to, uint64_t length)
{
  uint64_t end = from + length, next;
  uint8_t buf[MEM_CHUNK];
  bool hole;

  for (uint64_t o = from; o < end; o = next) {
    next = mem_next_extent (f, o, &hole);
    if (!hole)
      next = o + MEM_CHUNK;
    if (hole || next > end)
      continue;
    mem_read (f, buf, sizeof buf, o);
    mem_write (dest, buf, sizeof buf, to + (o - from));
  }
}

void
damage_move_l1 (struct model *m)
{
  uint64_t to = model_append (m, m->h.table_size);

  damage_copy (m->file, m->file, m->h.l1_table_offset, to,
               model_table_bytes (m));
  m->h.l1_table_offset = to;
  model_write_header (m);
}

/* A disk whose end is in or near one of the first tables, mostly. */
static uint64_t
choose_size (struct rng *rng, uint64_t cluster_size, uint64_t table_size)
{
  u128 n = cluster_size * table_size / 8, size;

  if (rng_below (rng, 4) == 0)
    size = 512 * rng_below (rng, 100000);
  else
    size = n * cluster_size * (1 + rng_below (rng, 5)) -
      512 * rng_below (rng, 20);
  if (size > n * n * cluster_size)
    size = n * n * cluster_size;
  return size > QED_MAX_IMAGE_SIZE ? QED_MAX_IMAGE_SIZE : (uint64_t) size;
}

static uint64_t
some_table (const struct builder *b)
{
  return b->tables[rng_below (b->rng, b->n_tables)];
}

/* A guest cluster in one of the tables: not too many different ones. */
static uint64_t
some_cluster (const struct builder *b)
{
  uint64_t n = model_entries (b->m), r = rng_below (b->rng, b->spread);

  switch (rng_below (b->rng, 4)) {
  case 0: r = n - 1 - r; break;
  case 1: r += n / 2; break;
  }
  return some_table (b) * n + r;
}

/* Is its table there, and not damaged? */
static bool
has_table (const struct builder *b, uint64_t cluster)
{
  uint64_t l1 = model_get_l1 (b->m, cluster / model_entries (b->m));

  return l1 != 0 && model_sound (b->m, l1, model_table_bytes (b->m), 0);
}

static void
add_data (struct builder *b)
{
  uint64_t cluster = some_cluster (b);
  size_t i = b->n_data < MAX_DATA ? b->n_data++ :
    rng_below (b->rng, MAX_DATA);

  b->data[i].cluster = cluster;
  b->data[i].offset = model_data (b->m, cluster);
}

static void
add_leak (struct builder *b)
{
  uint64_t count = 1 + rng_below (b->rng, 4);
  uint64_t offset = model_append (b->m, count);

  if (rng_below (b->rng, 2))
    model_pattern (b->m, offset, 4096);
}

/* As if it were one, of data that isn't its own. */
static void
add_leaked_table (struct builder *b)
{
  uint64_t l1 = model_get_l1 (b->m, some_table (b));
  uint64_t to = model_append (b->m, b->m->h.table_size);

  if (l1)
    damage_copy (b->m->file, b->m->file, l1, to, model_table_bytes (b->m));
}

/* Unlink: data mostly, or a table with all its data. */
static void
make_leak (struct builder *b)
{
  uint64_t cluster = some_cluster (b);

  if (rng_below (b->rng, 6) == 0)
    model_set_l1 (b->m, cluster / model_entries (b->m), 0);
  else if (b->n_data > 0) {
    cluster = b->data[rng_below (b->rng, b->n_data)].cluster;
    if (has_table (b, cluster))
      model_set (b->m, cluster, 0);
  }
}

static void
step (struct builder *b, bool leaks)
{
  switch (rng_below (b->rng, leaks ? 16 : 10)) {
  case 0: model_set (b->m, some_cluster (b), 1); break;
  case 10: case 11: add_leak (b); break;
  case 12: add_leaked_table (b); break;
  case 13: case 14: make_leak (b); break;
  case 15: if (rng_below (b->rng, 3) == 0) damage_move_l1 (b->m); break;
  default: add_data (b);
  }
}

/* An L1 entry for a new range, or nothing if there's no table for it. */
static void
damage_l1 (struct builder *b, uint64_t entry)
{
  uint64_t n = model_entries (b->m), index = rng_below (b->rng, n);

  if (rng_below (b->rng, 2))
    index = rng_below (b->rng, n < 12 ? n : 12);
  if (model_get_l1 (b->m, index) == 0)
    model_set_l1 (b->m, index, entry);
}

static void
add_damage (struct builder *b, enum qed_damage damage)
{
  uint64_t cs = b->m->h.cluster_size;
  uint64_t cluster = some_cluster (b), other = some_cluster (b);
  uint64_t l1 = model_get_l1 (b->m, cluster / model_entries (b->m));
  uint64_t piece = rng_below (b->rng, b->m->h.table_size);

  if (!has_table (b, cluster))
    return;
  switch (damage) {
  case QED_DAMAGE_UNSOUND:
    if (rng_below (b->rng, 4) == 0)
      damage_l1 (b, model_unsound (b->m, b->rng, 0));
    else
      model_set (b->m, cluster, model_unsound (b->m, b->rng, l1));
    break;
  case QED_DAMAGE_SHARED_TABLE:
    piece = rng_below (b->rng, 2) ? 0 : piece;
    damage_l1 (b, rng_below (b->rng, 2) && l1 > 16 * cs ? l1 - piece * cs :
               l1 + piece * cs);
    break;
  case QED_DAMAGE_IN_TABLE:
    if (has_table (b, other))
      model_set (b->m, other, l1 + piece * cs);
    break;
  default:
    if (b->n_data > 0)
      model_set (b->m, cluster,
                 b->data[rng_below (b->rng, b->n_data)].offset);
  }
}

static void
choose_header (struct builder *b)
{
  struct qed_header *h = &b->m->h;

  if (rng_below (b->rng, 4) == 0)
    h->compat_features = rng_next (b->rng);
  if (rng_below (b->rng, 4) == 0)
    h->autoclear_features = rng_next (b->rng);
  if (rng_below (b->rng, 4) == 0)
    h->features |= QED_F_NEED_CHECK;
  if (rng_below (b->rng, 4) == 0)
    model_name_backing (b->m);
  model_write_header (b->m);
}

void
damage_random (struct model *m, struct mem_file *f, struct rng *rng,
               uint32_t cluster_size, uint32_t table_size, unsigned damages,
               unsigned steps)
{
  struct builder b = { .m = m, .rng = rng, .spread = 12 + steps / 20 };
  uint32_t header_size = 1 + (uint32_t) rng_below (rng, 3);
  uint64_t entries = (uint64_t) cluster_size * table_size / 8;
  bool leaks = rng_below (rng, 8) > 0;

  model_create_at (m, f, cluster_size, table_size, header_size,
                   header_size + (leaks ? rng_below (rng, 4) : 0),
                   choose_size (rng, cluster_size, table_size));
  b.n_tables = 1 + rng_below (rng, 4);
  for (size_t i = 0; i < b.n_tables; i++)
    b.tables[i] = rng_below (rng, 8) ? rng_below (rng, 6) :
      rng_below (rng, entries);
  CHECK_OP (b.spread, <=, entries / 2);
  for (unsigned i = 0; i < steps; i++)
    step (&b, leaks);
  if (rng_below (rng, 2))       /* nothing to move down in the others */
    add_data (&b);
  for (unsigned i = 0; i < QED_NR_DAMAGES; i++)
    if (damages & 1U << i)
      for (uint64_t n = rng_below (rng, 4); n > 0; n--)
        add_damage (&b, (enum qed_damage) i);
  choose_header (&b);
  if (leaks && rng_below (rng, 2))
    model_pattern (m, mem_size (f), 1 + rng_below (rng, 4000));
  CHECK (model_open (m, f));
}

/* ---- reading tables ---- */

struct entry { uint64_t index, value; };

struct entries {
  struct entry *e;
  size_t n;
};

/* Those of the table at OFFSET that aren't 0, in order. */
static struct entries
read_table (const struct model *m, uint64_t offset)
{
  uint64_t end = offset + model_table_bytes (m), next;
  struct entries list = { NULL, 0 };
  bool hole;

  for (uint64_t o = offset; o < end; o = next) {
    next = mem_next_extent (m->file, o, &hole);
    if (hole)
      continue;
    next = o + MEM_CHUNK;
    for (uint64_t p = o; p < next; p += 8) {
      struct entry e = { (p - offset) / 8, model_get64 (m, p) };

      if (e.value == 0)
        continue;
      if (list.n % 64 == 0)
        list.e = realloc (list.e, (list.n + 64) * sizeof *list.e);
      CHECK (list.e != NULL);
      list.e[list.n++] = e;
    }
  }
  return list;
}

/* ---- checking ---- */

struct numbers {
  uint64_t *v;
  size_t n;
};

static void
add_number (struct numbers *l, uint64_t v)
{
  if (l->n % 64 == 0)
    l->v = realloc (l->v, (l->n + 64) * sizeof *l->v);
  CHECK (l->v != NULL);
  l->v[l->n++] = v;
}

static int
compare_numbers (const void *a, const void *b)
{
  uint64_t x = *(const uint64_t *) a, y = *(const uint64_t *) b;

  return x < y ? -1 : x > y;
}

/* How many of the numbers, which it sorts, are different ones? */
static size_t
different (struct numbers *l)
{
  size_t r = 0;

  if (l->n > 0)
    qsort (l->v, l->n, sizeof *l->v, compare_numbers);
  for (size_t i = 0; i < l->n; i++)
    r += i == 0 || l->v[i] != l->v[i - 1];
  return r;
}

/* Does a range of the file touch one of the tables? */
static bool
touches (const struct model *m, const struct numbers *tables, uint64_t offset,
         uint64_t length)
{
  for (size_t i = 0; i < tables->n; i++)
    if (offset < tables->v[i] + model_table_bytes (m) &&
        tables->v[i] < offset + length)
      return true;
  return false;
}

static struct numbers
claim_tables (const struct model *m, struct qed_check_result *r)
{
  struct entries l1 = read_table (m, m->h.l1_table_offset);
  struct numbers tables = { NULL, 0 };

  for (size_t i = 0; i < l1.n; i++)
    if (!model_sound (m, l1.e[i].value, model_table_bytes (m), 0))
      r->damages[QED_DAMAGE_UNSOUND]++;
    else if (touches (m, &tables, l1.e[i].value, model_table_bytes (m)))
      r->damages[QED_DAMAGE_SHARED_TABLE]++;
    else
      add_number (&tables, l1.e[i].value);
  free (l1.e);
  return tables;
}

static void
check_table (const struct model *m, uint64_t table,
             const struct numbers *tables, struct numbers *data,
             struct qed_check_result *r)
{
  struct entries l2 = read_table (m, table);
  uint64_t cs = m->h.cluster_size, previous = 0;

  for (size_t i = 0; i < l2.n; i++) {
    uint64_t v = l2.e[i].value;

    if (v == 1)
      continue;
    if (!model_sound (m, v, cs, table)) {
      r->damages[QED_DAMAGE_UNSOUND]++;
      continue;
    }
    r->allocated_clusters++;
    r->fragmented_clusters += previous != 0 && v != previous + cs;
    previous = v;
    if (touches (m, tables, v, cs))
      r->damages[QED_DAMAGE_IN_TABLE]++;
    else
      add_number (data, v);
  }
  free (l2.e);
}

static uint64_t
largest (const struct numbers *l, uint64_t length, uint64_t end)
{
  for (size_t i = 0; i < l->n; i++)
    if (l->v[i] + length > end)
      end = l->v[i] + length;
  return end;
}

bool
damage_check (struct mem_file *f, bool fixed_size, struct qed_check_result *r)
{
  struct numbers tables, data = { NULL, 0 };
  struct model m;
  uint64_t cs, used;

  *r = (struct qed_check_result) { 0 };
  if (!model_open (&m, f))
    return false;
  cs = m.h.cluster_size;
  tables = claim_tables (&m, r);
  for (size_t i = 0; i < tables.n; i++)
    check_table (&m, tables.v[i], &tables, &data, r);
  used = m.h.header_size + m.h.table_size +
    tables.n * m.h.table_size + different (&data);
  r->damages[QED_DAMAGE_SHARED_DATA] = data.n - different (&data);
  for (int i = 0; i < QED_NR_DAMAGES; i++)
    r->corruptions += r->damages[i];

  r->total_clusters = model_clusters (&m);
  r->file_size = m.file_size;
  r->need_check = m.h.features & QED_F_NEED_CHECK;
  r->end = m.h.l1_table_offset + model_table_bytes (&m);
  r->end = largest (&tables, model_table_bytes (&m), r->end);
  r->end = largest (&data, cs, r->end);
  if (mem_is_device (f))
    fixed_size = true;
  r->leaks = (fixed_size ? r->end : m.file_size) / cs - used;
  free (tables.v);
  free (data.v);
  return true;
}

struct found {
  struct model m;
  uint64_t damages[QED_NR_DAMAGES];
};

/* The range has such an entry. */
static void
find (void *opaque, enum qed_damage damage, uint64_t offset, uint64_t length,
      uint64_t file_offset)
{
  struct found *f = opaque;
  uint64_t cs = f->m.h.cluster_size, entry;
  enum qed_run_type type;

  CONTEXT ("damage %d at %#" PRIx64 " + %#" PRIx64, (int) damage, offset,
           length);
  CHECK_OP (damage, <, QED_NR_DAMAGES);
  f->damages[damage]++;
  if (length == 0)
    return;
  CHECK_EQ (offset % cs, 0);
  CHECK (length == cs || length == cs * model_entries (&f->m) ||
         length == f->m.h.image_size - offset);
  type = model_lookup (&f->m, offset / cs, &entry);
  if (damage != QED_DAMAGE_SHARED_TABLE)
    CHECK_EQ (file_offset, entry);
  if (damage == QED_DAMAGE_UNSOUND)
    CHECK_EQ (type, QED_RUN_UNSOUND);
  else if (damage != QED_DAMAGE_SHARED_TABLE)
    CHECK_EQ (type, QED_RUN_DATA);
}

void
compare_results (const struct qed_check_result *a,
                 const struct qed_check_result *b)
{
  for (int i = 0; i < QED_NR_DAMAGES; i++)
    CHECK_EQ (a->damages[i], b->damages[i]);
  CHECK_EQ (a->corruptions, b->corruptions);
  CHECK_EQ (a->leaks, b->leaks);
  CHECK_EQ (a->total_clusters, b->total_clusters);
  CHECK_EQ (a->allocated_clusters, b->allocated_clusters);
  CHECK_EQ (a->fragmented_clusters, b->fragmented_clusters);
  CHECK_EQ (a->end, b->end);
  CHECK_EQ (a->file_size, b->file_size);
  CHECK_EQ (a->need_check, b->need_check);
}

/* What isn't allocated is counted as qed_bytes_unallocated does. */
static void
compare_unallocated (struct mem_file *f, const struct model *m)
{
  const uint64_t size = m->h.image_size, cs = m->h.cluster_size;
  const uint64_t below[] = { 0, size, size / 2, 1, size > cs ? cs : 0,
                             size > 3 * cs ? size - 2 * cs - 1 : 0 };

  for (size_t i = 0; i < sizeof below / sizeof below[0]; i++) {
    const struct qed_check_options opts = {
      .below = below[i] < size ? below[i] : size
    };
    struct qed_storage *st = mem_open (f);
    struct qed_check_result got;
    uint64_t want;

    CHECK_EQ (qed_check (st, &opts, &got), 0);
    CHECK_EQ (qed_bytes_unallocated (st, opts.below, &want), 0);
    qed_storage_close (st);
    if (got.damages[QED_DAMAGE_SHARED_TABLE] == 0)
      CHECK_EQ (got.unallocated, want);
  }
}

void
compare_check (struct mem_file *f, bool fixed_size)
{
  struct found found = { .damages = { 0 } };
  const struct qed_check_options opts = { .damage = find, .opaque = &found };
  struct qed_storage *st = mem_open (f);
  struct qed_check_result got, want;
  uint64_t hash = mem_hash (f);

  CHECK (model_open (&found.m, f));
  CHECK (damage_check (f, fixed_size, &want));
  mem_reset_counters (f);
  st->fixed_size |= fixed_size;
  CHECK_EQ (qed_check (st, &opts, &got), 0);
  qed_storage_close (st);
  CHECK_EQ (mem_calls (f, MEM_PWRITE) + mem_calls (f, MEM_RESIZE) +
            mem_calls (f, MEM_SYNC) + mem_calls (f, MEM_MAKE_WRITABLE), 0);
  CHECK_EQ (mem_hash (f), hash);
  CONTEXT ("clusters %u * %u", found.m.h.cluster_size, found.m.h.table_size);
  compare_results (&got, &want);
  for (int i = 0; i < QED_NR_DAMAGES; i++)
    CHECK_EQ (found.damages[i], want.damages[i]);
  compare_unallocated (f, &found.m);
}

uint64_t
damage_used (struct mem_file *f)
{
  struct qed_check_result r;
  struct model m;

  CHECK (model_open (&m, f));
  CHECK (damage_check (f, false, &r));
  return (m.file_size / m.h.cluster_size - r.leaks) * m.h.cluster_size;
}

/* ---- comparing ---- */

static uint64_t
hash_cluster (const struct model *m, uint64_t offset)
{
  uint64_t end = offset + m->h.cluster_size, hash = 0, next;
  uint8_t buf[MEM_CHUNK];
  bool hole;

  for (uint64_t o = offset; o < end; o = next) {
    next = mem_next_extent (m->file, o, &hole);
    if (hole)
      continue;
    next = o + MEM_CHUNK;
    mem_read (m->file, buf, sizeof buf, o);
    for (unsigned i = 0; i < MEM_CHUNK; i += 8) {
      uint64_t word;

      memcpy (&word, buf + i, 8);
      if (word)
        hash ^= rng_next (&(struct rng) { word * 31 + (o - offset + i) });
    }
  }
  return hash;
}

static void
add_cluster (struct snapshot *s, struct guest_cluster c)
{
  if (s->n % 64 == 0)
    s->c = realloc (s->c, (s->n + 64) * sizeof *s->c);
  CHECK (s->c != NULL);
  s->c[s->n++] = c;
  s->unsound += c.type == QED_RUN_UNSOUND;
  s->in_table += c.in_table;
}

static void
add_table (struct snapshot *s, const struct model *m, const struct entry *l1,
           const struct numbers *tables, struct numbers *data)
{
  struct entries l2 = read_table (m, l1->value);
  uint64_t cs = m->h.cluster_size;
  bool unfollowed = true;

  for (size_t i = 0; i < tables->n; i++)
    unfollowed &= tables->v[i] != l1->value;
  for (size_t i = 0; i < l2.n; i++) {
    struct guest_cluster c = {
      .unfollowed = unfollowed,
      .cluster = l1->index * model_entries (m) + l2.e[i].index,
      .file_offset = l2.e[i].value,
    };

    if (c.file_offset == 1)
      c.type = QED_RUN_ZERO;
    else if (!model_sound (m, c.file_offset, cs, l1->value))
      c.type = QED_RUN_UNSOUND;
    else {
      c.type = QED_RUN_DATA;
      c.in_table = touches (m, tables, c.file_offset, cs);
      c.hash = hash_cluster (m, c.file_offset);
      if (!c.in_table)
        add_number (data, c.file_offset);
    }
    add_cluster (s, c);
  }
  free (l2.e);
}

void
snapshot_take (struct snapshot *s, struct mem_file *f)
{
  struct qed_check_result unused = { .leaks = 0 };
  struct numbers tables, data = { NULL, 0 };
  struct entries l1;
  struct model m;

  *s = (struct snapshot) { .n = 0 };
  CHECK (model_open (&m, f));
  tables = claim_tables (&m, &unused);
  l1 = read_table (&m, m.h.l1_table_offset);
  for (size_t i = 0; i < l1.n; i++)
    if (model_sound (&m, l1.e[i].value, model_table_bytes (&m), 0))
      add_table (s, &m, &l1.e[i], &tables, &data);
    else
      add_cluster (s, (struct guest_cluster) {
          .cluster = l1.e[i].index * model_entries (&m),
          .type = QED_RUN_UNSOUND, .whole_table = true,
        });
  s->shared = data.n - different (&data);
  free (l1.e);
  free (tables.v);
  free (data.v);
}

void
snapshot_free (struct snapshot *s)
{
  free (s->c);
}

/* May B have become A?  NULL: it was, or is now, unallocated. */
static bool
may_become (const struct guest_cluster *b, const struct guest_cluster *a,
            enum snapshot_when when)
{
  if (b == NULL)
    return false;
  if (b->type == QED_RUN_UNSOUND)
    return a == NULL ||
      (when == INTERRUPTED && a->type == QED_RUN_UNSOUND &&
       a->whole_table == b->whole_table) ||
      (when != REPAIRED && b->unfollowed && a->type == QED_RUN_DATA &&
       a->hash == 0);
  if (a == NULL)
    return when != REPAIRED && b->in_table && b->unfollowed;
  if (a->type != b->type)
    return false;
  return b->type != QED_RUN_DATA || a->hash == b->hash ||
    (when != REPAIRED && b->in_table);
}

const char *
snapshot_diff (const struct snapshot *before, const struct snapshot *after,
               enum snapshot_when when)
{
  static char why[200];
  size_t i = 0, j = 0;

  while (i < before->n || j < after->n) {
    const struct guest_cluster *b = i < before->n ? &before->c[i] : NULL;
    const struct guest_cluster *a = j < after->n ? &after->c[j] : NULL;

    if (b && a && b->cluster != a->cluster)
      *(b->cluster < a->cluster ? &a : &b) = NULL;
    i += b != NULL;
    j += a != NULL;
    if (may_become (b, a, when))
      continue;
    snprintf (why, sizeof why, "content: guest cluster %" PRIu64 " was type "
              "%d at %#" PRIx64 ", is %d at %#" PRIx64,
              b ? b->cluster : a->cluster, b ? (int) b->type : -1,
              b ? b->file_offset : 0, a ? (int) a->type : -1,
              a ? a->file_offset : 0);
    return why;
  }
  if (after->unsound <= (when == INTERRUPTED ? before->unsound : 0) &&
      after->in_table <= (when == INTERRUPTED ? before->in_table : 0) &&
      after->shared <= (when == INTERRUPTED ? before->shared : 0))
    return NULL;
  snprintf (why, sizeof why, "damage: unsound %" PRIu64 ", was %" PRIu64
            "; in tables %" PRIu64 ", was %" PRIu64 "; shared %" PRIu64
            ", was %" PRIu64, after->unsound, before->unsound,
            after->in_table, before->in_table, after->shared, before->shared);
  return why;
}
