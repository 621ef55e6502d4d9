/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Reclaiming leaked clusters: tables and data beyond the length that the file
 * will have move into the free clusters before it, and the file is cut.
 *
 * Tables need contiguous clusters, so they move first:
 *
 *  1. into a run of free clusters that is long enough;
 *  2. else data moves out of the way, to other free clusters;
 *  3. else only tables are in the way: all tables leave the part of the file
 *     that stays, and come back to places in line, a multiple of their size
 *     apart.
 *
 * The last two may need more space at the end of the file for a while.
 *
 * Storage of a fixed size isn't cut.  There the end of what is in use is drawn
 * back, and counts as the end of the file here.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>

#include "error.h"
#include "header.h"
#include "repair.h"
#include "storage.h"

/* ---- the part of the file that stays ---- */

static uint64_t
table_clusters (const struct repair *r)
{
  return r->w.g.table_bytes >> r->w.g.cluster_bits;
}

/* Mark the part of BYTES at OFFSET that stays as used or as free. */
static void
mark (struct repair *r, uint64_t offset, uint64_t bytes, bool used)
{
  uint64_t i = offset >> r->w.g.cluster_bits;
  uint64_t end = i + (bytes >> r->w.g.cluster_bits);

  for (; i < end && i < r->end; ++i)
    if (used)
      qed_set_bit (r->used, i);
    else
      r->used[i / 8] &= (uint8_t) ~(1U << i % 8);
}

static int
mark_l1_entry (void *opaque, uint64_t index __attribute__ ((unused)),
               uint64_t *entry)
{
  struct repair *r = opaque;

  mark (r, *entry, r->w.g.table_bytes, true);
  return 0;
}

static int
mark_l2_entry (void *opaque, uint64_t index __attribute__ ((unused)),
               uint64_t *entry)
{
  struct repair *r = opaque;

  if (*entry != QED_ENTRY_ZERO)
    mark (r, *entry, r->w.g.cluster_size, true);
  return 0;
}

/* Mark the header and all tables as used. */
static int
mark_tables (struct repair *r)
{
  mark (r, 0, r->w.g.header_bytes, true);
  mark (r, r->w.g.l1_offset, r->w.g.table_bytes, true);
  return qed_walk_l1 (&r->w, mark_l1_entry, r);
}

/* Find the first free cluster from *I on. */
static bool
next_free (const struct repair *r, uint64_t *i)
{
  while (*i < r->end) {
    if (*i % 8 == 0 && r->used[*i / 8] == 0xff)
      *i += 8;
    else if (qed_bit (r->used, *i) || (r->wanted && qed_bit (r->wanted, *i)))
      ++*i;
    else
      return true;
  }
  return false;
}

/* Find room for a table from *I on, and set *I behind it. */
static bool
next_table_room (const struct repair *r, const uint8_t *used, uint64_t *i,
                 uint64_t *found)
{
  const uint64_t n = table_clusters (r);
  const uint64_t header = r->h.header_size;
  uint64_t at = *i < header ? header : *i, k = 0;

  if (r->aligned)
    at += (n - (at - header) % n) % n;
  while (k < n && at + n <= r->end)
    if (!qed_bit (used, at + k))
      ++k;
    else {
      at += r->aligned ? n : k + 1;
      k = 0;
    }
  *i = at + n;
  *found = at;
  return k == n;
}

/* The batch of moves is done: mark what is used now. */
static void
mark_moved (struct repair *r, uint64_t bytes)
{
  for (size_t i = 0; i < r->nr_moves; ++i) {
    mark (r, r->moves[i].from, bytes, false);
    mark (r, r->moves[i].to, bytes, true);
  }
}

/* ---- tables ---- */

static uint64_t
end_bytes (const struct repair *r)
{
  return r->end << r->w.g.cluster_bits;
}

/* Does the table at OFFSET reach beyond the future end of the file? */
static bool
is_high (const struct repair *r, uint64_t offset)
{
  return offset + r->w.g.table_bytes > end_bytes (r);
}

static int
collect_high_table (void *opaque, uint64_t index, uint64_t *entry)
{
  struct repair *r = opaque;

  return is_high (r, *entry) ?
    qed_add_move (r, qed_entry_place (&r->w, index), *entry) : 0;
}

static int
collect_table_in_the_way (void *opaque, uint64_t index, uint64_t *entry)
{
  struct repair *r = opaque;

  return *entry >= end_bytes (r) ? 0 :
    qed_add_move (r, qed_entry_place (&r->w, index), *entry);
}

static int
collect_wanted (void *opaque, uint64_t index, uint64_t *entry)
{
  struct repair *r = opaque;
  uint64_t cluster = *entry >> r->w.g.cluster_bits;

  return *entry != QED_ENTRY_ZERO && cluster < r->end &&
    qed_bit (r->wanted, cluster) ?
    qed_add_move (r, qed_entry_place (&r->w, index), *entry) : 0;
}

/* A sector is written whole or not at all, so after a crash the header names
 * the old place or the new one.
 */
static int
move_l1 (struct repair *r, uint64_t to)
{
  const uint64_t from = r->w.g.l1_offset;

  r->seen.end = 0;
  if (qed_repair_copy (r, from, to, r->w.g.table_bytes) == -1 ||
      qed_storage_sync (r->st) == -1)
    return -1;
  r->h.l1_table_offset = to;
  if (qed_write_header (r->st, &r->h) == -1 ||
      qed_storage_sync (r->st) == -1)
    return -1;
  r->w.g.l1_offset = to;
  mark (r, from, r->w.g.table_bytes, false);
  mark (r, to, r->w.g.table_bytes, true);
  return 0;
}

/* Move all tables that lie, if only in part, in what stays to the end of the
 * file.  They will come back in line.
 */
static int
move_tables_away (struct repair *r)
{
  const uint64_t bytes = r->w.g.table_bytes;
  uint64_t to;

  r->aligned = true;
  if (r->w.g.l1_offset < end_bytes (r) &&
      (qed_repair_extend (r, bytes, &to) == -1 || move_l1 (r, to) == -1))
    return -1;
  do {
    qed_begin_batch (r);
    if (qed_walk_l1 (&r->w, collect_table_in_the_way, r) == -1 ||
        (r->nr_moves > 0 && qed_move_to_end (r, bytes) == -1))
      return -1;
    mark_moved (r, bytes);
  } while (r->nr_moves > 0);
  return 0;
}

/* Choose clusters for up to COUNT tables where no table is now, and set
 * R->wanted.  Returns the number of tables that have clusters, or -1.
 */
static int64_t
choose_wanted (struct repair *r, uint64_t count)
{
  uint8_t *used = r->used;
  uint64_t i = 0, at;
  int64_t n = 0;
  int result;

  r->wanted = qed_bitmap_new (r->end, r->st->name);
  r->used = qed_bitmap_new (r->end, r->st->name);
  result = r->wanted && r->used ? mark_tables (r) : -1;
  while (result == 0 && (uint64_t) n < count &&
         next_table_room (r, r->used, &i, &at)) {
    for (uint64_t k = 0; k < table_clusters (r); ++k)
      qed_set_bit (r->wanted, at + k);
    n++;
  }
  qed_bitmap_free (r->used, r->end);
  r->used = used;
  return result == -1 ? -1 : n;
}

/* Move the data out of R->wanted: to other free clusters, or to the end. */
static int
vacate (struct repair *r)
{
  const uint64_t bytes = r->w.g.cluster_size;
  uint64_t free_cluster = 0, to;
  size_t i = 0;

  if (qed_walk_l2 (&r->w, collect_wanted, r) == -1)
    return -1;
  for (; i < r->nr_moves && next_free (r, &free_cluster); ++i)
    r->moves[i].to = free_cluster++ << r->w.g.cluster_bits;
  if (i < r->nr_moves) {
    if (qed_repair_extend (r, (r->nr_moves - i) * bytes, &to) == -1)
      return -1;
    for (; i < r->nr_moves; ++i, to += bytes)
      r->moves[i].to = to;
  }
  if (qed_do_moves (r, bytes) == -1)
    return -1;
  mark_moved (r, bytes);
  return 0;
}

/* There is room for none of COUNT tables: make some. */
static int
make_room (struct repair *r, uint64_t count)
{
  int64_t n;
  int result;

  qed_begin_batch (r);
  if (count > QED_MAX_MOVES / table_clusters (r))
    count = QED_MAX_MOVES / table_clusters (r);
  n = choose_wanted (r, count);
  if (n > 0)
    result = vacate (r);
  else if (n == 0 && !r->aligned)
    result = move_tables_away (r);
  else
    result = n == -1 ? -1 :
      qed_error (EIO, "%s: no room for its tables was found in %" PRIu64
                 " clusters: the image has been changed meanwhile",
                 r->st->name, r->end);
  qed_bitmap_free (r->wanted, r->end);
  r->wanted = NULL;
  return result;
}

static int
move_l1_down (struct repair *r)
{
  while (is_high (r, r->w.g.l1_offset)) {
    uint64_t i = 0, at;

    if ((next_table_room (r, r->used, &i, &at) ?
         move_l1 (r, at << r->w.g.cluster_bits) : make_room (r, 1)) == -1)
      return -1;
  }
  return 0;
}

static int
move_tables_down (struct repair *r)
{
  const uint64_t bytes = r->w.g.table_bytes;
  size_t wanted, n;
  uint64_t i, at;

  do {
    if (move_l1_down (r) == -1)
      return -1;
    qed_begin_batch (r);
    if (qed_walk_l1 (&r->w, collect_high_table, r) == -1)
      return -1;
    qed_sort_moves (r);
    wanted = r->nr_moves;
    for (n = i = 0;
         n < wanted && next_table_room (r, r->used, &i, &at); ++n)
      r->moves[n].to = at << r->w.g.cluster_bits;
    r->nr_moves = n;
    if (n > 0) {
      if (qed_do_moves (r, bytes) == -1)
        return -1;
      mark_moved (r, bytes);
    }
    else if (wanted > 0 && make_room (r, wanted) == -1)
      return -1;
  } while (wanted > 0);
  return 0;
}

/* ---- data, and all of it ---- */

static int
collect_high_data (void *opaque, uint64_t index, uint64_t *entry)
{
  struct repair *r = opaque;

  return *entry >= end_bytes (r) ?
    qed_add_move (r, qed_entry_place (&r->w, index), *entry) : 0;
}

static int
move_data_down (struct repair *r)
{
  const uint64_t bytes = r->w.g.cluster_size;

  do {
    uint64_t free_cluster = 0;

    qed_begin_batch (r);
    if (qed_walk_l2 (&r->w, collect_high_data, r) == -1)
      return -1;
    qed_sort_moves (r);
    for (size_t i = 0; i < r->nr_moves; ++i) {
      if (!next_free (r, &free_cluster))
        return qed_error (EIO, "%s: no room for its data was found in %" PRIu64
                          " clusters: the image has been changed meanwhile",
                          r->st->name, r->end);
      r->moves[i].to = free_cluster++ << r->w.g.cluster_bits;
    }
    if (qed_do_moves (r, bytes) == -1)
      return -1;
    mark_moved (r, bytes);
  } while (r->wanted_moves > r->nr_moves);
  return 0;
}

static int
move_all_down (struct repair *r)
{
  int result;

  r->used = qed_bitmap_new (r->end, r->st->name);
  if (r->used == NULL)
    return -1;
  result = mark_tables (r);
  if (result == 0)
    result = qed_walk_l2 (&r->w, mark_l2_entry, r);
  if (result == 0)
    result = move_tables_down (r);
  if (result == 0)
    result = move_data_down (r);
  qed_bitmap_free (r->used, r->end);
  return result;
}

int
qed_reclaim_space (struct repair *r, uint64_t *freed)
{
  struct qed_check_result result;
  uint64_t in_use;

  if (qed_check_tables (r->st, &r->h, r->file_size, NULL, 0, &result) == -1)
    return -1;
  if (result.corruptions > 0)
    return qed_error (EIO, "%s: leaked clusters aren't taken back while "
                      "%" PRIu64 " entries are corrupt: run qed-img check "
                      "-r all", r->st->name, result.corruptions);
  in_use = r->st->fixed_size ? result.end : r->w.file_end;
  r->in_use = result.end;
  r->end = (in_use >> r->w.g.cluster_bits) - result.leaks;
  r->fresh = UINT64_MAX;
  if (result.end > end_bytes (r) && move_all_down (r) == -1)
    return -1;
  *freed = result.leaks;
  if (r->st->fixed_size || r->file_size == end_bytes (r))
    return 0;
  return qed_repair_resize (r, end_bytes (r));
}

/* ---- the call ---- */

int
qed_reclaim (struct qed_storage *st, struct qed_header *h,
             uint64_t *file_size, const struct qed_progress *progress,
             uint64_t *freed)
{
  struct repair r;
  uint64_t ignored;
  int result;

  if (qed_repair_init (&r, st, h, *file_size, progress) == -1)
    return -1;
  r.h.features |= QED_F_NEED_CHECK;
  qed_repair_stage (&r, 1000);
  result = qed_reclaim_space (&r, freed ? freed : &ignored);
  if (result == 0)
    qed_repair_report (&r, 1, 1);
  h->l1_table_offset = r.h.l1_table_offset;
  *file_size = r.file_size;
  qed_repair_free (&r);
  return result;
}
