/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Repairing corrupt entries.
 *
 *     clear     set entries that may not be followed to 0.  That is durable
 *               before the file grows: else such an entry might come to point
 *               into the file (I9).
 *     unshare   copy L2 tables that overlap with earlier ones to the end of
 *               the file, then data clusters that lie in tables, then those
 *               that another entry points to as well
 *
 * A check can't tell which of two owners is right.  What an L1 entry points to
 * as a table may in truth be a range's data, which must not change before that
 * range has its copy.  So at first only those tables are cleared that nothing
 * else refers to.  Of a table that overlaps with an earlier one the copy is
 * cleared instead.  All other tables are cleared once everything is unshared.
 *
 * Until then unsound entries stay in the file.  The file grows only beyond
 * what they point to, and has a gap there (space.c).  An interruption may turn
 * a range that couldn't be read into a range of zeros.
 *
 * Storage of a fixed size doesn't grow: copies go behind what sound entries
 * point to.  An entry that points past its end stays unsound.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>

#include "error.h"
#include "repair.h"
#include "storage.h"

/* So many batches copy data out of tables in the order that loses nothing at a
 * crash.  If there is still some, the next batch takes all of it.  Only an
 * image made for that purpose has so many tables that are data of one another.
 */
#define MAX_ROUNDS 16

/* ---- clearing ---- */

/* The bits of R->shared, at most: 32 MiB, enough for a file of 1 TiB.
 * Clusters beyond count as shared.
 */
#define MAX_SHARED (UINT64_C (1) << 28)

static int
begin_shared (struct repair *r)
{
  r->nr_shared = r->w.file_end >> r->w.g.cluster_bits;
  if (r->nr_shared > MAX_SHARED)
    r->nr_shared = MAX_SHARED;
  r->shared = qed_bitmap_new (r->nr_shared, r->st->name);
  return r->shared ? 0 : -1;
}

static void
end_shared (struct repair *r)
{
  qed_bitmap_free (r->shared, r->nr_shared);
  r->shared = NULL;
}

struct clear {
  struct repair *r;
  const uint8_t *skip;          /* bitmap: L1 entries to tables that overlap */
  uint64_t count;
};

static int
clear_l1_entry (void *opaque, uint64_t index __attribute__ ((unused)),
                uint64_t *entry)
{
  struct clear *c = opaque;
  const struct qed_walk *w = &c->r->w;

  if (qed_entry_sound (&w->g, *entry, w->g.table_bytes, w->file_end, 0))
    return 0;
  *entry = QED_ENTRY_UNALLOCATED;
  c->count++;
  return 1;
}

static bool
is_shared (const struct repair *r, uint64_t place)
{
  uint64_t cluster = place >> r->w.g.cluster_bits;

  return r->shared &&
    (cluster >= r->nr_shared || qed_bit (r->shared, cluster));
}

static int
clear_l2_entry (void *opaque, uint64_t index, uint64_t *entry)
{
  struct clear *c = opaque;

  if (qed_repair_sound (c->r, *entry, c->r->w.table) ||
      is_shared (c->r, qed_entry_place (&c->r->w, index)))
    return 0;
  *entry = QED_ENTRY_UNALLOCATED;
  c->count++;
  return 1;
}

/* Clear the unsound entries of all L2 tables but those in SKIP, durably, and
 * add their number to *FIXED.
 */
static int
clear_tables (struct repair *r, const uint8_t *skip, uint64_t *fixed)
{
  struct clear c = { .r = r };
  int result;

  r->w.skip = skip;
  result = qed_walk_l2 (&r->w, clear_l2_entry, &c);
  r->w.skip = NULL;
  if (result == -1)
    return -1;
  *fixed += c.count;
  return qed_storage_sync (r->st);
}

static void
note_shared (struct repair *r, uint64_t offset, uint64_t bytes)
{
  uint64_t i = offset >> r->w.g.cluster_bits;
  uint64_t end = (offset + bytes) >> r->w.g.cluster_bits;

  for (; i < end && i < r->nr_shared; ++i)
    qed_set_bit (r->shared, i);
}

static int
note_shared_table (void *opaque, uint64_t index, uint64_t *entry)
{
  const struct clear *c = opaque;

  if (qed_bit (c->skip, index))
    note_shared (c->r, *entry, c->r->w.g.table_bytes);
  return 0;
}

/* Where the next table overlaps with this one the entry belongs to both, and
 * as the next table's it may point into this one.
 */
static int
note_data (void *opaque, uint64_t index, uint64_t *entry)
{
  struct repair *r = opaque;
  uint64_t table = qed_entry_place (&r->w, index) < r->w.next_table ?
    r->w.table : 0;

  if (*entry != QED_ENTRY_ZERO && qed_repair_sound (r, *entry, table))
    note_shared (r, *entry, r->w.g.cluster_size);
  return 0;
}

/* Clear what can be cleared at once: unsound L1 entries, and the unsound
 * entries of tables that don't overlap and aren't data.
 */
static int
clear_first (struct repair *r, uint64_t *fixed)
{
  struct clear c = { .r = r };
  uint8_t *skip;
  int result = -1;

  if (qed_walk_l1 (&r->w, clear_l1_entry, &c) == -1 ||
      qed_find_shared_tables (&r->w, &skip) == -1)
    return -1;
  *fixed += c.count;
  c.skip = skip;
  if (begin_shared (r) == 0 &&
      qed_walk_l1 (&r->w, note_shared_table, &c) == 0 &&
      qed_walk_l2 (&r->w, note_data, r) == 0)
    result = clear_tables (r, skip, fixed);
  end_shared (r);
  qed_bitmap_free (skip, UINT64_C (1) << r->w.g.table_bits);
  return result;
}

/* ---- unsharing ---- */

/* Do the batch, unless the copies of this and later batches would fill the
 * filesystem: a hostile image of a few bytes may become terabytes when it is
 * unshared.
 */
static int
unshare_batch (struct repair *r, uint64_t bytes, uint64_t *fixed)
{
  int64_t room = -1;

  if (r->nr_moves == 0)
    return 0;
  if (r->st->fixed_size)
    room = (int64_t) qed_repair_room (r);
  else if (r->st->ops->free_space)
    room = r->st->ops->free_space (r->st);
  if (room >= 0 && r->wanted_moves > (uint64_t) room / bytes)
    return qed_error (ENOSPC, "%s: %" PRIu64 " tables or clusters that belong "
                      "to two ranges need copies of %" PRIu64 " bytes each: "
                      "%s %" PRIi64 " bytes%s", r->st->name, r->wanted_moves,
                      bytes, r->st->fixed_size ? "behind what is in use there "
                      "are" : "the filesystem has", room, r->st->fixed_size ?
                      ": repair a copy in a file, or in a larger device" :
                      " left");
  if (qed_move_to_end (r, bytes) == -1)
    return -1;
  *fixed += r->nr_moves;
  return 0;
}

struct shared_tables {
  struct repair *r;
  uint8_t *skip;
};

static int
collect_shared_table (void *opaque, uint64_t index, uint64_t *entry)
{
  const struct shared_tables *u = opaque;
  struct repair *r = u->r;

  return qed_bit (u->skip, index) ?
    qed_add_move (r, qed_entry_place (&r->w, index), *entry) : 0;
}

static int
unshare_tables (struct repair *r, uint64_t *fixed)
{
  const uint64_t bytes = r->w.g.table_bytes;

  r->copying_tables = true;
  do {
    struct shared_tables u = { .r = r };
    int result;

    qed_begin_batch (r);
    if (qed_find_shared_tables (&r->w, &u.skip) == -1)
      return -1;
    result = qed_walk_l1 (&r->w, collect_shared_table, &u);
    qed_bitmap_free (u.skip, UINT64_C (1) << r->w.g.table_bits);
    if (result == -1 || unshare_batch (r, bytes, fixed) == -1)
      return -1;
  } while (r->nr_moves > 0);
  r->copying_tables = false;
  return 0;
}

static int
collect_shared_data (void *opaque, uint64_t index, uint64_t *entry)
{
  struct repair *r = opaque;

  return qed_add_move (r, qed_entry_place (&r->w, index), *entry);
}

static int
unshare_data (struct repair *r, uint64_t *fixed)
{
  const uint64_t bytes = r->w.g.cluster_size;

  do {
    qed_begin_batch (r);
    if (qed_find_shared (&r->w, false, collect_shared_data, r) == -1)
      return -1;
    qed_sort_moves (r);
    if (unshare_batch (r, bytes, fixed) == -1)
      return -1;
  } while (r->nr_moves > 0);
  return 0;
}

static int
collect_data_in_table (void *opaque, uint64_t index, uint64_t *entry)
{
  struct repair *r = opaque;

  return is_shared (r, qed_entry_place (&r->w, index)) ? 0 :
    collect_shared_data (r, index, entry);
}

/* Collect a batch of data in tables.  IN_ORDER: an entry that itself lies in
 * data waits for a later batch, when that data has its copy.  If all of them
 * wait, because they form a circle, the batch takes all.
 */
static int
collect_from_tables (struct repair *r, bool in_order)
{
  int result = in_order ? -1 : 0;

  qed_begin_batch (r);
  if (in_order && begin_shared (r) == 0 &&
      qed_find_shared (&r->w, true, note_data, r) == 0)
    result = qed_find_shared (&r->w, true, collect_data_in_table, r);
  end_shared (r);
  if (result == 0 && r->nr_moves == 0)
    result = qed_find_shared (&r->w, true, collect_data_in_table, r);
  qed_sort_moves (r);
  return result;
}

static int
unshare_data_in_tables (struct repair *r, uint64_t *fixed)
{
  int rounds = 0;

  do
    if (collect_from_tables (r, rounds++ < MAX_ROUNDS) == -1 ||
        unshare_batch (r, r->w.g.cluster_size, fixed) == -1)
      return -1;
  while (r->nr_moves > 0);
  return 0;
}

/* ---- all of it ---- */

int
qed_fix_corruptions (struct repair *r, uint64_t *fixed)
{
  struct qed_past_end past;

  if (clear_first (r, fixed) == -1 ||
      qed_find_past_end (r->st, &r->h, r->file_size, &past) == -1)
    return -1;
  r->in_use = past.end;
  r->gap = r->w.file_end;
  r->gap_end = past.near_end;
  r->limit = past.far < INT64_MAX ? past.far : INT64_MAX;
  qed_repair_stage (r, 500);
  if (unshare_tables (r, fixed) == -1 ||
      unshare_data_in_tables (r, fixed) == -1 ||
      clear_tables (r, NULL, fixed) == -1)
    return -1;
  r->gap = r->gap_end = 0;
  r->limit = INT64_MAX; /* the limit of any file: lengths are signed */
  return unshare_data (r, fixed);
}
