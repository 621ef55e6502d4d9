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


/* Consistency check, and the repair that can't lose anything.
 *
 * Which clusters are referenced is kept in two bitmaps, one for L2 tables, one
 * for data, over a window of the file: for nearly all images there is one
 * window; else the tables are read once more for each window that anything
 * refers to.  So memory is bounded (64 MiB), and the parts of the bitmaps
 * that nothing refers to take none.
 *
 * In a window the L1 table is read first, so that all L2 tables are known when
 * their entries are looked at.  What's found:
 *
 *     an entry out of range            cleared: reading through it fails
 *     a data cluster inside a table    cleared: no guest data is in there
 *     a cluster referenced twice       refused: the owner can't be told
 *     a cluster never referenced       left alone: only space is lost; at the
 *                                      end of the file, for the caller to cut
 *
 * All table entries are looked at, those beyond the end of the disk too.
 * I9: an entry is followed only if it is sound, and a table only once.
 */

#include <config.h>

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "error.h"
#include "format.h"
#include "storage.h"
#include "writer.h"

/* Clusters, a power of 2; and of how many windows a file that isn't made to
 * annoy us can have data in.
 */
#define WINDOW (UINT64_C (1) << 28)
#define MAX_WINDOWS 64

/* Entries of a table that are read at once, at most. */
#define PIECE_ENTRIES (UINT64_C (1) << 15)

struct checker {
  struct qed_storage *st;
  struct qed_geometry g;
  uint64_t file_end;            /* in whole clusters */
  bool repair;
  struct qed_check_result *result;
  struct qed_past_end *past_end;

  uint64_t start, end;          /* the window, in clusters */
  uint64_t next;                /* least cluster referenced behind it */
  uint8_t *tables, *data;       /* bitmaps of the window */

  uint64_t l2_offset;           /* of the L2 table that is being looked at */
  uint64_t *l1_piece, *l2_piece; /* buffers */
};

/* ---- references ---- */

static bool
test_bit (const uint8_t *bitmap, uint64_t i)
{
  return bitmap[i / 8] & 1U << i % 8;
}

static void
set_bit (uint8_t *bitmap, uint64_t i)
{
  bitmap[i / 8] |= (uint8_t) (1U << i % 8);
}

/* COUNT clusters at OFFSET are in use. */
static void
extend_end (struct checker *c, uint64_t offset, uint64_t count)
{
  uint64_t end = offset + (count << c->g.cluster_bits);

  if (end > c->result->end)
    c->result->end = end;
}

/* Is CLUSTER of the file in the window?  If it's behind remember that. */
static bool
in_window (struct checker *c, uint64_t cluster)
{
  if (cluster >= c->end && cluster < c->next)
    c->next = cluster;
  return cluster >= c->start && cluster < c->end;
}

static int
twice (const struct checker *c, uint64_t cluster, const char *what)
{
  return qed_error (EIO, "%s: cluster at %" PRIu64 ": is referenced twice, "
                    "%s: the image is corrupt and can only be read: run "
                    "qed-img check -r all", c->st->name,
                    cluster << c->g.cluster_bits, what);
}

/* ---- tables ---- */

/* Look at an entry that isn't 0.  0: good; 1: clear it; -1: failed. */
typedef int look_fn (struct checker *c, uint64_t index, uint64_t entry);

/* Call FN for the entries in a piece of a table, and with repair write those
 * back that it doesn't like.
 */
static int
look_at_piece (struct checker *c, uint64_t offset, uint64_t *piece,
               uint64_t index, uint64_t n, look_fn *fn)
{
  bool changed = false;

  offset += index * sizeof *piece;
  if (qed_storage_read (c->st, piece, n * sizeof *piece, offset) == -1)
    return -1;
  for (uint64_t i = 0; i < n; ++i) {
    int r = piece[i] ? fn (c, index + i, le64toh (piece[i])) : 0;

    if (r == -1)
      return -1;
    if (r == 1) {
      piece[i] = 0;
      changed = true;
    }
  }
  if (changed && c->repair)
    return qed_storage_write (c->st, piece, n * sizeof *piece, offset);
  return 0;
}

/* How many entries from OFFSET of the file on, at most MAX, are in a hole or
 * (*HOLE false) may not be?
 */
static uint64_t
entries_alike (struct checker *c, uint64_t offset, uint64_t max, bool *hole)
{
  int64_t end = c->st->ops->next_extent (c->st, offset, hole);
  uint64_t n;

  if (end == -1 || (uint64_t) end <= offset) {
    *hole = false;
    return max;
  }
  n = ((uint64_t) end - offset) / sizeof (uint64_t);
  if (n == 0) {
    *hole = false;
    n = 1;
  }
  return n < max ? n : max;
}

/* The same for a whole table, but for holes of the file. */
static int
look_at_table (struct checker *c, uint64_t offset, uint64_t *piece,
               look_fn *fn)
{
  const uint64_t entries = UINT64_C (1) << c->g.table_bits;
  uint64_t index = 0;

  while (index < entries) {
    bool hole;
    uint64_t left = entries_alike (c, offset + index * sizeof *piece,
                                   entries - index, &hole);

    if (hole)
      index += left;
    else
      while (left > 0) {
        uint64_t n = left < PIECE_ENTRIES ? left : PIECE_ENTRIES;

        if (look_at_piece (c, offset, piece, index, n, fn) == -1)
          return -1;
        index += n;
        left -= n;
      }
  }
  return 0;
}

/* First round over L1: its entries, and the clusters of the L2 tables. */
static int
look_at_l1_entry (struct checker *c, uint64_t index __attribute__ ((unused)),
                  uint64_t entry)
{
  uint64_t count = c->g.table_bytes >> c->g.cluster_bits;

  if (!qed_entry_sound (&c->g, entry, c->g.table_bytes, c->file_end, 0)) {
    if (c->start == 0)
      c->result->unsound++;
    return 1;
  }
  extend_end (c, entry, count);
  for (uint64_t i = 0; i < count; ++i) {
    uint64_t cluster = (entry >> c->g.cluster_bits) + i;

    if (!in_window (c, cluster))
      continue;
    if (test_bit (c->tables, cluster - c->start))
      return twice (c, cluster, "by L2 tables");
    set_bit (c->tables, cluster - c->start);
  }
  return 0;
}

static int
look_at_l2_entry (struct checker *c, uint64_t index __attribute__ ((unused)),
                  uint64_t entry)
{
  uint64_t cluster = entry >> c->g.cluster_bits;

  if (entry == QED_ENTRY_ZERO)
    return 0;
  if (!qed_entry_sound (&c->g, entry, c->g.cluster_size, c->file_end,
                        c->l2_offset)) {
    if (c->start == 0)
      c->result->unsound++;
    return 1;
  }
  if (!in_window (c, cluster))
    return 0;
  if (test_bit (c->tables, cluster - c->start)) {
    c->result->in_tables++;
    return 1;
  }
  if (test_bit (c->data, cluster - c->start))
    return twice (c, cluster, "as data");
  set_bit (c->data, cluster - c->start);
  extend_end (c, entry, 1);
  return 0;
}

/* Second round over L1: the L2 tables. */
static int
look_at_l2_table (struct checker *c, uint64_t index __attribute__ ((unused)),
                  uint64_t entry)
{
  /* Without repair they are still there. */
  if (!qed_entry_sound (&c->g, entry, c->g.table_bytes, c->file_end, 0))
    return 0;
  c->l2_offset = entry;
  return look_at_table (c, entry, c->l2_piece, look_at_l2_entry);
}

/* ---- windows ---- */

static int
check_window (struct checker *c)
{
  size_t bytes = (c->end - c->start) / 8 + 1;
  int r = -1;

  /* Not malloc, so that what is never touched costs nothing. */
  c->tables = mmap (NULL, 2 * bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (c->tables == MAP_FAILED)
    return qed_error (errno, "%s: bitmaps of %zu bytes: %m", c->st->name,
                      2 * bytes);
  c->data = c->tables + bytes;
  c->next = UINT64_MAX;
  if (look_at_table (c, c->g.l1_offset, c->l1_piece, look_at_l1_entry) == 0)
    r = look_at_table (c, c->g.l1_offset, c->l1_piece, look_at_l2_table);
  munmap (c->tables, 2 * bytes);
  return r;
}

static int
check_windows (struct checker *c)
{
  const uint64_t clusters = c->file_end >> c->g.cluster_bits;

  for (int i = 0; i < MAX_WINDOWS; ++i) {
    c->end = clusters - c->start < WINDOW ? clusters : c->start + WINDOW;
    if (check_window (c) == -1)
      return -1;
    if (c->next == UINT64_MAX)
      return 0;
    c->start = c->next;
  }
  return qed_error (EFBIG, "%s: its clusters are spread over too large a "
                    "file, of %" PRIu64 " bytes, to check it: it can only be "
                    "read", c->st->name, c->file_end);
}

/* ---- entries past the end ---- */

/* Would ENTRY be sound if the file were longer? */
static void
note_past_end (struct checker *c, uint64_t entry, uint64_t length,
               uint64_t own_table)
{
  struct qed_past_end *p = c->past_end;

  if (!qed_entry_sound (&c->g, entry, length, INT64_MAX, own_table) ||
      entry <= c->file_end - length)
    return;
  p->count++;
  if (entry > c->file_end && entry - c->file_end > QED_NEAR_END) {
    if (entry < p->far)
      p->far = entry;
  }
  else if (entry + length > p->near_end)
    p->near_end = entry + length;
}

static int
note_l2_entry (struct checker *c, uint64_t index __attribute__ ((unused)),
               uint64_t entry)
{
  if (entry != QED_ENTRY_ZERO)
    note_past_end (c, entry, c->g.cluster_size, c->l2_offset);
  return 0;
}

static int
note_l1_entry (struct checker *c, uint64_t index __attribute__ ((unused)),
               uint64_t entry)
{
  if (!qed_entry_sound (&c->g, entry, c->g.table_bytes, c->file_end, 0)) {
    note_past_end (c, entry, c->g.table_bytes, 0);
    return 0;
  }
  c->l2_offset = entry;
  return look_at_table (c, entry, c->l2_piece, note_l2_entry);
}

/* ---- calls ---- */

static int
init (struct checker *c, const struct qed_header *h, uint64_t file_size)
{
  qed_geometry_init (&c->g, h);
  c->file_end = file_size & ~(c->g.cluster_size - 1);
  c->l1_piece = malloc (2 * PIECE_ENTRIES * sizeof *c->l1_piece);
  if (c->l1_piece == NULL)
    return qed_error (errno, "%s: %m", c->st->name);
  c->l2_piece = c->l1_piece + PIECE_ENTRIES;
  return 0;
}

int
qed_find_past_end (struct qed_storage *st, const struct qed_header *h,
                   uint64_t file_size, struct qed_past_end *past_end)
{
  struct checker c = { .st = st, .past_end = past_end };
  int r;

  if (init (&c, h, file_size) == -1)
    return -1;
  *past_end = (struct qed_past_end) {
    .near_end = c.file_end, .far = UINT64_MAX
  };
  r = look_at_table (&c, c.g.l1_offset, c.l1_piece, note_l1_entry);
  free (c.l1_piece);
  return r;
}

int
qed_check_tables (struct qed_storage *st, const struct qed_header *h,
                  uint64_t file_size, bool repair,
                  struct qed_check_result *result)
{
  struct checker c = { .st = st, .repair = repair, .result = result };
  int r;

  if (init (&c, h, file_size) == -1)
    return -1;
  *result = (struct qed_check_result) {
    .end = c.g.l1_offset + c.g.table_bytes
  };
  r = check_windows (&c);
  free (c.l1_piece);
  return r;
}
