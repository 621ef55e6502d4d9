/* nbdkit-qed
 * Copyright (C) 2026 nbdkit-qed authors
 *
 * Redistribution and use in source and binary forms, with or without
 * modification, are permitted provided that the following conditions are
 * met:
 *
 * * Redistributions of source code must retain the above copyright
 * notice, this list of conditions and the following disclaimer.
 *
 * * Redistributions in binary form must reproduce the above copyright
 * notice, this list of conditions and the following disclaimer in the
 * documentation and/or other materials provided with the distribution.
 *
 * * Neither the name of nbdkit-qed nor the names of its contributors may be
 * used to endorse or promote products derived from this software without
 * specific prior written permission.
 *
 * THIS SOFTWARE IS PROVIDED BY THE AUTHORS AND CONTRIBUTORS ''AS IS'' AND
 * ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO,
 * THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A
 * PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE AUTHORS OR
 * CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
 * SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT
 * LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF
 * USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND
 * ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY,
 * OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT
 * OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF
 * SUCH DAMAGE.
 */


/* Going through all tables.
 *
 * The L1 table is read in pieces; the L2 tables of a piece are sorted by their
 * place in the file and read in that order, while the kernel is told about the
 * next few of them, so that a disk always has something to do and moves in one
 * direction.  Memory is bounded, whatever the geometry.
 *
 * The file is asked where a large table has holes, because one of 1 GiB in a
 * sparse file may well be a hole.
 *
 * I9: an L2 table is followed only if the L1 entry is sound, and not twice
 * from the same piece of the L1 table.
 */

#include <config.h>

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "check.h"
#include "error.h"
#include "storage.h"

/* Entries that are read at once, at most: 256 KiB, a table of the default
 * geometry.
 */
#define PIECE_ENTRIES (UINT64_C (1) << 15)

/* In a larger table, in bytes, looking for a hole costs less than reading. */
#define LARGE_TABLE (UINT64_C (32) << 10)

/* Bytes of tables that the kernel reads ahead. */
#define AHEAD (UINT64_C (8) << 20)

struct place {
  uint64_t offset;              /* of an L2 table */
  uint64_t l1_index;
};

struct qed_walk_buffers {
  uint64_t l1[PIECE_ENTRIES], l2[PIECE_ENTRIES];
  struct place places[PIECE_ENTRIES];
};

/* ---- bitmaps ---- */

uint8_t *
qed_bitmap_new (uint64_t bits, const char *name)
{
  /* Not malloc, so that what is never touched costs nothing. */
  uint8_t *p = mmap (NULL, bits / 8 + 1, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

  if (p == MAP_FAILED) {
    qed_error (errno, "%s: bitmap of %" PRIu64 " bytes: %m", name,
               bits / 8 + 1);
    return NULL;
  }
  return p;
}

void
qed_bitmap_free (uint8_t *bitmap, uint64_t bits)
{
  if (bitmap)
    munmap (bitmap, bits / 8 + 1);
}

/* ---- one table ---- */

/* Call FN for N entries at PIECE, which are those from INDEX on, and write
 * back what it changes.
 */
static int
look_at_piece (struct qed_walk *w, uint64_t *piece, uint64_t index,
               uint64_t n, qed_entry_fn *fn, void *opaque)
{
  uint64_t first = n, last = 0;

  for (uint64_t i = 0; i < n; ++i) {
    uint64_t entry;
    int r;

    if (w->bulk)
      i += w->bulk (opaque, piece + i, n - i);
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

/* How many entries from OFFSET of the file on, at most MAX, are in a hole or
 * (*HOLE false) may not be?
 */
static uint64_t
entries_alike (struct qed_walk *w, uint64_t offset, uint64_t max, bool *hole)
{
  int64_t end;
  uint64_t n;

  *hole = false;
  if (w->g.table_bytes <= LARGE_TABLE)
    return max;
  end = w->st->ops->next_extent (w->st, offset, hole);
  n = end == -1 || (uint64_t) end <= offset ? 0 :
    ((uint64_t) end - offset) / sizeof (uint64_t);
  if (n == 0) {
    *hole = false;
    return end == -1 ? max : 1;
  }
  return n < max ? n : max;
}

/* What is done with a piece of a table: N entries at PIECE, from INDEX on. */
typedef int piece_fn (struct qed_walk *w, uint64_t *piece, uint64_t index,
                      uint64_t n, qed_entry_fn *fn, void *opaque);

/* Read the table at OFFSET piece by piece. */
static int
walk_table (struct qed_walk *w, uint64_t offset, uint64_t *piece,
            piece_fn *do_piece, qed_entry_fn *fn, void *opaque)
{
  const uint64_t entries = UINT64_C (1) << w->g.table_bits;
  uint64_t index = 0;

  while (index < entries) {
    bool hole;
    uint64_t left = entries_alike (w, offset + index * sizeof *piece,
                                   entries - index, &hole);

    if (hole)
      index += left;
    else
      while (left > 0) {
        uint64_t n = left < PIECE_ENTRIES ? left : PIECE_ENTRIES;

        if (qed_storage_read (w->st, piece, n * sizeof *piece,
                              offset + index * sizeof *piece) == -1)
          return -1;
        w->table = offset;
        if (do_piece (w, piece, index, n, fn, opaque) == -1)
          return -1;
        index += n;
        left -= n;
      }
  }
  return 0;
}

/* ---- all tables ---- */

static int
compare_places (const void *a, const void *b)
{
  const struct place *p = a, *q = b;

  if (p->offset != q->offset)
    return p->offset < q->offset ? -1 : 1;
  return p->l1_index < q->l1_index ? -1 : p->l1_index > q->l1_index;
}

/* The places of the L2 tables that a piece of the L1 table points to, sorted.
 * Returns their number.
 */
static uint64_t
find_places (struct qed_walk *w, const uint64_t *piece, uint64_t index,
             uint64_t n)
{
  struct place *places = w->buffers->places;
  uint64_t count = 0;

  for (uint64_t i = 0; i < n; ++i) {
    uint64_t entry = le64toh (piece[i]);

    if (entry == 0 || (w->skip && qed_bit (w->skip, index + i)) ||
        !qed_entry_sound (&w->g, entry, w->g.table_bytes, w->file_end, 0))
      continue;
    places[count++] = (struct place) { entry, index + i };
  }
  qsort (places, count, sizeof *places, compare_places);
  return count;
}

/* With many windows (check.c) there are as many walks. */
static void
report (struct qed_walk *w, uint64_t done)
{
  if (w->progress == NULL || done < w->reported)
    return;
  w->reported = done;
  w->progress->fn (w->progress->opaque, done,
                   UINT64_C (1) << w->g.table_bits);
}

/* Walk over the L2 tables that a piece of the L1 table points to. */
static int
walk_places (struct qed_walk *w, uint64_t *piece, uint64_t index, uint64_t n,
             qed_entry_fn *fn, void *opaque)
{
  const struct place *places = w->buffers->places;
  const uint64_t count = find_places (w, piece, index, n);
  const uint64_t ahead = AHEAD / w->g.table_bytes;
  uint64_t advised = 0;

  for (uint64_t i = 0; i < count; ++i) {
    if (i > 0 && places[i].offset == places[i - 1].offset)
      continue;
    for (; advised < count && advised <= i + ahead; ++advised)
      w->st->ops->prefetch (w->st, places[advised].offset,
                            w->g.table_bytes < AHEAD ?
                            w->g.table_bytes : AHEAD);
    w->l1_index = places[i].l1_index;
    if (walk_table (w, places[i].offset, w->buffers->l2, look_at_piece, fn,
                    opaque) == -1)
      return -1;
    report (w, index + n * i / count);
  }
  report (w, index + n);
  return 0;
}

int
qed_walk_l1 (struct qed_walk *w, qed_entry_fn *fn, void *opaque)
{
  return walk_table (w, w->g.l1_offset, w->buffers->l1, look_at_piece, fn,
                     opaque);
}

int
qed_walk_l2 (struct qed_walk *w, qed_entry_fn *fn, void *opaque)
{
  if (walk_table (w, w->g.l1_offset, w->buffers->l1, walk_places, fn,
                  opaque) == -1)
    return -1;
  report (w, UINT64_C (1) << w->g.table_bits);
  return 0;
}

int
qed_walk_own_buffers (struct qed_walk *w)
{
  w->buffers = malloc (sizeof *w->buffers);
  if (w->buffers == NULL)
    return qed_error (errno, "%s: %m", w->st->name);
  return 0;
}

int
qed_walk_init (struct qed_walk *w, struct qed_storage *st,
               const struct qed_header *h, uint64_t file_size)
{
  *w = (struct qed_walk) { .st = st };
  qed_geometry_init (&w->g, h);
  w->file_end = file_size & ~(w->g.cluster_size - 1);
  return qed_walk_own_buffers (w);
}

void
qed_walk_free (struct qed_walk *w)
{
  free (w->buffers);
}
