/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Moves of tables and clusters in the file of an image that is repaired.
 *
 * A move is a copy, a sync, the write of the entry that points to it, and a
 * sync.  Nothing overwrites the old place before that.  So a crash leaves each
 * entry with the old place or the new one, both good, and more or fewer leaks.
 * Many moves share the syncs: a batch.
 *
 * The file doesn't say which entry points to a cluster, and memory is bounded.
 * So each batch walks all tables and collects the entries that point to what
 * has to move.  A batch has a million moves, each of which costs more than its
 * share of that walk.  The work is therefore in proportion to the tables
 * (walk.c), even for a hostile image.
 */

#include <config.h>

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "repair.h"
#include "storage.h"

/* A batch becomes durable in parts of so many bytes that weren't holes, so
 * that an interruption loses no more than one part.
 */
#define SYNC_BYTES (UINT64_C (4) << 30)

/* The unit of copying.  So many zeros become a hole. */
#define CHUNK (UINT64_C (64) << 10)

/* ---- begin and end ---- */

int
qed_repair_init (struct repair *r, struct qed_storage *st,
                 const struct qed_header *h, uint64_t file_size,
                 const struct qed_progress *progress)
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

void
qed_repair_free (struct repair *r)
{
  qed_walk_free (&r->w);
  free (r->chunk);
  free (r->moves);
}

/* ---- progress ---- */

void
qed_repair_report (void *opaque, uint64_t done, uint64_t total)
{
  struct repair *r = opaque;
  uint64_t now = r->first;

  if (total > 0)
    now += done * (r->last - r->first) / total;
  /* A stage may have many batches, each of which reports from 0. */
  if (now > r->reported)
    r->reported = now;
  if (r->progress)
    r->progress->fn (r->progress->opaque, r->reported, 1000);
}

void
qed_repair_stage (struct repair *r, uint64_t last)
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

/* How many of LENGTH bytes at OFFSET are all in a hole, or all not?  *HOLE:
 * which of the two.
 */
static uint64_t
find_hole (struct repair *r, uint64_t offset, uint64_t length, bool *hole)
{
  struct qed_stretch_seen seen = { .end = 0 };

  return qed_bytes_alike (r->st, &seen, offset, length, hole);
}

/* Make LENGTH bytes at OFFSET read as zeros. */
static int
make_zero (struct repair *r, uint64_t offset, uint64_t length)
{
  bool hole;

  if (offset >= r->fresh)
    return 0;
  /* Punching where there is a hole already takes longer than asking. */
  if (find_hole (r, offset, length, &hole) == length && hole)
    return 0;
  return qed_storage_clear (r->st, offset, length);
}

/* R->chunk has N bytes of a table: clear the unsound entries. */
static void
clear_chunk (struct repair *r, size_t n)
{
  for (size_t i = 0; i < n; i += sizeof (uint64_t)) {
    uint64_t entry;

    memcpy (&entry, r->chunk + i, sizeof entry);
    if (!qed_repair_sound (r, le64toh (entry), r->copied_table))
      memset (r->chunk + i, 0, sizeof entry);
  }
}

int
qed_repair_copy (struct repair *r, uint64_t from, uint64_t to, uint64_t length)
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

void
qed_begin_batch (struct repair *r)
{
  r->nr_moves = r->wanted_moves = 0;
}

int
qed_add_move (struct repair *r, uint64_t place, uint64_t from)
{
  r->wanted_moves++;
  if (r->nr_moves == QED_MAX_MOVES)
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

void
qed_sort_moves (struct repair *r)
{
  if (r->nr_moves > 0)
    qsort (r->moves, r->nr_moves, sizeof *r->moves, compare_moves);
}

/* Copy for the moves from number I on, durably, until BYTES_AT_ONCE have been
 * read.  Returns the number of the first move that is left, or -1.
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
    if (qed_repair_copy (r, m->from, m->to, n * bytes) == -1)
      return -1;
    qed_repair_report (r, i + n, r->nr_moves);
  }
  return qed_storage_sync (r->st) == -1 ? -1 : (ssize_t) i;
}

/* Make the entries of the moves FIRST .. END - 1 point to the copies, which
 * are durable.  One write covers entries that are next to each other.
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

int
qed_do_moves (struct repair *r, uint64_t bytes)
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

int
qed_repair_resize (struct repair *r, uint64_t size)
{
  if (qed_storage_resize (r->st, size) == -1)
    return -1;
  r->file_size = size;
  r->w.file_end = size & ~(r->w.g.cluster_size - 1);
  return 0;
}

/* The same on storage of a fixed size, from R->in_use on.  What is there isn't
 * zeros.
 */
static int
take_behind (struct repair *r, uint64_t bytes, uint64_t *offset)
{
  if (bytes > qed_repair_room (r))
    return qed_error (ENOSPC, "%s: the repair needs space for copies of %"
                      PRIu64 " bytes: behind what is in use there are %" PRIu64
                      ", and the storage has a fixed size: repair a copy of "
                      "it in a file, or in a larger device", r->st->name,
                      bytes, qed_repair_room (r));
  *offset = r->in_use;
  r->in_use += bytes;
  return 0;
}

int
qed_repair_extend (struct repair *r, uint64_t bytes, uint64_t *offset)
{
  if (r->st->fixed_size)
    return take_behind (r, bytes, offset);
  r->fresh = r->w.file_end;
  *offset = r->fresh < r->gap_end ? r->gap_end : r->fresh;
  if (*offset > r->limit || bytes > r->limit - *offset)
    return qed_error (EFBIG, "%s: the file can't be extended by %" PRIu64
                      " bytes at %" PRIu64 ": the limit is %" PRIu64 ", where "
                      "files end or an entry points to that can't be cleared "
                      "yet", r->st->name, bytes, *offset, r->limit);
  /* The part of a cluster at the end of the file may not be zeros. */
  if (r->file_size != r->fresh && qed_repair_resize (r, r->fresh) == -1)
    return -1;
  return qed_repair_resize (r, *offset + bytes);
}

/* Give the space at TO back when the copy to it has failed, for instance
 * because the filesystem is full.  Preserves errno and the message.
 */
static void
undo_extend (struct repair *r, uint64_t to)
{
  int err = errno;

  if (r->st->fixed_size)
    r->in_use = to;
  else if (r->st->ops->resize (r->st, r->fresh) == 0)
    r->file_size = r->w.file_end = r->fresh;
  errno = err;
}

int
qed_move_to_end (struct repair *r, uint64_t bytes)
{
  uint64_t to;

  if (qed_repair_extend (r, r->nr_moves * bytes, &to) == -1)
    return -1;
  for (size_t i = 0; i < r->nr_moves; ++i)
    r->moves[i].to = to + i * bytes;
  if (copy_some (r, 0, bytes, UINT64_MAX) == -1) {
    undo_extend (r, to);
    return -1;
  }
  return link_some (r, 0, r->nr_moves);
}
