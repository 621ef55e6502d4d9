/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Comparing two disks.
 *
 * Strict mode first compares what is allocated, from the maps of both disks
 * (map.c): WINDOW entries of the one are kept, and those of the other are
 * compared with them as they come.  Where that differs the comparison of the
 * content ends.
 *
 * Content is compared by threads, which take pieces of the disks (pieces.c).
 * What both are known to have zeros in isn't read; if only one has, the other
 * is looked at for zeros.  A difference cuts off what is behind it.  Pieces
 * before it are finished, so it is the first one that remains.
 *
 * Locking: c.p.lock guards c.result.  The maps are compared before there are
 * threads.
 */

#include <config.h>

#include <errno.h>
#include <string.h>

#include "check.h"
#include "error.h"
#include "pieces.h"
#include "storage.h"

/* So many bytes of each disk are read at once.  Less takes a disk longer, and
 * isn't faster in the page cache.
 */
#define STEP ((size_t) 1 << 20)

/* After a failure it is found where, and what is before that compared, in
 * blocks of this size.
 */
#define BLOCK 4096

struct comparison {
  struct qed_pieces p;
  struct qed_compare_result *result;
};

/* ---- status ---- */

#define WINDOW 1024

struct status {
  uint64_t end;                 /* bytes of the disk */
  bool present, zero, data, unsound;
};

/* What one disk has in a range, which begins where the one before ended. */
struct window {
  struct status entries[WINDOW];
  size_t n;
  size_t next;                  /* the entry to be compared next */
  uint64_t differs;             /* at this offset, or NOWHERE */
};
#define NOWHERE UINT64_MAX

/* What an unsound entry maps may be anything.  The content is compared there,
 * which fails as it should.
 */
static bool
same_status (const struct status *a, const struct status *b)
{
  return a->unsound || b->unsound ||
    (a->present == b->present && a->zero == b->zero && a->data == b->data);
}

static int
keep_status (void *opaque, const struct qed_map_entry *e)
{
  struct window *w = opaque;

  w->entries[w->n++] = (struct status) {
    .end = e->offset + e->length, .present = e->present, .zero = e->zero,
    .data = e->data, .unsound = e->unsound,
  };
  return w->n == WINDOW;
}

static int
compare_status (void *opaque, const struct qed_map_entry *e)
{
  struct window *w = opaque;
  const uint64_t end = e->offset + e->length;
  const struct status s = {
    .present = e->present, .zero = e->zero, .data = e->data,
    .unsound = e->unsound,
  };

  for (uint64_t at = e->offset; at < end; at = w->entries[w->next++].end) {
    if (!same_status (&w->entries[w->next], &s)) {
      w->differs = at;
      return 1;
    }
    if (w->entries[w->next].end > end)
      break;
  }
  return 0;
}

/* Set W->differs. */
static int
find_status (struct qed_backing *a, struct qed_backing *b, uint64_t size,
             struct window *w)
{
  w->differs = NOWHERE;
  for (uint64_t at = 0, end; at < size && w->differs == NOWHERE; at = end) {
    if (qed_interrupted && qed_interrupted ())
      return qed_error (ESHUTDOWN, "%s: interrupted", a->name);
    w->n = w->next = 0;
    if (qed_map_disk (a, at, size - at, keep_status, w) == -1)
      return -1;
    end = w->entries[w->n - 1].end;
    if (qed_map_disk (b, at, end - at, compare_status, w) == -1)
      return -1;
  }
  return 0;
}

/* What is to be compared ends where the status differs. */
static int
compare_maps (struct comparison *c)
{
  struct qed_compare_result *result = c->result;
  struct window w;

  if (find_status (c->p.disks[0], c->p.disks[1], c->p.size, &w) == -1) {
    result->status_failed = errno != ESHUTDOWN;
    return -1;
  }
  if (w.differs != NOWHERE) {
    result->difference = QED_DIFFERENT_STATUS;
    result->offset = c->p.size = w.differs;
  }
  return 0;
}

/* ---- content ---- */

/* PIECE has a difference at OFFSET.  Sectors are counted from its start, as
 * qemu-img does: a raw disk may end inside a sector, and a piece begin there.
 */
static void
note_difference (struct comparison *c, const struct qed_piece *piece,
                 uint64_t offset)
{
  struct qed_compare_result *result = c->result;

  offset -= (offset - piece->offset) % QED_SECTOR_SIZE;
  qed_cut_pieces (&c->p, offset);
  pthread_mutex_lock (&c->p.lock);
  if (result->difference == QED_SAME || offset < result->offset) {
    result->difference = QED_DIFFERENT_CONTENT;
    result->offset = offset;
  }
  pthread_mutex_unlock (&c->p.lock);
}

/* The index of the first byte that differs, or N.  B may be NULL: zeros. */
static size_t
first_difference (const uint8_t *a, const uint8_t *b, size_t n)
{
  size_t i = 0, length;

  /* A sector with a difference, then the byte. */
  if (b ? memcmp (a, b, n) == 0 : qed_is_zero (a, n))
    return n;
  for (; i < n; i += length) {
    length = n - i < QED_SECTOR_SIZE ? n - i : QED_SECTOR_SIZE;
    if (b ? memcmp (a + i, b + i, length) != 0 : !qed_is_zero (a + i, length))
      break;
  }
  while (i < n && a[i] == (b ? b[i] : 0))
    i++;
  return i;
}

/* Read and compare N bytes of PIECE at OFFSET.  Returns 1 if they differ. */
static int
compare_step (struct comparison *c, const struct qed_piece *piece,
              uint64_t offset, size_t n, uint8_t *buf)
{
  uint8_t *bufs[2] = { NULL, NULL };
  size_t i;

  for (i = 0; i < 2; ++i) {
    struct qed_backing *b = c->p.disks[i];

    if (!piece->data[i])
      continue;
    bufs[i] = buf + i * STEP;
    if (b->ops->pread (b, bufs[i], n, offset) == -1)
      return -1;
  }
  i = bufs[0] ? first_difference (bufs[0], bufs[1], n) :
    first_difference (bufs[1], NULL, n);
  if (i == n)
    return 0;
  note_difference (c, piece, offset + i);
  return 1;
}

/* The same in smaller steps. */
static int
compare_blocks (struct comparison *c, const struct qed_piece *piece,
                uint64_t offset, size_t n, uint8_t *buf)
{
  const uint64_t end = offset + n;
  int r = 0;

  for (; r == 0 && offset < end; offset += n) {
    n = BLOCK - offset % BLOCK;
    n = end - offset < n ? end - offset : n;
    r = compare_step (c, piece, offset, n, buf);
  }
  return r;
}

static int
compare_piece (struct qed_pieces *p, const struct qed_piece *piece,
               uint8_t *buf)
{
  struct comparison *c = (struct comparison *) p;
  const uint64_t end = piece->offset + piece->length;
  uint64_t n;
  int r = 0;

  if (!piece->data[0] && !piece->data[1])
    return 0;
  for (uint64_t at = piece->offset; r == 0 && at < end; at += n) {
    n = end - at < STEP ? end - at : STEP;
    r = compare_step (c, piece, at, n, buf);
    if (r == -1)
      r = compare_blocks (c, piece, at, n, buf);
  }
  return r == -1 ? -1 : 0;
}

/* ---- both ---- */

static int
note_unsound (void *opaque, const struct qed_map_entry *e)
{
  bool *unsound = opaque;

  *unsound |= e->unsound;
  return *unsound;
}

/* Can the status in B of the piece at OFFSET not be had? */
static bool
has_no_status (struct qed_backing *b, uint64_t offset)
{
  uint64_t n = b->size > offset ? b->size - offset : 0;
  bool unsound = false;

  n = n < QED_MAX_PIECE ? n : QED_MAX_PIECE;
  return n > 0 &&
    (qed_map_disk (b, offset, n, note_unsound, &unsound) == -1 || unsound);
}

static int
compare_content (struct comparison *c)
{
  const struct qed_pieces *p = &c->p;
  int err;

  if (qed_do_pieces (&c->p) == 0)
    return 0;
  err = errno;
  c->result->status_failed = err != ESHUTDOWN &&
    (has_no_status (p->disks[0], p->err_at) ||
     has_no_status (p->disks[1], p->err_at));
  errno = err;
  return -1;
}

int
qed_compare_disks (struct qed_backing *a, struct qed_backing *b,
                   const struct qed_compare_options *opts,
                   struct qed_compare_result *result)
{
  const uint64_t sector = QED_SECTOR_SIZE - 1;
  const uint64_t sizes[2] = {
    (a->size + sector) & ~sector, (b->size + sector) & ~sector
  };
  struct comparison c = {
    .p = {
      .disks = { a, b }, .name = a->name, .fn = compare_piece,
      .max_piece = QED_MAX_PIECE, .buffer = 2 * STEP, .threads = opts->threads,
      .progress = opts->progress,
      .size = sizes[0] > sizes[1] ? sizes[0] : sizes[1],
    },
    .result = result,
  };

  *result = (struct qed_compare_result) {
    .difference = QED_SAME, .sizes = { sizes[0], sizes[1] },
  };
  if (qed_refuse_shared_tables (a->image) == -1 ||
      qed_refuse_shared_tables (b->image) == -1) {
    result->status_failed = true;
    return -1;
  }
  if (opts->strict && sizes[0] != sizes[1]) {
    result->difference = QED_DIFFERENT_SIZE;
    return 0;
  }
  if (opts->strict && compare_maps (&c) == -1)
    return -1;
  return compare_content (&c);
}
