/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Copying a disk in parallel.
 *
 * Each thread takes the next piece of the disk: a range that is known to be
 * zeros, or a piece of data, which it reads.  Runs of zeros in it are left out.
 * The rest is written, at once, or in turn if the sink wants the order of the
 * disk.  So reads and writes go on at the same time, and memory is one buffer
 * for each thread.
 *
 *     take (lock) -> read -> [wait for the turn] -> write, zero -> next
 *
 * Pieces are numbered as they are taken, which is in the order of the disk.
 * TURN is the number of the piece that may be written next to an ordered sink.
 *
 * Locking: c.lock guards what is taken and the turn.  Looking for data, which
 * may ask a server, goes on with the lock: the other threads have their pieces
 * meanwhile, and one that hasn't couldn't go on either.
 *
 * After a failure threads take no more pieces, and nobody waits for a turn.
 */

#include <config.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "copy-disk.h"
#include "error.h"
#include "image.h"
#include "offline.h"
#include "storage.h"

/* A piece has so many bytes at most, and it ends at a multiple of that, so that
 * clusters are written whole; and so many in a piece of known zeros, unless there
 * is nothing to do for them.
 * Larger pieces leave the caches of a CPU before they are written.
 */
#define MAX_PIECE (UINT64_C (1) << 20)
#define MAX_ZEROS (UINT64_C (1) << 30)

/* Zeros are looked for in blocks of this size, or smaller ones; and what can't
 * be read is given up in such blocks.
 */
#define BLOCK UINT64_C (4096)

struct piece {
  uint64_t number;
  uint64_t offset, length;      /* LENGTH 0: there is no more */
  bool zero;
};

struct converter {
  struct qed_sink *sink;
  const struct qed_convert_options *opts;
  uint64_t size;
  uint64_t block;               /* bytes, a power of 2 */
  struct qed_image *own;        /* only what it has itself is copied; or NULL */

  /* Salvage: what was read last without an error; UINT64_MAX: nothing yet. */
  _Atomic uint64_t good;

  pthread_mutex_t lock;         /* guards all that follows */
  pthread_cond_t next_turn;     /* it is, or something has failed */
  struct qed_ahead ahead;
  uint64_t own_end;             /* of the run of OWN at TAKEN */
  uint64_t taken;               /* bytes, from the start of the disk */
  uint64_t done;                /* bytes, of any pieces */
  uint64_t pieces, turn;
  int err;                      /* errno of the first failure, or 0 */
  char *why;                    /* its message, owned; or NULL */
};

/* The last error of this thread becomes that of the call, unless there is one.
 */
static void
fail (struct converter *c)
{
  const int err = errno ? errno : EIO;

  pthread_mutex_lock (&c->lock);
  if (c->err == 0) {
    c->err = err;
    c->why = strdup (qed_get_error ());
  }
  pthread_cond_broadcast (&c->next_turn);
  pthread_mutex_unlock (&c->lock);
}

/* ---- taking pieces ---- */

/* Skip what OWN hasn't itself.  Where the backing file has ended it has zeros.
 * Called with the lock.
 */
static int
skip_below (struct converter *c)
{
  uint64_t below;

  if (c->own == NULL) {
    c->own_end = c->size;
    return 0;
  }
  below = c->own->backing ? c->own->backing->size : 0;
  while (c->taken == c->own_end && c->taken < c->size) {
    struct qed_run run;

    if (qed_map (c->own, c->taken, c->size - c->taken, &run) == -1)
      return -1;
    c->own_end += run.length;
    if (run.type == QED_RUN_UNALLOCATED && c->taken < below) {
      if (c->own_end > below)
        c->own_end = below;
      c->done += c->own_end - c->taken;
      c->taken = c->own_end;
    }
  }
  return 0;
}

/* Set P->ZERO.  How far does that go?  Called with the lock. */
static int
look_for_data (struct converter *c, struct piece *p, uint64_t *end)
{
  *end = c->own_end;
  if (c->opts->min_zeros == 0)  /* zeros are data */
    return 0;
  if (qed_look_ahead (&c->ahead, c->taken, c->size) == -1)
    return -1;
  p->zero = c->ahead.start > c->taken;
  *end = p->zero ? c->ahead.start : c->ahead.end;
  return 0;
}

/* The piece after those that were taken.  Called with the lock. */
static int
next_piece (struct converter *c, struct piece *p)
{
  uint64_t end, max;

  *p = (struct piece) { .number = c->pieces };
  if (c->err != 0)
    return 0;
  if (qed_interrupted && qed_interrupted ())
    return qed_error (ESHUTDOWN, "%s: interrupted", c->sink->name);
  if (skip_below (c) == -1)
    return -1;
  p->offset = c->taken;
  if (c->taken == c->size)
    return 0;
  if (look_for_data (c, p, &end) == -1)
    return -1;
  max = !p->zero ? MAX_PIECE : c->sink->ops->zero ? MAX_ZEROS : c->size;
  max = (c->taken / max + 1) * max;
  end = end < c->own_end ? end : c->own_end;
  p->length = (end < max ? end : max) - c->taken;
  return 0;
}

static int
take (struct converter *c, struct piece *p)
{
  int r;

  pthread_mutex_lock (&c->lock);
  r = next_piece (c, p);
  if (r == 0 && p->length > 0) {
    c->taken += p->length;
    c->pieces++;
  }
  pthread_mutex_unlock (&c->lock);
  return r;
}

/* P is written.  Called once for each piece, unless something has failed. */
static void
finish (struct converter *c, const struct piece *p)
{
  const struct qed_progress *progress = c->opts->progress;

  pthread_mutex_lock (&c->lock);
  c->done += p->length;
  if (progress)
    progress->fn (progress->opaque, c->done, c->size);
  c->turn = p->number + 1;
  pthread_cond_broadcast (&c->next_turn);
  pthread_mutex_unlock (&c->lock);
}

/* False: something has failed. */
static bool
wait_for_turn (struct converter *c, const struct piece *p)
{
  bool r;

  if (!c->sink->ops->ordered)
    return true;
  pthread_mutex_lock (&c->lock);
  while (c->err == 0 && c->turn != p->number)
    pthread_cond_wait (&c->next_turn, &c->lock);
  r = c->err == 0;
  pthread_mutex_unlock (&c->lock);
  return r;
}

/* ---- reading ---- */

/* Past its end B reads as zeros. */
static int
pread_disk (struct converter *c, uint8_t *buf, uint64_t count, uint64_t offset)
{
  struct qed_backing *b = c->ahead.b;
  uint64_t n = offset >= b->size ? 0 :
    b->size - offset < count ? b->size - offset : count;

  memset (buf + n, 0, count - n);
  return n == 0 ? 0 : b->ops->pread (b, buf, n, offset);
}

/* A part of the disk can't be read: it becomes zeros, unless a part that could
 * be read can't any more.  Then a server is gone, or a device.
 */
static int
give_up_reading (struct converter *c, uint8_t *buf, uint64_t count,
                 uint64_t offset)
{
  const struct qed_convert_options *opts = c->opts;
  const uint64_t good = atomic_load (&c->good);

  if (errno != EIO ||
      (good != UINT64_MAX && pread_disk (c, buf, 1, good) == -1))
    return -1;
  pthread_mutex_lock (&c->lock);
  opts->unreadable (opts->opaque, offset, count);
  pthread_mutex_unlock (&c->lock);
  memset (buf, 0, count);
  return 0;
}

/* If it can't be read at once, read it block by block. */
static int
read_piece (struct converter *c, uint8_t *buf, const struct piece *p)
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

static int
write_zeros (struct converter *c, uint64_t length, uint64_t offset)
{
  struct qed_sink *s = c->sink;

  return s->ops->zero ? s->ops->zero (s, offset, length) : 0;
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
  struct qed_sink *s = c->sink;
  uint64_t start = 0;           /* of what is still to be written */

  for (uint64_t i = 0, n; min > 0 && i < count; i += n) {
    bool zero = false;

    n = run_length (c, buf, count, i, &zero);
    if (!zero || n < min)
      continue;
    if ((i > start && s->ops->write (s, buf + start, i - start,
                                     offset + start) == -1) ||
        write_zeros (c, n, offset + i) == -1)
      return -1;
    start = i + n;
  }
  return start == count ? 0 :
    s->ops->write (s, buf + start, count - start, offset + start);
}

/* ---- threads ---- */

static int
convert_piece (struct converter *c, const struct piece *p, uint8_t *buf)
{
  if (!p->zero && read_piece (c, buf, p) == -1)
    return -1;
  if (!wait_for_turn (c, p))
    return 0;
  if ((p->zero ? write_zeros (c, p->length, p->offset) :
       write_data (c, buf, p->length, p->offset)) == -1)
    return -1;
  finish (c, p);
  return 0;
}

static void *
convert_thread (void *arg)
{
  struct converter *c = arg;
  /* The kernel copies at twice the speed where addresses are aligned alike. */
  uint8_t *buf = aligned_alloc (BLOCK, MAX_PIECE);
  struct piece p;

  if (buf == NULL) {
    qed_error (ENOMEM, "%s: %m", c->sink->name);
    fail (c);
    return NULL;
  }
  for (;;) {
    if (take (c, &p) == -1)
      fail (c);
    else if (p.length == 0)
      break;
    else if (convert_piece (c, &p, buf) == -1)
      fail (c);
  }
  free (buf);
  return NULL;
}

/* The threads that could be started do the work. */
static int
run_threads (struct converter *c)
{
  pthread_t threads[QED_MAX_CONVERT_THREADS];
  unsigned n = 0;
  int err = 0;

  while (n < c->opts->threads && err == 0) {
    err = pthread_create (&threads[n], NULL, convert_thread, c);
    n += err == 0;
  }
  if (n == 0)
    return qed_error (err, "%s: thread: %m", c->sink->name);
  while (n > 0)
    pthread_join (threads[--n], NULL);
  return c->err == 0 ? 0 : qed_error (c->err, "%s", c->why ? c->why :
                                      c->sink->name);
}

int
qed_copy_disk (struct qed_backing *b, uint64_t size, struct qed_sink *s,
               const struct qed_convert_options *opts)
{
  const uint64_t min = opts->min_zeros;
  struct converter c = {
    .sink = s, .opts = opts, .size = size, .ahead = { .b = b },
    .block = (min & -min) < BLOCK ? min & -min : BLOCK,
    .own = opts->own_only ? b->image : NULL, .good = UINT64_MAX,
  };
  int r, err;

  pthread_mutex_init (&c.lock, NULL);
  pthread_cond_init (&c.next_turn, NULL);
  r = run_threads (&c);
  err = errno;
  free (c.why);
  pthread_cond_destroy (&c.next_turn);
  pthread_mutex_destroy (&c.lock);
  errno = err;
  return r;
}
