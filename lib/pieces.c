/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Going through one disk, or two, piece by piece in parallel.
 *
 * Each thread takes the next piece and works on it: a range that is known to be
 * zeros (in both disks), or a piece that has data (in one of them at least).
 * Memory is one buffer for each thread.
 *
 * Pieces are numbered as they are taken, which is in the order of the disk.
 * TURN is the number of the piece that may go on if FN wants that order.
 *
 * After a failure threads take no more pieces, and nobody waits for a turn.
 * The pieces before the one that failed have been taken by then.  They are
 * finished, and the failure that is told is the first one on the disk.
 *
 * Locking: p.taking guards what is taken, and is held while a thread looks for
 * data, which may ask a server: another thread that wants a piece couldn't go on
 * without the answer.  p.lock guards the turn and the end, and is never held
 * across I/O, so that threads with a piece go on meanwhile.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "image.h"
#include "pieces.h"

/* ---- failures ---- */

/* The last error of this thread, about a piece at OFFSET, becomes that of the
 * call, unless there is an earlier one.
 */
static void
fail (struct qed_pieces *p, uint64_t offset)
{
  const int err = errno ? errno : EIO;

  pthread_mutex_lock (&p->lock);
  if (p->err == 0 || offset < p->err_at) {
    p->err = err;
    p->err_at = offset;
    free (p->why);
    p->why = strdup (qed_get_error ());
  }
  pthread_cond_broadcast (&p->next_turn);
  pthread_mutex_unlock (&p->lock);
}

void
qed_cut_pieces (struct qed_pieces *p, uint64_t offset)
{
  pthread_mutex_lock (&p->lock);
  if (offset < p->size)
    p->size = offset;
  pthread_mutex_unlock (&p->lock);
}

/* ---- taking pieces ---- */

static void
count_done (struct qed_pieces *p, uint64_t length)
{
  p->done += length;
  qed_report (p->progress, p->done, p->total);
}

/* Where does the work end now?  0: something has failed. */
static uint64_t
get_end (struct qed_pieces *p)
{
  uint64_t end;

  pthread_mutex_lock (&p->lock);
  end = p->err == 0 ? p->size : 0;
  pthread_mutex_unlock (&p->lock);
  return end;
}

/* Nothing is to be done up to END.  Called with p->taking. */
static void
skip (struct qed_pieces *p, uint64_t end)
{
  pthread_mutex_lock (&p->lock);
  count_done (p, end - p->taken);
  pthread_mutex_unlock (&p->lock);
  p->taken = end;
}

/* Skip what OWN hasn't itself.  Where the backing file has ended it has zeros.
 * Called with p->taking.
 */
static int
skip_below (struct qed_pieces *p, uint64_t size)
{
  uint64_t below;

  if (p->own == NULL) {
    p->own_end = size;
    return 0;
  }
  below = p->own->backing ? p->own->backing->size : 0;
  while (p->taken == p->own_end && p->taken < size) {
    struct qed_run run;

    if (qed_map (p->own, p->taken, size - p->taken, &run) == -1)
      return -1;
    p->own_end += run.length;
    if (run.type != QED_RUN_UNALLOCATED || p->taken >= below)
      break;
    if (p->own_end > below)
      p->own_end = below;
    skip (p, p->own_end);
  }
  return 0;
}

/* Where does disk I stop being what it is at the start of PIECE, zeros or data?
 * Called with p->taking.
 */
static int
look (struct qed_pieces *p, unsigned i, uint64_t size,
      struct qed_piece *piece, uint64_t *end)
{
  struct qed_ahead *a = &p->ahead[i];

  piece->data[i] = p->all_data && p->disks[i];
  *end = size;
  if (piece->data[i])
    return 0;
  if (qed_look_ahead (a, piece->offset, size) == -1)
    return -1;
  piece->data[i] = a->start <= piece->offset;
  *end = piece->data[i] ? a->end : a->start;
  return 0;
}

/* Set PIECE to what is next, of which the disks have data or know to be zeros.
 * Called with p->taking.
 */
static int
next_range (struct qed_pieces *p, uint64_t size, struct qed_piece *piece)
{
  uint64_t end[2];

  piece->offset = p->taken;
  for (unsigned i = 0; i < 2; ++i)
    if (look (p, i, size, piece, &end[i]) == -1)
      return -1;
  piece->length = p->own_end;
  for (unsigned i = 0; i < 2; ++i)
    if (end[i] < piece->length)
      piece->length = end[i];
  piece->length -= p->taken;
  return 0;
}

/* The piece after those that were taken.  Called with p->taking. */
static int
next_piece (struct qed_pieces *p, struct qed_piece *piece)
{
  uint64_t size, max;

  *piece = (struct qed_piece) { .number = p->pieces, .offset = p->taken };
  while (size = get_end (p), p->taken < size) {
    if (qed_interrupted && qed_interrupted ())
      return qed_error (ESHUTDOWN, "%s: interrupted", p->name);
    if (skip_below (p, size) == -1)
      return -1;
    if (p->taken >= size)
      break;
    if (next_range (p, size, piece) == -1)
      return -1;
    max = piece->data[0] || piece->data[1] ? p->max_piece :
      QED_MAX_ZERO_PIECE;
    if (max == p->max_piece || !p->skip_zeros) {
      max -= p->taken % max;
      if (piece->length > max)
        piece->length = max;
      return 0;
    }
    skip (p, p->taken + piece->length);
    piece->length = 0;
  }
  return 0;
}

static int
take (struct qed_pieces *p, struct qed_piece *piece)
{
  int r;

  pthread_mutex_lock (&p->taking);
  r = next_piece (p, piece);
  if (r == 0 && piece->length > 0) {
    p->taken += piece->length;
    p->pieces++;
  }
  pthread_mutex_unlock (&p->taking);
  return r;
}

static void
finish (struct qed_pieces *p, const struct qed_piece *piece)
{
  pthread_mutex_lock (&p->lock);
  count_done (p, piece->length);
  p->turn = piece->number + 1;
  pthread_cond_broadcast (&p->next_turn);
  pthread_mutex_unlock (&p->lock);
}

bool
qed_piece_turn (struct qed_pieces *p, const struct qed_piece *piece)
{
  bool r;

  pthread_mutex_lock (&p->lock);
  while (p->err == 0 && p->turn != piece->number)
    pthread_cond_wait (&p->next_turn, &p->lock);
  r = p->err == 0;
  pthread_mutex_unlock (&p->lock);
  return r;
}

/* ---- threads ---- */

/* BUF begins a page: the kernel takes three times as long to copy whole pages
 * to any other address.
 */
static void *
piece_thread (void *arg)
{
  struct qed_pieces *p = arg;
  uint8_t *buf = aligned_alloc (4096, p->buffer);
  struct qed_piece piece;

  if (buf == NULL) {
    qed_error (ENOMEM, "%s: %m", p->name);
    fail (p, 0);
    return NULL;
  }
  for (;;) {
    if (take (p, &piece) == -1)
      fail (p, piece.offset);
    else if (piece.length == 0)
      break;
    else if (p->fn (p, &piece, buf) == -1)
      fail (p, piece.offset);
    else
      finish (p, &piece);
  }
  free (buf);
  return NULL;
}

/* The threads that could be started do the work. */
static int
run_threads (struct qed_pieces *p)
{
  pthread_t threads[QED_MAX_PIECE_THREADS];
  unsigned n = 0;
  int err = 0;

  while (n < p->threads && err == 0) {
    err = pthread_create (&threads[n], NULL, piece_thread, p);
    n += err == 0;
  }
  if (n == 0)
    return qed_error (err, "%s: thread: %m", p->name);
  while (n > 0)
    pthread_join (threads[--n], NULL);
  return p->err == 0 || p->err_at >= p->size ? 0 :
    qed_error (p->err, "%s", p->why ? p->why : p->name);
}

int
qed_do_pieces (struct qed_pieces *p)
{
  int r, err;

  p->total = p->size;
  for (unsigned i = 0; i < 2; ++i)
    p->ahead[i].b = p->disks[i];
  pthread_mutex_init (&p->taking, NULL);
  pthread_mutex_init (&p->lock, NULL);
  pthread_cond_init (&p->next_turn, NULL);
  r = run_threads (p);
  err = errno;
  free (p->why);
  pthread_cond_destroy (&p->next_turn);
  pthread_mutex_destroy (&p->lock);
  pthread_mutex_destroy (&p->taking);
  errno = err;
  return r;
}
