/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */


/* Repair: of corruption, and of leaks.
 *
 * Whatever is done is done in an order in which it can be interrupted at any
 * moment.  NEED_CHECK is durable before anything else is changed and
 * cleared, durably, at the end, if all is well (I6).  In between:
 *
 *     clear     entries that may not be followed become 0; durable before the
 *               file grows, or they might point to something then (I9)
 *     unshare   L2 tables that overlap with earlier ones are copied to the end
 *               of the file, then data clusters in tables, then those that
 *               another entry has already
 *     reclaim   what is behind the length that the file will have is moved
 *               into the holes before it; the file is cut
 *
 * A move is a copy, a sync, the write of the entry that points to it, and
 * a sync; nothing is written to where it was before that.  Many moves share
 * the syncs (batches).  So a crash leaves each entry with the old or the new
 * place, both good, and more or fewer leaks.
 *
 * Which of two owners is right can't be told, and a table may be one by
 * mistake: then it is in truth a range's data, which must not be changed
 * before that range has its copy.  So at first only tables are cleared that
 * nothing else refers to, the copy of a table is cleared instead of the
 * table, and other tables are when all is unshared.  For that time the file
 * is extended only behind what unsound entries point to, and leaves a gap
 * there (space.c): an interruption may turn a range that couldn't be read
 * into one of zeros.
 *
 * Where the owner of a cluster is noted isn't known from the cluster, and
 * memory is bounded, so for each batch all tables are read, and the entries
 * that point to what has to move are collected.  A batch has a million moves,
 * each of which costs more than its share of the reading: so the work is in
 * proportion to the tables (walk.c), whatever a stranger's image is made of.
 *
 * Tables need contiguous clusters, so they are moved first: into holes large
 * enough; else data clusters make room for them; else, if what is in the way
 * is tables only, all of them leave the part of the file that stays, and come
 * back in line.  The last two take space at the end of the file for the time
 * being.
 */

#include <config.h>

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "error.h"
#include "format.h"
#include "image.h"
#include "storage.h"

/* What PLACE in the file, an entry, points to is moved. */
struct move {
  uint64_t place;
  uint64_t from, to;
};

/* The moves of a batch, at most: 24 MiB. */
#define MAX_MOVES (UINT64_C (1) << 20)

/* After so many bytes that weren't holes a batch is made durable in part, so
 * that an interruption loses no more.
 */
#define SYNC_BYTES (UINT64_C (4) << 30)

/* What is in tables is copied in the order in which nothing is lost at a crash
 * so many times, and then, if there is still something, at once.  Only an
 * image made for that has as many tables which are data of one another.
 */
#define MAX_ROUNDS 16

/* Bytes that are copied at once; zeros of that size become a hole. */
#define CHUNK (UINT64_C (64) << 10)

struct repair {
  struct qed_storage *st;
  struct qed_header h;          /* as the file has it */
  struct qed_walk w;
  uint64_t file_size;

  struct move *moves;           /* the batch */
  size_t nr_moves, allocated;
  uint64_t wanted_moves;        /* those in the batch and for later ones */
  uint64_t fresh;               /* from here on the file reads as zeros */
  uint64_t gap, gap_end;        /* while there are unsound entries: from the
                                   end of the file to what they point to */
  uint64_t limit;               /* how long the file may be */
  bool copying_tables;          /* without unsound entries, ... */
  uint64_t copied_table;        /* ... of which this is where it was */
  uint8_t *shared;              /* bitmap of clusters that are a range's data;
                                   tables may be among them; or NULL */
  uint64_t nr_shared;           /* its bits */
  uint8_t *chunk;
  uint64_t copied;              /* bytes, since the last sync */
  struct qed_stretch_seen seen; /* of what is copied, which nothing changes */

  /* Of reclaiming: */
  uint64_t end;                 /* clusters that the file will have */
  uint8_t *used;                /* bitmap of those */
  uint8_t *wanted;              /* those to be vacated; or NULL */
  bool aligned;                 /* tables only in line: see above */

  const struct qed_progress *progress;
  uint64_t first, last;         /* per mille of all, of the present stage */
  uint64_t reported;
};

/* ---- progress ---- */

static void
report (void *opaque, uint64_t done, uint64_t total)
{
  struct repair *r = opaque;
  uint64_t now = r->first;

  if (total > 0)
    now += done * (r->last - r->first) / total;
  /* A stage may have many batches. */
  if (now > r->reported)
    r->reported = now;
  if (r->progress)
    r->progress->fn (r->progress->opaque, r->reported, 1000);
}

static void
begin_stage (struct repair *r, uint64_t last)
{
  r->first = r->last;
  r->last = last;
}

/* ---- copying ---- */

static bool
is_zero (const uint8_t *buf, size_t n)
{
  return buf[0] == 0 && memcmp (buf, buf + 1, n - 1) == 0;
}

/* How many of LENGTH bytes at OFFSET are alike, a hole or not? */
static uint64_t
find_hole (struct repair *r, uint64_t offset, uint64_t length, bool *hole)
{
  struct qed_stretch_seen seen = { .end = 0 };

  return qed_bytes_alike (r->st, &seen, offset, length, hole);
}

/* Let LENGTH bytes at OFFSET, whatever they are, be zeros. */
static int
make_zero (struct repair *r, uint64_t offset, uint64_t length)
{
  bool hole;

  if (offset >= r->fresh)
    return 0;
  /* Punching where there is a hole already takes longer than asking. */
  if (find_hole (r, offset, length, &hole) == length && hole)
    return 0;
  if (qed_storage_punch (r->st, offset, length) == 0)
    return 0;
  if (errno != EOPNOTSUPP)
    return -1;
  memset (r->chunk, 0, CHUNK);
  while (length > 0) {
    size_t n = length < CHUNK ? length : CHUNK;

    if (qed_storage_write (r->st, r->chunk, n, offset) == -1)
      return -1;
    offset += n;
    length -= n;
  }
  return 0;
}

/* May an L2 entry in the table at TABLE be followed? */
static bool
is_sound (const struct repair *r, uint64_t entry, uint64_t table)
{
  const struct qed_geometry *g = &r->w.g;

  return entry == QED_ENTRY_UNALLOCATED || entry == QED_ENTRY_ZERO ||
    (qed_entry_sound (g, entry, g->cluster_size, r->w.file_end, table) &&
     (entry < r->gap || entry >= r->gap_end));
}

/* Clear unsound entries of a part of a table in R->chunk. */
static void
clear_chunk (struct repair *r, size_t n)
{
  for (size_t i = 0; i < n; i += sizeof (uint64_t)) {
    uint64_t entry;

    memcpy (&entry, r->chunk + i, sizeof entry);
    if (!is_sound (r, le64toh (entry), r->copied_table))
      memset (r->chunk + i, 0, sizeof entry);
  }
}

static int
copy (struct repair *r, uint64_t from, uint64_t to, uint64_t length)
{
  while (length > 0) {
    bool hole;
    uint64_t left = qed_bytes_alike (r->st, &r->seen, from, length, &hole);

    length -= left;
    if (hole) {
      if (make_zero (r, to, left) == -1)
        return -1;
      from += left;
      to += left;
      continue;
    }
    while (left > 0) {
      size_t n = left < CHUNK ? left : CHUNK;

      if (qed_storage_read (r->st, r->chunk, n, from) == -1)
        return -1;
      r->copied += n;
      if (r->copying_tables)
        clear_chunk (r, n);
      if ((is_zero (r->chunk, n) ? make_zero (r, to, n) :
           qed_storage_write (r->st, r->chunk, n, to)) == -1)
        return -1;
      from += n;
      to += n;
      left -= n;
    }
  }
  return 0;
}

/* ---- moves ---- */

static void
begin_batch (struct repair *r)
{
  r->nr_moves = r->wanted_moves = 0;
}

/* Add the move of what PLACE points to.  What there isn't room for in the
 * batch is for the next one.
 */
static int
add_move (struct repair *r, uint64_t place, uint64_t from)
{
  r->wanted_moves++;
  if (r->nr_moves == MAX_MOVES)
    return 0;
  if (r->nr_moves == r->allocated) {
    size_t n = r->allocated ? 2 * r->allocated : 1024;
    struct move *moves = realloc (r->moves, n * sizeof *moves);

    if (moves == NULL)
      return qed_error (errno, "%s: %m", r->st->name);
    r->moves = moves;
    r->allocated = n;
  }
  r->moves[r->nr_moves++] = (struct move) { place, from, 0 };
  return 0;
}

static int
compare_moves (const void *a, const void *b)
{
  const struct move *m = a, *n = b;

  return m->from < n->from ? -1 : m->from > n->from;
}

/* So that reading goes in one direction.  Called before TO is set. */
static void
sort_moves (struct repair *r)
{
  if (r->nr_moves > 0)
    qsort (r->moves, r->nr_moves, sizeof *r->moves, compare_moves);
}

/* Copy what the moves from number I on want, durably, until BYTES_AT_ONCE were
 * read.  Returns the number of the first one that wasn't done, or -1.
 */
static ssize_t
copy_some (struct repair *r, size_t i, uint64_t bytes, uint64_t bytes_at_once)
{
  r->copied = 0;
  r->seen.end = 0;
  for (size_t n; i < r->nr_moves && r->copied < bytes_at_once; i += n) {
    const struct move *m = r->moves + i;

    n = 1;
    r->copied_table = m->from;
    while (i + n < r->nr_moves && !r->copying_tables &&
           n * bytes < bytes_at_once &&
           m[n].from == m->from + n * bytes && m[n].to == m->to + n * bytes)
      n++;
    if (copy (r, m->from, m->to, n * bytes) == -1)
      return -1;
    report (r, i + n, r->nr_moves);
  }
  return qed_storage_sync (r->st) == -1 ? -1 : (ssize_t) i;
}

/* Let the entries of the moves FIRST .. END - 1 point to the copies, which are
 * durable.  Entries that stand side by side are written at once.
 */
static int
link_some (struct repair *r, size_t first, size_t end)
{
  uint64_t entries[512];
  const size_t max = sizeof entries / sizeof entries[0];

  for (size_t i = first, n; i < end; i += n) {
    const struct move *m = r->moves + i;

    for (n = 0; n < max && i + n < end &&
           m[n].place == m->place + n * sizeof entries[0]; ++n)
      entries[n] = htole64 (m[n].to);
    if (qed_storage_write (r->st, entries, n * sizeof entries[0],
                           m->place) == -1)
      return -1;
  }
  return qed_storage_sync (r->st);
}

/* Do the batch, no move of which is about what another one changes.  All before
 * it is durable, and so is it afterwards.
 */
static int
do_moves (struct repair *r, uint64_t bytes)
{
  for (size_t i = 0; i < r->nr_moves; ) {
    ssize_t end = copy_some (r, i, bytes, SYNC_BYTES);

    if (end == -1 || link_some (r, i, (size_t) end) == -1)
      return -1;
    i = (size_t) end;
  }
  return 0;
}

/* ---- the file's length ---- */

static int
set_size (struct repair *r, uint64_t size)
{
  if (qed_storage_resize (r->st, size) == -1)
    return -1;
  r->file_size = size;
  r->w.file_end = size & ~(r->w.g.cluster_size - 1);
  return 0;
}

/* Add zeros to the end of the file; *OFFSET: where they are. */
static int
extend (struct repair *r, uint64_t bytes, uint64_t *offset)
{
  if (r->st->fixed_size)
    return qed_error (ENOSPC, "%s: is a block device, which can't be extended "
                      "by the %" PRIu64 " bytes that the repair needs: repair "
                      "a copy of it in a file", r->st->name, bytes);
  r->fresh = r->w.file_end;
  *offset = r->fresh < r->gap_end ? r->gap_end : r->fresh;
  if (*offset > r->limit || bytes > r->limit - *offset)
    return qed_error (EFBIG, "%s: the file can't be extended by %" PRIu64
                      " bytes at %" PRIu64 ": files end, or an entry that "
                      "can't be cleared yet points to, %" PRIu64, r->st->name,
                      bytes, *offset, r->limit);
  /* What follows the last cluster isn't zeros. */
  if (r->file_size != r->fresh && set_size (r, r->fresh) == -1)
    return -1;
  return set_size (r, *offset + bytes);
}

/* If that was in vain, because the filesystem is full for instance, let others
 * have the space.  errno and message stay.
 */
static void
undo_extend (struct repair *r)
{
  int err = errno;

  if (r->st->ops->resize (r->st, r->fresh) == 0)
    r->file_size = r->w.file_end = r->fresh;
  errno = err;
}

/* Copy what is to be moved to the end of the file: all of it before the first
 * entry changes, which may stand in what is copied.
 */
static int
move_to_end (struct repair *r, uint64_t bytes)
{
  uint64_t to;

  if (extend (r, r->nr_moves * bytes, &to) == -1)
    return -1;
  for (size_t i = 0; i < r->nr_moves; ++i)
    r->moves[i].to = to + i * bytes;
  if (copy_some (r, 0, bytes, UINT64_MAX) == -1) {
    undo_extend (r);
    return -1;
  }
  return link_some (r, 0, r->nr_moves);
}

/* ---- clearing ---- */

/* The clusters that R->shared is for, at most, for 32 MiB of memory: those
 * of a file of 1 TiB at least.  Others are taken for shared.
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
  const uint8_t *skip;          /* L1 entries to tables that overlap */
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

  if (is_sound (c->r, *entry, c->r->w.table) ||
      is_shared (c->r, qed_entry_place (&c->r->w, index)))
    return 0;
  *entry = QED_ENTRY_UNALLOCATED;
  c->count++;
  return 1;
}

/* In the L2 tables that don't overlap with earlier ones, durably. */
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

/* Where the next table overlaps with this one, the entry is also its own, and
 * may point into this one there.
 */
static int
note_data (void *opaque, uint64_t index, uint64_t *entry)
{
  struct repair *r = opaque;
  uint64_t table = qed_entry_place (&r->w, index) < r->w.next_table ?
    r->w.table : 0;

  if (*entry != QED_ENTRY_ZERO && is_sound (r, *entry, table))
    note_shared (r, *entry, r->w.g.cluster_size);
  return 0;
}

/* Clear what can be at once: unsound L1 entries, and those in tables that are
 * nobody's data and don't overlap.
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

/* Do the batch, if the copies in this and later ones won't fill the
 * filesystem: what a hostile image has in a few bytes may be terabytes when
 * it's unshared.
 */
static int
unshare_batch (struct repair *r, uint64_t bytes, uint64_t *fixed)
{
  int64_t room = r->st->ops->free_space ? r->st->ops->free_space (r->st) : -1;

  if (r->nr_moves == 0)
    return 0;
  if (room >= 0 && r->wanted_moves > (uint64_t) room / bytes)
    return qed_error (ENOSPC, "%s: %" PRIu64 " tables or clusters that belong "
                      "to two ranges need copies of %" PRIu64 " bytes each: "
                      "the filesystem has %" PRIi64 " bytes left", r->st->name,
                      r->wanted_moves, bytes, room);
  if (move_to_end (r, bytes) == -1)
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
    add_move (r, qed_entry_place (&r->w, index), *entry) : 0;
}

static int
unshare_tables (struct repair *r, uint64_t *fixed)
{
  const uint64_t bytes = r->w.g.table_bytes;

  r->copying_tables = true;
  do {
    struct shared_tables u = { .r = r };
    int result;

    begin_batch (r);
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

  return add_move (r, qed_entry_place (&r->w, index), *entry);
}

static int
unshare_data (struct repair *r, uint64_t *fixed)
{
  const uint64_t bytes = r->w.g.cluster_size;

  do {
    begin_batch (r);
    if (qed_find_shared (&r->w, false, collect_shared_data, r) == -1)
      return -1;
    sort_moves (r);
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

/* A batch of data in tables.  IN_ORDER: an entry that is in somebody's data
 * itself is changed only when that has its copy, unless they go in circles.
 */
static int
collect_from_tables (struct repair *r, bool in_order)
{
  int result = in_order ? -1 : 0;

  begin_batch (r);
  if (in_order && begin_shared (r) == 0 &&
      qed_find_shared (&r->w, true, note_data, r) == 0)
    result = qed_find_shared (&r->w, true, collect_data_in_table, r);
  end_shared (r);
  if (result == 0 && r->nr_moves == 0)
    result = qed_find_shared (&r->w, true, collect_data_in_table, r);
  sort_moves (r);
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

/* ---- reclaiming: the part of the file that stays ---- */

static uint64_t
table_clusters (const struct repair *r)
{
  return r->w.g.table_bytes >> r->w.g.cluster_bits;
}

/* Mark BYTES at OFFSET as used or not, as far as they stay. */
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

/* Mark all that is in use but data. */
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

/* Find room for a table from *I on, which is set behind it. */
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

/* The batch has been done: know what is free now. */
static void
mark_moved (struct repair *r, uint64_t bytes)
{
  for (size_t i = 0; i < r->nr_moves; ++i) {
    mark (r, r->moves[i].from, bytes, false);
    mark (r, r->moves[i].to, bytes, true);
  }
}

/* ---- reclaiming: tables ---- */

static uint64_t
end_bytes (const struct repair *r)
{
  return r->end << r->w.g.cluster_bits;
}

/* Will the table at OFFSET be where the file is no more? */
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
    add_move (r, qed_entry_place (&r->w, index), *entry) : 0;
}

static int
collect_table_in_the_way (void *opaque, uint64_t index, uint64_t *entry)
{
  struct repair *r = opaque;

  return *entry >= end_bytes (r) ? 0 :
    add_move (r, qed_entry_place (&r->w, index), *entry);
}

static int
collect_wanted (void *opaque, uint64_t index, uint64_t *entry)
{
  struct repair *r = opaque;
  uint64_t cluster = *entry >> r->w.g.cluster_bits;

  return *entry != QED_ENTRY_ZERO && cluster < r->end &&
    qed_bit (r->wanted, cluster) ?
    add_move (r, qed_entry_place (&r->w, index), *entry) : 0;
}

/* The header is one sector, so it names the old place or the new one. */
static int
move_l1 (struct repair *r, uint64_t to)
{
  const uint64_t from = r->w.g.l1_offset;

  r->seen.end = 0;
  if (copy (r, from, to, r->w.g.table_bytes) == -1 ||
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

/* Move all tables that are, if only in part, in what stays behind it.  They
 * will come back in line.
 */
static int
move_tables_away (struct repair *r)
{
  const uint64_t bytes = r->w.g.table_bytes;
  uint64_t to;

  r->aligned = true;
  if (r->w.g.l1_offset < end_bytes (r) &&
      (extend (r, bytes, &to) == -1 || move_l1 (r, to) == -1))
    return -1;
  do {
    begin_batch (r);
    if (qed_walk_l1 (&r->w, collect_table_in_the_way, r) == -1 ||
        (r->nr_moves > 0 && move_to_end (r, bytes) == -1))
      return -1;
    mark_moved (r, bytes);
  } while (r->nr_moves > 0);
  return 0;
}

/* Choose clusters for up to COUNT tables that have no table in them now, and
 * set R->wanted.  Returns for how many there are, or -1.
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

/* Move the data out of R->wanted: into other holes, or to the end. */
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
    if (extend (r, (r->nr_moves - i) * bytes, &to) == -1)
      return -1;
    for (; i < r->nr_moves; ++i, to += bytes)
      r->moves[i].to = to;
  }
  if (do_moves (r, bytes) == -1)
    return -1;
  mark_moved (r, bytes);
  return 0;
}

/* There is no room for any of COUNT tables: make some. */
static int
make_room (struct repair *r, uint64_t count)
{
  int64_t n;
  int result;

  begin_batch (r);
  if (count > MAX_MOVES / table_clusters (r))
    count = MAX_MOVES / table_clusters (r);
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
    begin_batch (r);
    if (qed_walk_l1 (&r->w, collect_high_table, r) == -1)
      return -1;
    sort_moves (r);
    wanted = r->nr_moves;
    for (n = i = 0;
         n < wanted && next_table_room (r, r->used, &i, &at); ++n)
      r->moves[n].to = at << r->w.g.cluster_bits;
    r->nr_moves = n;
    if (n > 0) {
      if (do_moves (r, bytes) == -1)
        return -1;
      mark_moved (r, bytes);
    }
    else if (wanted > 0 && make_room (r, wanted) == -1)
      return -1;
  } while (wanted > 0);
  return 0;
}

/* ---- reclaiming: data, and all of it ---- */

static int
collect_high_data (void *opaque, uint64_t index, uint64_t *entry)
{
  struct repair *r = opaque;

  return *entry >= end_bytes (r) ?
    add_move (r, qed_entry_place (&r->w, index), *entry) : 0;
}

static int
move_data_down (struct repair *r)
{
  const uint64_t bytes = r->w.g.cluster_size;

  do {
    uint64_t free_cluster = 0;

    begin_batch (r);
    if (qed_walk_l2 (&r->w, collect_high_data, r) == -1)
      return -1;
    sort_moves (r);
    for (size_t i = 0; i < r->nr_moves; ++i) {
      if (!next_free (r, &free_cluster))
        return qed_error (EIO, "%s: no room for its data was found in %" PRIu64
                          " clusters: the image has been changed meanwhile",
                          r->st->name, r->end);
      r->moves[i].to = free_cluster++ << r->w.g.cluster_bits;
    }
    if (do_moves (r, bytes) == -1)
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

/* R->h, file_size and the walk are set, and there is no corruption.  *FREED:
 * the clusters that were leaked.
 */
static int
reclaim (struct repair *r, uint64_t *freed)
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
  r->end = (in_use >> r->w.g.cluster_bits) - result.leaks;
  r->fresh = UINT64_MAX;
  if (result.end > end_bytes (r) && move_all_down (r) == -1)
    return -1;
  *freed = result.leaks;
  if (r->st->fixed_size || r->file_size == end_bytes (r))
    return 0;
  return set_size (r, end_bytes (r));
}

/* ---- calls ---- */

/* The image in ST, as in H. */
static int
init (struct repair *r, struct qed_storage *st, const struct qed_header *h,
      uint64_t file_size, const struct qed_progress *progress)
{
  *r = (struct repair) {
    .st = st, .h = *h, .file_size = file_size, .progress = progress,
    .fresh = UINT64_MAX, .limit = INT64_MAX,
  };
  r->chunk = malloc (CHUNK);
  if (r->chunk == NULL)
    return qed_error (errno, "%s: %m", st->name);
  if (qed_walk_init (&r->w, st, h, file_size) == -1) {
    free (r->chunk);
    return -1;
  }
  return 0;
}

static void
destroy (struct repair *r)
{
  qed_walk_free (&r->w);
  free (r->chunk);
  free (r->moves);
}

int
qed_reclaim (struct qed_storage *st, struct qed_header *h,
             uint64_t *file_size, const struct qed_progress *progress,
             uint64_t *freed)
{
  struct repair r;
  uint64_t ignored;
  int result;

  if (init (&r, st, h, *file_size, progress) == -1)
    return -1;
  r.h.features |= QED_F_NEED_CHECK;
  begin_stage (&r, 1000);
  result = reclaim (&r, freed ? freed : &ignored);
  if (result == 0)
    report (&r, 1, 1);
  h->l1_table_offset = r.h.l1_table_offset;
  *file_size = r.file_size;
  destroy (&r);
  return result;
}

/* Is there anything to do? */
static bool
is_needed (const struct repair *r, enum qed_repair what,
           const struct qed_check_result *found)
{
  if (found->corruptions > 0)
    return what == QED_REPAIR_ALL;
  return found->leaks > 0 || found->need_check ||
    (!r->st->fixed_size && found->file_size > found->end);
}

static int
fix_corruptions (struct repair *r, uint64_t *fixed)
{
  struct qed_past_end past;

  if (clear_first (r, fixed) == -1 ||
      qed_find_past_end (r->st, &r->h, r->file_size, &past) == -1)
    return -1;
  r->gap = r->w.file_end;
  r->gap_end = past.near_end;
  r->limit = past.far < INT64_MAX ? past.far : INT64_MAX;
  begin_stage (r, 500);
  if (unshare_tables (r, fixed) == -1 ||
      unshare_data_in_tables (r, fixed) == -1 ||
      clear_tables (r, NULL, fixed) == -1)
    return -1;
  r->gap = r->gap_end = 0;
  r->limit = INT64_MAX; /* of all files: lengths are signed */
  return unshare_data (r, fixed);
}

/* Write the header with NEED_CHECK set or not, durably. */
static int
write_need_check (struct repair *r, bool set)
{
  r->h.features = (r->h.features & ~QED_F_NEED_CHECK) |
    (set ? QED_F_NEED_CHECK : 0);
  r->h.autoclear_features = 0; /* none is known */
  return qed_write_header (r->st, &r->h) == -1 ? -1 :
    qed_storage_sync (r->st);
}

/* What was found is in RESULT->before. */
static int
do_repair (struct repair *r, struct qed_repair_result *result)
{
  const struct qed_progress progress = { report, r };
  const struct qed_check_options opts = { .progress = &progress };
  uint64_t freed = 0;

  if (write_need_check (r, true) == -1)
    return -1;
  if (result->before.corruptions > 0 &&
      fix_corruptions (r, &result->corruptions_fixed) == -1)
    return -1;
  begin_stage (r, 850);
  if (reclaim (r, &freed) == -1)
    return -1;
  result->leaks_fixed = freed;
  begin_stage (r, 1000);
  /* Makes what is durable that whoever crashed has left, too. */
  if (qed_storage_sync (r->st) == -1 ||
      qed_check_tables (r->st, &r->h, r->file_size, &opts, 0,
                        &result->after) == -1)
    return -1;
  if (result->after.corruptions > 0)
    return 0;
  result->after.need_check = false;
  return write_need_check (r, false);
}

static int
check_and_repair (struct repair *r, enum qed_repair what,
                  const struct qed_check_options *opts,
                  struct qed_repair_result *result)
{
  const struct qed_progress progress = { report, r };
  const struct qed_check_options first = {
    .progress = &progress,
    .damage = opts ? opts->damage : NULL, .told = opts ? opts->told : NULL,
    .opaque = opts ? opts->opaque : NULL,
  };

  begin_stage (r, 300);
  if (qed_check_tables (r->st, &r->h, r->file_size, &first, 0,
                        &result->before) == -1)
    return -1;
  result->after = result->before;
  if (is_needed (r, what, &result->before) && do_repair (r, result) == -1)
    return -1;
  r->first = r->last = 1000;
  report (r, 0, 0);
  return 0;
}

int
qed_repair (struct qed_storage *st, enum qed_repair what,
            const struct qed_check_options *opts,
            struct qed_repair_result *result)
{
  struct repair r;
  struct qed_header h;
  int64_t size;
  int res;

  *result = (struct qed_repair_result) { .leaks_fixed = 0 };
  if (st->ops->make_writable && st->ops->make_writable (st) == -1)
    return -1;
  /* After locking. */
  if (qed_read_header (st, &h, NULL) == -1)
    return -1;
  size = qed_storage_size (st);
  if (size == -1 ||
      init (&r, st, &h, (uint64_t) size, opts ? opts->progress : NULL) == -1)
    return -1;
  res = check_and_repair (&r, what, opts, result);
  destroy (&r);
  return res;
}
