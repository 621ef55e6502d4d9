/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Copying a disk in parallel.
 *
 * Threads take pieces of it (pieces.c): a range that is known to be zeros, or a
 * piece of data, which is read.  Runs of zeros in it are left out.  The rest is
 * written, at once, or in turn if the sink wants the order of the disk.  So
 * reads and writes go on at the same time, and memory is one buffer for each
 * thread.
 *
 *     take -> read -> [wait for the turn] -> write, zero -> next
 *
 * Locking: p.lock of pieces.c also guards calls of UNREADABLE.  The zeros that
 * wait belong to the thread whose turn it is.
 */

#include <config.h>

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "copy-disk.h"
#include "pieces.h"
#include "storage.h"

/* Zeros are looked for in blocks of this size, or smaller ones; and what can't
 * be read is given up in such blocks.
 */
#define BLOCK UINT64_C (4096)

struct converter {
  struct qed_pieces p;
  struct qed_sink *sink;
  const struct qed_convert_options *opts;
  uint64_t block;               /* bytes, a power of 2 */

  /* Of an ordered sink: zeros that it hasn't got yet, behind all that it has.
   * The thread whose turn it is has them.
   */
  uint64_t zeros, zeros_end;    /* offsets */

  /* Salvage: what was read last without an error; UINT64_MAX: nothing yet. */
  _Atomic uint64_t good;
};

/* ---- reading ---- */

/* Past its end the disk reads as zeros. */
static int
pread_disk (struct converter *c, uint8_t *buf, uint64_t count, uint64_t offset)
{
  struct qed_backing *b = c->p.disks[0];
  uint64_t n = offset >= b->size ? 0 :
    b->size - offset < count ? b->size - offset : count;

  memset (buf + n, 0, count - n);
  return n == 0 ? 0 : b->ops->pread (b, buf, n, offset);
}

/* Places to look for something that can be read. */
#define PROBES 16

/* Set c->good, if it isn't set.  -1: nothing can be read, as it seems. */
static int
find_good (struct converter *c)
{
  const uint64_t size = c->p.disks[0]->size;
  uint8_t byte;

  for (uint64_t i = 0; i < PROBES && atomic_load (&c->good) == UINT64_MAX;
       ++i) {
    struct qed_ahead a = { .b = c->p.disks[0] };

    if (qed_look_ahead (&a, size / PROBES * i, size) == 0 && a.start < size &&
        pread_disk (c, &byte, 1, a.start) == 0)
      atomic_store (&c->good, a.start);
  }
  return atomic_load (&c->good) == UINT64_MAX ? -1 : 0;
}

/* A part of the disk can't be read: it becomes zeros, unless nothing can, or a
 * part that could be read can't any more.  Then a server is gone, or a device.
 */
static int
give_up_reading (struct converter *c, uint8_t *buf, uint64_t count,
                 uint64_t offset)
{
  const struct qed_convert_options *opts = c->opts;

  if (errno != EIO || find_good (c) == -1 ||
      pread_disk (c, buf, 1, atomic_load (&c->good)) == -1)
    return -1;
  pthread_mutex_lock (&c->p.lock);
  opts->unreadable (opts->opaque, offset, count);
  pthread_mutex_unlock (&c->p.lock);
  memset (buf, 0, count);
  return 0;
}

/* If it can't be read at once, read it block by block. */
static int
read_piece (struct converter *c, uint8_t *buf, const struct qed_piece *p)
{
  if (pread_disk (c, buf, p->length, p->offset) == 0) {
    if (c->opts->unreadable)
      atomic_store (&c->good, p->offset);
    return 0;
  }
  if (c->opts->unreadable == NULL || errno != EIO)
    return -1;
  for (uint64_t i = 0, n; i < p->length; i += n) {
    n = p->length - i < BLOCK ? p->length - i : BLOCK;
    if (pread_disk (c, buf + i, n, p->offset + i) == -1 &&
        give_up_reading (c, buf + i, n, p->offset + i) == -1)
      return -1;
  }
  return 0;
}

/* ---- writing ---- */

/* Write the zeros that wait.  Other sinks have none, and no turns. */
static int
flush_zeros (struct converter *c)
{
  uint64_t from;

  if (!c->sink->ops->ordered)
    return 0;
  from = c->zeros;
  c->zeros = c->zeros_end;
  return from == c->zeros ? 0 :
    c->sink->ops->zero (c->sink, from, c->zeros_end - from);
}

static int
write_zeros (struct converter *c, uint64_t length, uint64_t offset)
{
  struct qed_sink *s = c->sink;

  if (s->ops->zero == NULL)
    return 0;
  if (!s->ops->ordered)
    return s->ops->zero (s, offset, length);
  if ((offset != c->zeros_end ||
       c->zeros_end - c->zeros >= QED_MAX_ZERO_PIECE) &&
      flush_zeros (c) == -1)
    return -1;
  if (c->zeros == c->zeros_end)
    c->zeros = offset;
  c->zeros_end = offset + length;
  return 0;
}

static int
write_bytes (struct converter *c, const uint8_t *buf, uint64_t count,
             uint64_t offset)
{
  return flush_zeros (c) == -1 ? -1 :
    c->sink->ops->write (c->sink, buf, count, offset);
}

/* How long is the run of blocks at I that are zero, or aren't? */
static uint64_t
run_length (const struct converter *c, const uint8_t *buf, uint64_t count,
            uint64_t i, bool *zero)
{
  uint64_t end = i, n;

  do {
    bool z;

    n = c->block - end % c->block;
    n = count - end < n ? count - end : n;
    z = qed_is_zero (buf + end, n);
    if (end == i)
      *zero = z;
    if (z != *zero)
      break;
    end += n;
  } while (end < count);
  return end - i;
}

/* Write COUNT bytes at OFFSET, without the longer runs of zeros. */
static int
write_data (struct converter *c, const uint8_t *buf, uint64_t count,
            uint64_t offset)
{
  const uint64_t min = c->opts->min_zeros;
  uint64_t start = 0;           /* of what is still to be written */

  for (uint64_t i = 0, n; min > 0 && i < count; i += n) {
    bool zero = false;

    n = run_length (c, buf, count, i, &zero);
    if (!zero || n < min)
      continue;
    if ((i > start && write_bytes (c, buf + start, i - start,
                                   offset + start) == -1) ||
        write_zeros (c, n, offset + i) == -1)
      return -1;
    start = i + n;
  }
  return start == count ? 0 :
    write_bytes (c, buf + start, count - start, offset + start);
}

/* ---- both ---- */

static int
convert_piece (struct qed_pieces *pieces, const struct qed_piece *p,
               uint8_t *buf)
{
  struct converter *c = (struct converter *) pieces;

  if (p->data[0] && read_piece (c, buf, p) == -1)
    return -1;
  if (c->sink->ops->ordered && !qed_piece_turn (pieces, p))
    return 0;
  return p->data[0] ? write_data (c, buf, p->length, p->offset) :
    write_zeros (c, p->length, p->offset);
}

int
qed_copy_disk (struct qed_backing *b, uint64_t size, struct qed_sink *s,
               const struct qed_convert_options *opts)
{
  const uint64_t min = opts->min_zeros;
  /* So that longer runs of zeros are found. */
  const uint64_t max_piece = min >= QED_MAX_PIECE ? 2 * QED_MAX_PIECE :
    QED_MAX_PIECE;
  struct converter c = {
    .p = {
      .disks = { b, NULL }, .name = s->name, .fn = convert_piece,
      .max_piece = max_piece, .buffer = max_piece, .threads = opts->threads,
      .progress = opts->progress, .size = size,
      .own = opts->own_only ? b->image : NULL,
      .skip_zeros = s->ops->zero == NULL, .all_data = min == 0,
    },
    .sink = s, .opts = opts, .good = UINT64_MAX,
    .block = (min & -min) < BLOCK ? min & -min : BLOCK,
  };

  return qed_do_pieces (&c.p) == -1 ? -1 : flush_zeros (&c);
}
