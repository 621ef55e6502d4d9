/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Walks over all tables of an image.
 *
 * The cost of a walk depends on the bytes of tables that the file has on disk,
 * and on nothing that an entry says (I9):
 *
 *   * No byte of a table is read twice.  The L2 tables are collected from the
 *     L1 table first and sorted by their place in the file.  Where they
 *     overlap, a byte belongs to the first of them.
 *   * Holes aren't read.  The file is asked where they are, and the answer
 *     holds for all tables in the same stretch of data or hole.  Of small
 *     tables it is asked only after one that was all zeros, because a table
 *     in use rarely is.
 *   * Memory is a buffer and 24 bytes for each L2 table, of which there may be
 *     MAX_TABLES.
 *
 * Reading goes in one direction, and the kernel is told about the next few
 * tables, so that a disk always has something to do.
 *
 * An L2 table is followed only if the L1 entry is sound (I9).
 */

#include <config.h>

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "error.h"
#include "storage.h"
#include "walk.h"

/* Entries that are read at once, at most: 256 KiB, a table of the default
 * geometry.
 */
#define PIECE_ENTRIES (UINT64_C (1) << 15)

/* In a larger table, in bytes, looking for holes costs less than reading. */
#define LARGE_TABLE (UINT64_C (32) << 10)

/* Bytes of tables that the kernel reads ahead. */
#define AHEAD (UINT64_C (8) << 20)

/* The disk of 8 EiB with the most L2 tables has half as many. */
#define MAX_TABLES (UINT64_C (1) << 22)

/* Milliseconds between two calls of qed_interrupted. */
#define ASK_MS 50

bool (*qed_interrupted) (void);

/* ---- holes ---- */

uint64_t
qed_bytes_alike (struct qed_storage *st, struct qed_stretch_seen *seen,
                 uint64_t offset, uint64_t max, bool *hole)
{
  if (offset < seen->start || offset >= seen->end) {
    int64_t end = st->ops->next_extent (st, offset, &seen->hole);

    seen->start = offset;
    seen->end = (uint64_t) end;
    if (end == -1 || seen->end <= offset) { /* no holes are known */
      seen->end = UINT64_MAX;
      seen->hole = false;
    }
  }
  *hole = seen->hole;
  return seen->end - offset < max ? seen->end - offset : max;
}

/* Is it worth asking the file for holes? */
static bool
is_worth_asking (const struct qed_walk *w)
{
  return w->g.table_bytes > LARGE_TABLE || w->zeros;
}

/* The same in entries: one that is partly in a hole counts as data. */
static uint64_t
entries_alike (struct qed_walk *w, uint64_t offset, uint64_t max, bool *hole)
{
  uint64_t n;

  *hole = false;
  if (!is_worth_asking (w))
    return max;
  n = qed_bytes_alike (w->st, &w->seen, offset, max * sizeof (uint64_t),
                       hole) / sizeof (uint64_t);
  if (n > 0)
    return n;
  *hole = false;
  return 1;
}

/* ---- one table ---- */

static uint64_t
now_ms (void)
{
  struct timespec now;

  clock_gettime (CLOCK_MONOTONIC_COARSE, &now);
  return (uint64_t) now.tv_sec * 1000 + (uint64_t) now.tv_nsec / 1000000;
}

static int
ask_whether_to_end (struct qed_walk *w)
{
  uint64_t now;

  if (qed_interrupted == NULL || (now = now_ms ()) - w->asked_ms < ASK_MS)
    return 0;
  w->asked_ms = now;
  if (qed_interrupted ())
    return qed_error (ESHUTDOWN, "%s: reading its tables was interrupted: the "
                      "program is terminating", w->st->name);
  return 0;
}

static bool
is_zero (const uint64_t *entries, uint64_t n)
{
  return entries[0] == 0 &&
    memcmp (entries, entries + 1, (n - 1) * sizeof *entries) == 0;
}

/* Call FN for the N entries in the buffer, which are those from INDEX on, and
 * write back what it changes.
 */
static int
look_at_piece (struct qed_walk *w, uint64_t index, uint64_t n,
               qed_entry_fn *fn, void *opaque)
{
  uint64_t *const piece = w->piece;
  uint64_t first = n, last = 0;

  for (uint64_t i = 0; i < n; ++i) {
    uint64_t entry;
    int r;

    if (w->bulk)
      i += w->bulk (opaque, index + i, piece + i, n - i);
    if (i == n)
      break;
    entry = le64toh (piece[i]);
    r = entry ? fn (opaque, index + i, &entry) : 0;
    if (r == -1)
      return -1;
    if (r == 1) {
      piece[i] = htole64 (entry);
      if (first == n)
        first = i;
      last = i;
    }
  }
  if (first == n)
    return 0;
  return qed_storage_write (w->st, piece + first,
                            (last - first + 1) * sizeof *piece,
                            qed_entry_place (w, index + first));
}

/* Read the table at OFFSET from entry INDEX on, piece by piece. */
static int
walk_table (struct qed_walk *w, uint64_t offset, uint64_t index,
            qed_entry_fn *fn, void *opaque)
{
  const uint64_t entries = UINT64_C (1) << w->g.table_bits;

  w->table = offset;
  while (index < entries) {
    const uint64_t max = entries - index < PIECE_ENTRIES ?
      entries - index : PIECE_ENTRIES;
    const uint64_t at = offset + index * sizeof *w->piece;
    bool hole;
    uint64_t n = entries_alike (w, at, entries - index, &hole);

    if (!hole) {
      n = n < max ? n : max;
      if (qed_storage_read (w->st, w->piece, n * sizeof *w->piece, at) == -1)
        return -1;
      w->zeros = is_zero (w->piece, n);
      if (!w->zeros && look_at_piece (w, index, n, fn, opaque) == -1)
        return -1;
    }
    if (ask_whether_to_end (w) == -1)
      return -1;
    index += n;
  }
  return 0;
}

int
qed_walk_l1 (struct qed_walk *w, qed_entry_fn *fn, void *opaque)
{
  w->seen.end = 0; /* the file may have changed since the last walk */
  w->zeros = false;
  return walk_table (w, w->g.l1_offset, 0, fn, opaque);
}

/* ---- all L2 tables ---- */

static int
compare_places (const void *a, const void *b)
{
  const struct qed_place *p = a, *q = b;

  if (p->offset != q->offset)
    return p->offset < q->offset ? -1 : 1;
  return p->l1_index < q->l1_index ? -1 : p->l1_index > q->l1_index;
}

/* Sort the tables found so far, and of those with one offset keep the first.
 */
static void
sort_places (struct qed_walk *w)
{
  struct qed_place *const places = w->places;
  size_t n = 0;

  if (w->nr_places > 0)
    qsort (places, w->nr_places, sizeof *places, compare_places);
  for (size_t i = 0; i < w->nr_places; ++i)
    if (n == 0 || places[i].offset != places[n - 1].offset)
      places[n++] = places[i];
  w->nr_places = n;
}

/* Room for one more. */
static int
grow_places (struct qed_walk *w)
{
  struct qed_place *places;
  size_t n;

  sort_places (w);
  if (w->nr_places < w->allocated / 2)
    return 0;
  n = w->allocated ? 2 * w->allocated : 1024;
  if (n > MAX_TABLES)
    return qed_error (EFBIG, "%s: its L1 table has more than %" PRIu64
                      " entries: too many to look at: it can only be read",
                      w->st->name, MAX_TABLES / 2);
  places = realloc (w->places, n * sizeof *places);
  if (places == NULL)
    return qed_error (errno, "%s: %m", w->st->name);
  w->places = places;
  w->allocated = n;
  return 0;
}

static int
collect_place (void *opaque, uint64_t index, uint64_t *entry)
{
  struct qed_walk *w = opaque;

  if ((w->skip && qed_bit (w->skip, index)) ||
      !qed_entry_sound (&w->g, *entry, w->g.table_bytes, w->file_end, 0))
    return 0;
  if (w->nr_places == w->allocated && grow_places (w) == -1)
    return -1;
  w->places[w->nr_places++] = (struct qed_place) {
    .offset = *entry, .l1_index = index,
  };
  return 0;
}

static int
collect_places (struct qed_walk *w)
{
  uint64_t (*const bulk) (void *, uint64_t, const uint64_t *, uint64_t) =
    w->bulk;
  int r;

  w->nr_places = 0;
  w->bulk = NULL; /* it is for L2 entries */
  r = qed_walk_l1 (w, collect_place, w);
  w->bulk = bulk;
  if (r == 0)
    sort_places (w);
  return r;
}

/* Where the part of table I begins that doesn't overlap with table I - 1. */
static uint64_t
own_start (const struct qed_walk *w, size_t i)
{
  const uint64_t offset = w->places[i].offset;
  uint64_t end = i > 0 ? w->places[i - 1].offset + w->g.table_bytes : 0;

  return end > offset ? end : offset;
}

/* The kernel is to read tables up to number I and some more, beginning with
 * *ADVISED.  Large tables it reads ahead by itself.
 */
static void
prefetch_places (struct qed_walk *w, size_t i, size_t *advised)
{
  const size_t ahead = AHEAD / w->g.table_bytes;

  if (ahead == 0)
    return;
  for (; *advised < w->nr_places && *advised <= i + ahead; ++*advised) {
    struct qed_place *p = &w->places[*advised];
    uint64_t start = own_start (w, *advised);
    uint64_t length = p->offset + w->g.table_bytes - start;
    bool hole = false;

    if (is_worth_asking (w)) {
      length = qed_bytes_alike (w->st, &w->advised, start, length, &hole);
      p->data_end = hole ? 0 : w->advised.end;
    }
    if (!hole)
      w->st->ops->prefetch (w->st, start, length);
  }
}

static void
report (struct qed_walk *w, uint64_t done, uint64_t total)
{
  if (w->progress)
    w->progress->fn (w->progress->opaque, done, total);
}

int
qed_walk_l2 (struct qed_walk *w, qed_entry_fn *fn, void *opaque)
{
  size_t advised = 0;

  if (collect_places (w) == -1)
    return -1;
  w->seen.end = w->advised.end = 0;
  for (size_t i = 0; i < w->nr_places; ++i) {
    const struct qed_place *p = &w->places[i];
    uint64_t start = own_start (w, i);

    prefetch_places (w, i, &advised);
    if (p->data_end > w->seen.end)
      w->seen = (struct qed_stretch_seen) { start, p->data_end, false };
    w->l1_index = p->l1_index;
    w->next_table = i + 1 < w->nr_places ? p[1].offset : UINT64_MAX;
    if (walk_table (w, p->offset, (start - p->offset) / sizeof (uint64_t), fn,
                    opaque) == -1)
      return -1;
    report (w, i + 1, w->nr_places);
  }
  if (w->nr_places == 0)
    report (w, 1, 1);
  return 0;
}

/* ---- the walk itself ---- */

int
qed_walk_init (struct qed_walk *w, struct qed_storage *st,
               const struct qed_header *h, uint64_t file_size)
{
  *w = (struct qed_walk) { .st = st };
  qed_geometry_init (&w->g, h);
  w->file_end = file_size & ~(w->g.cluster_size - 1);
  w->asked_ms = now_ms ();
  w->piece = malloc (PIECE_ENTRIES * sizeof *w->piece);
  if (w->piece == NULL)
    return qed_error (errno, "%s: %m", st->name);
  return 0;
}

void
qed_walk_free (struct qed_walk *w)
{
  free (w->piece);
  free (w->places);
}
