/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Consistency check: which clusters are referenced, and whether each is by one
 * entry only.
 *
 * Two sets (bitmap.h) have the clusters of the file that are in use, and those
 * of them that L2 tables take.  Both rounds read each table once at most.  The
 * first one, over the L1 table only, finds the L1 entries that are unsound,
 * and those to a table that overlaps with an earlier one.  The other tables
 * are disjoint.  The second round looks at their entries.
 *
 *     an entry out of range            unsound: reading through it fails
 *     an L2 table that overlaps        shared table
 *     a data cluster inside a table    in table: no guest data is in there
 *     a data cluster in use already    shared data: the owner can't be told
 *     a cluster never referenced       leak: only space is lost
 *
 * All table entries are looked at, those beyond the end of the disk too.
 * I9: an entry is followed only if it is sound, and a table only once.
 */

#include <config.h>

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "check.h"
#include "error.h"
#include "format.h"
#include "storage.h"

struct checker {
  struct qed_walk *w;
  const struct qed_check_options *opts;
  unsigned clear;               /* damages whose entries become 0 */
  struct qed_check_result *result;
  uint8_t *skip;                /* L1 entries whose table overlaps with that
                                   of an earlier one */
  uint64_t used;                /* clusters of tables and data */

  struct qed_set marks;         /* the clusters that have an owner */
  struct qed_set tables;        /* of these, those of L2 tables */

  /* The clusters of the disk for RESULT->unallocated.  The last one may end
   * behind what is looked at.
   */
  uint64_t counted;

  uint64_t l1_index, expected;  /* where the data after the last entry is, if
                                   that was in the same table */

  qed_entry_fn *shared;         /* see qed_find_shared; or NULL */
  bool in_tables;               /* the same */
  void *opaque;
};

/* ---- damages ---- */

/* The guest range that entry number INDEX of the L1 table, or of the current
 * L2 table, maps, cut at the end of the disk.
 */
static void
guest_range (const struct qed_walk *w, bool l1, uint64_t index,
             uint64_t *offset, uint64_t *length)
{
  const struct qed_geometry *g = &w->g;
  const unsigned shift = g->cluster_bits + (l1 ? g->table_bits : 0);

  if (!l1)
    index += w->l1_index << g->table_bits;
  *offset = index > UINT64_MAX >> shift ? UINT64_MAX : index << shift;
  *length = *offset >= g->image_size ? 0 : g->image_size - *offset;
  if (*length > UINT64_C (1) << shift)
    *length = UINT64_C (1) << shift;
}

/* Report a damaged entry.  Returns 1 if it is to be cleared, else 0. */
static int
damaged (struct checker *c, enum qed_damage damage, bool l1, uint64_t index,
         uint64_t *entry)
{
  c->result->damages[damage]++;
  c->result->corruptions++;
  if (c->opts && c->opts->damage) {
    uint64_t offset, length;

    guest_range (c->w, l1, index, &offset, &length);
    c->opts->damage (c->opts->opaque, damage, offset, length, *entry);
  }
  if (!(c->clear & 1U << damage))
    return 0;
  *entry = QED_ENTRY_UNALLOCATED;
  return 1;
}

/* ---- marks ---- */

/* Where what every image has ends: the header and the L1 table. */
static uint64_t
tables_end (const struct qed_geometry *g)
{
  uint64_t l1_end = g->l1_offset + g->table_bytes;

  return g->header_bytes > l1_end ? g->header_bytes : l1_end;
}

static int
mark (struct checker *c, uint64_t cluster)
{
  uint64_t end = (cluster + 1) << c->w->g.cluster_bits;

  c->used++;
  if (end > c->result->end)
    c->result->end = end;
  return qed_set_add (&c->marks, cluster);
}

/* ---- first round: L1 entries ---- */

static int
look_at_l1_entry (void *opaque, uint64_t index, uint64_t *entry)
{
  struct checker *c = opaque;
  const struct qed_geometry *g = &c->w->g;
  const uint64_t count = g->table_bytes >> g->cluster_bits;
  const uint64_t first = *entry >> g->cluster_bits;

  if (!qed_entry_sound (g, *entry, g->table_bytes, c->w->file_end, 0))
    return damaged (c, QED_DAMAGE_UNSOUND, true, index, entry);
  for (uint64_t i = 0; i < count; ++i)
    if (qed_set_has (&c->tables, first + i)) {
      qed_set_bit (c->skip, index);
      return damaged (c, QED_DAMAGE_SHARED_TABLE, true, index, entry);
    }
  for (uint64_t i = 0; i < count; ++i)
    if (qed_set_add (&c->tables, first + i) == -1 ||
        mark (c, first + i) == -1)
      return -1;
  return 0;
}

/* ---- second round: entries of L2 tables ---- */

/* An entry whose CLUSTER has an owner already. */
static int
second_owner (struct checker *c, uint64_t cluster, uint64_t index,
              uint64_t *entry)
{
  const bool in_table = qed_set_has (&c->tables, cluster);

  if (c->shared)
    return in_table || !c->in_tables ?
      c->shared (c->opaque, index, entry) : 0;
  return damaged (c, in_table ? QED_DAMAGE_IN_TABLE : QED_DAMAGE_SHARED_DATA,
                  false, index, entry);
}

/* Statistics about a sound entry. */
static void
count_allocated (struct checker *c, uint64_t entry)
{
  c->result->allocated_clusters++;
  if (c->l1_index == c->w->l1_index && entry != c->expected)
    c->result->fragmented_clusters++;
  c->l1_index = c->w->l1_index;
  c->expected = entry + c->w->g.cluster_size;
}

/* Entry number INDEX is a zero cluster, or is sound. */
static void
count_covered (struct checker *c, uint64_t index)
{
  const struct qed_geometry *g = &c->w->g;
  const uint64_t cluster = (c->w->l1_index << g->table_bits) + index;
  uint64_t left;

  if (cluster >= c->counted)
    return;
  left = c->opts->below - (cluster << g->cluster_bits);
  c->result->unallocated -= left < g->cluster_size ? left : g->cluster_size;
}

static int
look_at_l2_entry (void *opaque, uint64_t index, uint64_t *entry)
{
  struct checker *c = opaque;
  const struct qed_geometry *g = &c->w->g;
  const uint64_t cluster = *entry >> g->cluster_bits;

  if (*entry == QED_ENTRY_ZERO) {
    c->result->zero_clusters++;
    count_covered (c, index);
    return 0;
  }
  if (!qed_entry_sound (g, *entry, g->cluster_size, c->w->file_end,
                        c->w->table))
    return damaged (c, QED_DAMAGE_UNSOUND, false, index, entry);
  count_allocated (c, *entry);
  count_covered (c, index);
  return qed_set_has (&c->marks, cluster) ?
    second_owner (c, cluster, index, entry) : mark (c, cluster);
}

/* The fast path, for nearly all entries: those up to the first one that isn't
 * sound, isn't in the flat part of the set, or has an owner already.  Not those
 * next to the last cluster that is counted.
 */
static uint64_t
take_sound_entries (void *opaque, uint64_t index, const uint64_t *piece,
                    uint64_t n)
{
  struct checker *c = opaque;
  const struct qed_geometry g = c->w->g;
  const uint64_t file_end = c->w->file_end, table = c->w->table;
  const uint64_t clusters = c->marks.flat_clusters;
  uint8_t *const marks = c->marks.flat;
  const uint64_t first = (c->w->l1_index << g.table_bits) + index;
  uint64_t allocated = 0, fragmented = 0, zeros = 0, last = 0, i;
  uint64_t expected = c->l1_index == c->w->l1_index ? c->expected : 0;

  if (first < c->counted && c->counted - first <= n)
    return 0;
  for (i = 0; i < n; ++i) {
    const uint64_t entry = le64toh (piece[i]);
    const uint64_t cluster = entry >> g.cluster_bits;

    if (entry == QED_ENTRY_UNALLOCATED || entry == QED_ENTRY_ZERO) {
      zeros += entry; /* which is 0 or 1 */
      continue;
    }
    if (!qed_entry_sound (&g, entry, g.cluster_size, file_end, table) ||
        cluster >= clusters || qed_bit (marks, cluster))
      break;
    qed_set_bit (marks, cluster);
    allocated++;
    fragmented += expected != 0 && entry != expected;
    expected = entry + g.cluster_size;
    if (entry > last)
      last = entry;
  }
  c->result->zero_clusters += zeros;
  if (first < c->counted)
    c->result->unallocated -= (allocated + zeros) << g.cluster_bits;
  if (allocated > 0) {
    c->used += allocated;
    c->result->allocated_clusters += allocated;
    c->result->fragmented_clusters += fragmented;
    if (last + g.cluster_size > c->result->end)
      c->result->end = last + g.cluster_size;
    c->l1_index = c->w->l1_index;
    c->expected = expected;
  }
  return i;
}

static int
look_at_l2 (struct checker *c)
{
  int r;

  c->l1_index = UINT64_MAX;
  c->w->skip = c->skip;
  c->w->bulk = take_sound_entries;
  r = qed_walk_l2 (c->w, look_at_l2_entry, c);
  c->w->bulk = NULL;
  c->w->skip = NULL;
  return r;
}

/* ---- entries past the end ---- */

struct note {
  struct qed_walk *w;
  struct qed_past_end *past_end;
};

/* Where does what ENTRY points to end?  Would it be sound if the file were
 * longer?
 */
static void
note_past_end (const struct note *n, uint64_t entry, uint64_t length,
               uint64_t own_table)
{
  const uint64_t file_end = n->w->file_end;
  struct qed_past_end *p = n->past_end;

  if (!qed_entry_sound (&n->w->g, entry, length, INT64_MAX, own_table))
    return;
  if (entry <= file_end - length) {
    if (entry + length > p->end)
      p->end = entry + length;
    return;
  }
  p->count++;
  if (entry > file_end && entry - file_end > QED_NEAR_END) {
    if (entry < p->far)
      p->far = entry;
  }
  else if (entry + length > p->near_end)
    p->near_end = entry + length;
}

static int
note_l2_entry (void *opaque, uint64_t index __attribute__ ((unused)),
               uint64_t *entry)
{
  const struct note *n = opaque;

  if (*entry != QED_ENTRY_ZERO)
    note_past_end (n, *entry, n->w->g.cluster_size, n->w->table);
  return 0;
}

static int
note_l1_entry (void *opaque, uint64_t index __attribute__ ((unused)),
               uint64_t *entry)
{
  const struct note *n = opaque;

  note_past_end (n, *entry, n->w->g.table_bytes, 0);
  return 0;
}

int
qed_find_past_end (struct qed_storage *st, const struct qed_header *h,
                   uint64_t file_size, struct qed_past_end *past_end)
{
  struct qed_walk w;
  struct note n = { &w, past_end };
  int r;

  if (qed_walk_init (&w, st, h, file_size) == -1)
    return -1;
  *past_end = (struct qed_past_end) {
    .end = tables_end (&w.g), .near_end = w.file_end, .far = UINT64_MAX
  };
  r = qed_walk_l1 (&w, note_l1_entry, &n);
  if (r == 0)
    r = qed_walk_l2 (&w, note_l2_entry, &n);
  qed_walk_free (&w);
  return r;
}

/* ---- owners ---- */

struct owners {
  struct qed_walk *w;
  const struct qed_file_range *ranges;
  size_t n;
  qed_owner_fn *fn;
  void *opaque;
};

/* Does one of the ranges overlap with LENGTH bytes of the file at ENTRY? */
static bool
is_wanted (const struct owners *o, uint64_t entry, uint64_t length)
{
  size_t first = 0, end = o->n;

  /* The first range that doesn't end before it. */
  while (first < end) {
    size_t i = first + (end - first) / 2;

    if (o->ranges[i].offset + o->ranges[i].length <= entry)
      first = i + 1;
    else
      end = i;
  }
  return first < o->n && o->ranges[first].offset < entry + length;
}

static void
tell_owner (const struct owners *o, bool table, uint64_t index,
            uint64_t entry, uint64_t entry_length)
{
  uint64_t offset, length;

  if (!is_wanted (o, entry, entry_length))
    return;
  guest_range (o->w, table, index, &offset, &length);
  o->fn (o->opaque, entry, entry_length, table, offset, length);
}

static int
look_for_l1_owner (void *opaque, uint64_t index, uint64_t *entry)
{
  const struct owners *o = opaque;
  const struct qed_geometry *g = &o->w->g;

  if (qed_entry_sound (g, *entry, g->table_bytes, o->w->file_end, 0))
    tell_owner (o, true, index, *entry, g->table_bytes);
  return 0;
}

static int
look_for_l2_owner (void *opaque, uint64_t index, uint64_t *entry)
{
  const struct owners *o = opaque;
  const struct qed_geometry *g = &o->w->g;

  if (*entry != QED_ENTRY_ZERO &&
      qed_entry_sound (g, *entry, g->cluster_size, o->w->file_end,
                       o->w->table))
    tell_owner (o, false, index, *entry, g->cluster_size);
  return 0;
}

int
qed_find_owners (struct qed_storage *st, const struct qed_file_range *ranges,
                 size_t n, qed_owner_fn *fn, void *opaque)
{
  struct qed_walk w = { .st = NULL };
  struct owners o = {
    .w = &w, .ranges = ranges, .n = n, .fn = fn, .opaque = opaque,
  };
  struct qed_header h;
  int64_t size;
  int r = -1;

  if (qed_read_header (st, &h, NULL) == -1 ||
      (size = qed_storage_size (st)) == -1)
    return -1;
  if (qed_walk_init (&w, st, &h, (uint64_t) size) == 0 &&
      qed_walk_l1 (&w, look_for_l1_owner, &o) == 0)
    r = qed_walk_l2 (&w, look_for_l2_owner, &o);
  qed_walk_free (&w);
  return r;
}

/* ---- what isn't allocated ---- */

struct unallocated {
  const struct qed_walk *w;
  uint64_t count;               /* of the disk that is looked at */
  uint64_t bytes;               /* of that */
};

static int
subtract_l2_entry (void *opaque, uint64_t index, uint64_t *entry)
{
  struct unallocated *u = opaque;
  const struct qed_geometry *g = &u->w->g;
  uint64_t cluster = (u->w->l1_index << g->table_bits) + index, left;

  if (*entry != QED_ENTRY_ZERO &&
      !qed_entry_sound (g, *entry, g->cluster_size, u->w->file_end,
                        u->w->table))
    return 0;
  if (u->count > 0 && cluster <= (u->count - 1) >> g->cluster_bits) {
    left = u->count - (cluster << g->cluster_bits);
    u->bytes -= left < g->cluster_size ? left : g->cluster_size;
  }
  return 0;
}

int
qed_bytes_unallocated (struct qed_storage *st, uint64_t count, uint64_t *bytes)
{
  struct unallocated u = { .count = count, .bytes = count };
  struct qed_header h;
  struct qed_walk w;
  int64_t size = qed_storage_size (st);
  int r;

  if (size == -1 || qed_read_header (st, &h, NULL) == -1 ||
      qed_walk_init (&w, st, &h, (uint64_t) size) == -1)
    return -1;
  u.w = &w;
  r = qed_walk_l2 (&w, subtract_l2_entry, &u);
  qed_walk_free (&w);
  *bytes = u.bytes;
  return r;
}

/* ---- calls ---- */

/* The first round; C has the walk, the rest of it may be zeros.  Afterwards,
 * also if it failed, end_rounds has to be called.
 */
static int
look_at_l1 (struct checker *c)
{
  const struct qed_geometry *g = &c->w->g;
  const uint64_t clusters = c->w->file_end >> g->cluster_bits;

  c->result->end = tables_end (g);
  c->skip = qed_bitmap_new (UINT64_C (1) << g->table_bits, c->w->st->name);
  if (c->skip == NULL ||
      qed_set_init (&c->marks, clusters, c->w->st->name) == -1 ||
      qed_set_init (&c->tables, clusters, c->w->st->name) == -1)
    return -1;
  return qed_walk_l1 (c->w, look_at_l1_entry, c);
}

static void
end_rounds (struct checker *c)
{
  qed_set_destroy (&c->tables);
  qed_set_destroy (&c->marks);
  qed_bitmap_free (c->skip, UINT64_C (1) << c->w->g.table_bits);
}

/* Both rounds. */
static int
look_at_all (struct checker *c)
{
  int r = look_at_l1 (c) == -1 ? -1 : look_at_l2 (c);

  end_rounds (c);
  return r;
}

int
qed_find_shared (struct qed_walk *w, bool in_tables, qed_entry_fn *fn,
                 void *opaque)
{
  struct qed_check_result result = { .end = 0 };
  struct checker c = {
    .w = w, .result = &result, .shared = fn, .in_tables = in_tables,
    .opaque = opaque,
  };

  return look_at_all (&c);
}

int
qed_find_shared_tables (struct qed_walk *w, uint8_t **skip)
{
  struct qed_check_result result = { .end = 0 };
  struct checker c = { .w = w, .result = &result };
  int r = look_at_l1 (&c);

  if (r == 0) {
    *skip = c.skip;
    c.skip = NULL;
    r = result.damages[QED_DAMAGE_SHARED_TABLE] > 0;
  }
  end_rounds (&c);
  return r;
}

int
qed_check_tables (struct qed_storage *st, const struct qed_header *h,
                  uint64_t file_size, const struct qed_check_options *opts,
                  unsigned clear, struct qed_check_result *result)
{
  struct qed_walk w;
  struct checker c = {
    .w = &w, .opts = opts, .clear = clear, .result = result,
  };
  int r;

  *result = (struct qed_check_result) {
    .file_size = file_size,
    .need_check = h->features & QED_F_NEED_CHECK,
  };
  if (qed_walk_init (&w, st, h, file_size) == -1)
    return -1;
  w.progress = opts ? opts->progress : NULL;
  result->total_clusters = qed_clusters (&w.g);
  if (opts) {
    result->unallocated = opts->below;
    c.counted = (opts->below + w.g.cluster_size - 1) >> w.g.cluster_bits;
  }
  r = look_at_all (&c);
  if (r == 0) {
    /* A device may be larger than what it holds. */
    uint64_t end = st->fixed_size ? result->end : w.file_end;

    result->leaks = ((end - w.g.header_bytes - w.g.table_bytes)
                     >> w.g.cluster_bits) - c.used;
  }
  qed_walk_free (&w);
  if (r == 0 && result->corruptions > 0 && opts && opts->told)
    r = opts->told (opts->opaque);
  return r;
}

int
qed_check (struct qed_storage *st, const struct qed_check_options *opts,
           struct qed_check_result *result)
{
  struct qed_header h;
  int64_t size;

  if (qed_read_header (st, &h, NULL) == -1)
    return -1;
  size = qed_storage_size (st);
  if (size == -1)
    return -1;
  return qed_check_tables (st, &h, (uint64_t) size, opts, 0, result);
}
