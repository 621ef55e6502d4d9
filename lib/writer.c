/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The writable image: claims, NEED_CHECK, flush and commit.
 *
 * An allocating write (allocate.c) goes through these steps.  Each of them may
 * run beside steps of other threads for other clusters:
 *
 *     look whether their tables are sound (I9)
 *     claim the guest clusters     waits for other claims on them (I8)
 *     NEED_CHECK durable           once, until the image is clean again (I6)
 *     look up again, now that no other thread can allocate them
 *     take space                   at the end of the file (I2)
 *     write the data
 *     link                         write the entries, then see them (I4)
 *     give up the claim
 *
 * I3: without a backing file there is no barrier between these steps.  Fresh
 * space reads as zeros, as the unallocated cluster did.  So whatever part of
 * them reaches the disk before a crash, nothing that was durable has changed.
 *
 * In an overlay an unallocated cluster reads as the backing file does, and
 * fresh space doesn't.  So lookups see the new link, but it stays pending
 * (link.c) until a commit:
 *
 *     sync      the clusters that links point to are durable
 *     write the entries
 *     sync      the links are durable
 *
 * A commit writes all links that were pending when it began, and all flushes
 * that need it share it.  It begins with a flush, by itself commit_ms after a
 * link was made, or when too many are pending.  Its second sync may be the
 * first one of the next commit.
 *
 * The link of a zero cluster that becomes data is pending, too.  If its entry
 * were durable and the new length of the file not, a repair would clear the
 * entry, and the backing file would show through.  An unallocated cluster
 * becomes a zero cluster at once, and an L2 table is linked at once.
 *
 * A thread has at most one claim on clusters and, inside that, one on an L1
 * entry.  With a claim on an L1 entry it waits for no other claim.  So waiting
 * for claims ends.
 *
 *     CLEAN --claim--> SETTING --durable--> DIRTY --idle, close--> CLEARING
 *       ^                 |                   ^                       | | |
 *       |                 +----> UNKNOWN <----|-- header failed ------+ | |
 *       |                                     +-- cut or sync failed ---+ |
 *       +------------------------- durable -------------------------------+
 *
 * UNKNOWN goes where DIRTY goes, and where CLEAN goes.  CLEARING ends in DIRTY
 * as well if the image is corrupt, or if clusters of failed requests are still
 * unused inside the file (space.c).
 *
 * CLEARING begins only when no claim is in force, and no claim is granted
 * until it ends.  So no metadata changes between the sync that makes all of it
 * durable and the header that says so.
 *
 * Locking: w->lock guards struct qed_writer (see there) and is held for a few
 * instructions only, never across I/O.  It isn't held together with the lock
 * of the table cache, of space or of syncs.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "error.h"
#include "format.h"
#include "header.h"
#include "image.h"
#include "storage.h"
#include "table.h"
#include "writer.h"

int
qed_check_writable (const struct qed_image *img)
{
  if (img->writer == NULL)
    return qed_error (EROFS, "%s: the image is not open for writing",
                      img->st->name);
  return qed_sync_check (&img->writer->sync);
}

/* ---- flush (I5) ---- */

/* Called with the lock, which it drops meanwhile. */
static void
commit (struct qed_image *img)
{
  struct qed_writer *w = img->writer;

  w->commits_begun++;
  pthread_mutex_unlock (&w->lock);
  qed_table_begin_commit (img->table);
  if (qed_sync_run (&img->writer->sync) == 0) {
    if (qed_table_commit (img->table) == -1)
      qed_writer_fail (img, errno);
    qed_mark_unsynced (img);
  }
  pthread_mutex_lock (&w->lock);
  w->commits_ended++;
  pthread_cond_broadcast (&w->changed);
}

/* Write all links that are pending, not durably: what they point to is. */
static int
commit_all (struct qed_image *img)
{
  struct qed_writer *w = img->writer;
  uint64_t need;

  /* Links made before this call are in the commit that is under way, or in
   * the next one, or were written.
   */
  pthread_mutex_lock (&w->lock);
  need = w->commits_begun + (qed_table_pending (img->table) ? 1 : 0);
  while (w->commits_ended < need && atomic_load (&w->sync.failed) == 0)
    if (w->commits_begun > w->commits_ended)
      pthread_cond_wait (&w->changed, &w->lock);
    else
      commit (img);
  pthread_mutex_unlock (&w->lock);
  return qed_check_writable (img);
}

int
qed_sync_all (struct qed_image *img)
{
  return qed_check_length (img) == -1 || commit_all (img) == -1 ? -1 :
    qed_sync_run (&img->writer->sync);
}

int
qed_link_later (struct qed_image *img, uint64_t cluster, uint64_t n,
                uint64_t offset)
{
  struct qed_writer *w = img->writer;
  bool first;
  int r;

  while ((r = qed_table_link_later (img->table, cluster, n, offset,
                                    &first)) == 1)
    if (commit_all (img) == -1)
      return -1;
  if (first) {
    pthread_mutex_lock (&w->lock);
    pthread_cond_signal (&w->wake);
    pthread_mutex_unlock (&w->lock);
  }
  return r;
}

int
qed_flush (struct qed_image *img)
{
  return qed_check_writable (img) == -1 ? -1 : qed_sync_all (img);
}

/* ---- NEED_CHECK (I6) ---- */

/* Write the header with NEED_CHECK set or not, and make that durable. */
static int
write_need_check (struct qed_image *img, bool set)
{
  struct qed_header h = img->writer->h;

  h.features = (h.features & ~QED_F_NEED_CHECK) | (set ? QED_F_NEED_CHECK : 0);
  if (qed_write_header (img->st, &h) == -1)
    return -1;
  qed_mark_unsynced (img);
  return qed_sync_run (&img->writer->sync);
}

/* CLEAN, UNKNOWN -> DIRTY.  Called with the lock, which it drops meanwhile. */
static int
set_need_check (struct qed_image *img)
{
  struct qed_writer *w = img->writer;
  int r;

  w->need_check = QED_SETTING;
  pthread_mutex_unlock (&w->lock);
  r = write_need_check (img, true);
  pthread_mutex_lock (&w->lock);
  w->need_check = r == 0 ? QED_DIRTY : QED_UNKNOWN;
  pthread_cond_broadcast (&w->changed);
  pthread_cond_signal (&w->wake);
  return r;
}

/* Give back clusters of failed requests by moving what is behind them.  All is
 * durable, and the image isn't used any more, for the tables may move.
 */
static int
give_back (struct qed_image *img)
{
  struct qed_writer *w = img->writer;
  struct qed_header h = w->h;
  struct qed_check_result result;
  uint64_t size = w->space.file_size;

  h.features |= QED_F_NEED_CHECK;
  if (qed_check_tables (img->st, &h, size, NULL, 0, &result) == -1)
    return -1;
  if (result.corruptions > 0) {
    atomic_store (&img->corrupt, true);
    return 0;
  }
  qed_mark_unsynced (img);
  qed_expect_cut (img, 0);
  if (result.leaks > 0 &&
      qed_reclaim (img->st, &h, &size, NULL, NULL) == -1)
    return -1;
  w->h.l1_table_offset = h.l1_table_offset;
  qed_set_space (img, size);
  return 0;
}

/* May the image be marked as clean?  LEFT: there are unused clusters of failed
 * requests.
 */
static bool
may_be_clean (struct qed_image *img, bool left, bool closing)
{
  if (left && closing && !atomic_load (&img->corrupt)) {
    left = give_back (img) == -1;
    if (left && qed_debug)
      qed_debug ("%s: stays marked NEED_CHECK because space that failed "
                 "requests had isn't given back: %s", img->st->name,
                 qed_get_error ());
  }
  if (atomic_load (&img->corrupt)) {
    if (qed_debug)
      qed_debug ("%s: stays marked NEED_CHECK because it is corrupt",
                 img->st->name);
    return false;
  }
  return !left;
}

/* All is durable, the file has its final length, then the header. */
static int
make_clean (struct qed_image *img, bool closing, bool *header_written)
{
  bool left;

  *header_written = false;
  if (qed_space_cut_tail (&img->writer->space, &left) == -1 ||
      qed_sync_all (img) == -1)
    return -1;
  if (!may_be_clean (img, left, closing))
    return 0;
  if (qed_sync_all (img) == -1)
    return -1;
  *header_written = true;
  return write_need_check (img, false);
}

/* DIRTY, UNKNOWN -> CLEAN, if no claim is in force.  CLOSING: the image isn't
 * used any more.  Called with the lock, which it drops meanwhile.
 */
static int
clear_need_check (struct qed_image *img, bool closing)
{
  struct qed_writer *w = img->writer;
  bool header_written;
  int r;

  if (w->need_check == QED_CLEAN || w->claims)
    return 0;
  w->need_check = QED_CLEARING;
  pthread_mutex_unlock (&w->lock);
  r = make_clean (img, closing, &header_written);
  pthread_mutex_lock (&w->lock);
  w->need_check = !header_written ? QED_DIRTY :
    r == 0 ? QED_CLEAN : QED_UNKNOWN;
  pthread_cond_broadcast (&w->changed);
  return r;
}

int
qed_clear_need_check (struct qed_image *img, bool closing)
{
  int r;

  pthread_mutex_lock (&img->writer->lock);
  r = clear_need_check (img, closing);
  pthread_mutex_unlock (&img->writer->lock);
  return r;
}

/* Wait for so many milliseconds, less if the thread is to stop. */
static void
pause_thread (struct qed_writer *w, unsigned ms)
{
  struct timespec until;

  clock_gettime (CLOCK_MONOTONIC, &until);
  until.tv_sec += ms / 1000;
  until.tv_nsec += ms % 1000 * 1000000L;
  if (until.tv_nsec >= 1000000000) {
    until.tv_sec++;
    until.tv_nsec -= 1000000000;
  }
  while (!w->stop &&
         pthread_cond_timedwait (&w->wake, &w->lock, &until) == 0)
    ;
}

/* Has the thread nothing to do until it is woken?  Pending links are written
 * also where the image stays marked.
 */
static bool
nothing_to_do (const struct qed_image *img, const struct qed_writer *w)
{
  if (atomic_load (&w->sync.failed))
    return true;
  return !qed_table_pending (img->table) &&
    (w->need_check == QED_CLEAN || atomic_load (&img->corrupt));
}

/* How often the thread looks, in milliseconds: an allocation then needs no
 * clock.
 */
static unsigned
choose_tick (const struct qed_writer *w)
{
  unsigned tick = w->idle_ms / 5;

  if (tick == 0)
    tick = 1;
  return w->commit_ms > 0 && w->commit_ms < tick ? w->commit_ms : tick;
}

/* Called with the lock, which it drops meanwhile. */
static void
commit_in_background (struct qed_image *img)
{
  struct qed_writer *w = img->writer;

  pthread_mutex_unlock (&w->lock);
  if (qed_sync_all (img) == -1 && qed_debug)
    qed_debug ("%s", qed_get_error ());
  pthread_mutex_lock (&w->lock);
}

/* Commit, and mark an image as clean in which nothing was allocated for
 * idle_ms.
 */
static void *
background_thread (void *arg)
{
  struct qed_image *img = arg;
  struct qed_writer *w = img->writer;
  const unsigned tick = choose_tick (w);
  uint64_t seen = 0;
  unsigned idle = 0;            /* ticks */

  pthread_mutex_lock (&w->lock);
  while (!w->stop) {
    if (nothing_to_do (img, w)) {
      pthread_cond_wait (&w->wake, &w->lock);
      idle = 0;
      continue;
    }
    pause_thread (w, tick);
    if (w->commit_ms > 0 && !w->stop && qed_table_pending (img->table))
      commit_in_background (img);
    idle = seen == w->allocations ? idle + 1 : 0;
    seen = w->allocations;
    if (!w->stop && idle >= w->idle_ms / tick) {
      idle = 0;
      if (!atomic_load (&img->corrupt) &&
          clear_need_check (img, false) == -1 && qed_debug)
        qed_debug ("%s", qed_get_error ());
    }
  }
  pthread_mutex_unlock (&w->lock);
  return NULL;
}

/* ---- claims (I8) ---- */

static bool
is_claimed (const struct qed_writer *w, const struct qed_claim *c)
{
  for (const struct qed_claim *o = w->claims; o; o = o->next)
    if (c->first <= o->last && o->first <= c->last)
      return true;
  return false;
}

static void
remove_claim (struct qed_writer *w, struct qed_claim *c)
{
  struct qed_claim **p = &w->claims;

  while (*p != c)
    p = &(*p)->next;
  *p = c->next;
  pthread_cond_broadcast (&w->changed);
}

/* C is in force now.  NEED_CHECK is set durably unless it is.  Called with the
 * lock, which it drops meanwhile.
 */
static int
add_claim (struct qed_image *img, struct qed_claim *c)
{
  struct qed_writer *w = img->writer;
  int r = 0;

  c->next = w->claims;
  w->claims = c;
  w->allocations++;

  /* While a claim is in force no thread clears it. */
  while (r == 0 && w->need_check != QED_DIRTY)
    if (w->need_check == QED_SETTING)
      pthread_cond_wait (&w->changed, &w->lock);
    else
      r = set_need_check (img);
  if (r == -1)
    remove_claim (w, c);
  return r;
}

/* A claim on everything comes before those that are asked for after it, or it
 * might never be granted.  A thread that has a claim on clusters may need one
 * on an L1 entry to go on.
 */
static bool
must_wait (const struct qed_writer *w, const struct qed_claim *c)
{
  return w->need_check == QED_CLEARING ||
    (w->all_waiting > 0 && c->last != UINT64_MAX &&
     !(c->first & QED_CLAIM_L1));
}

/* WAIT: for other claims. */
static int
claim (struct qed_image *img, struct qed_claim *c, uint64_t first,
       uint64_t last, bool wait)
{
  struct qed_writer *w = img->writer;
  const bool all = last == UINT64_MAX;
  int r = 1;

  c->first = first;
  c->last = last;
  pthread_mutex_lock (&w->lock);
  w->all_waiting += all;
  while (must_wait (w, c) || (wait && is_claimed (w, c)))
    pthread_cond_wait (&w->changed, &w->lock);
  w->all_waiting -= all;
  if (!is_claimed (w, c))
    r = add_claim (img, c);
  pthread_mutex_unlock (&w->lock);
  return r;
}

int
qed_claim (struct qed_image *img, struct qed_claim *c, uint64_t first,
           uint64_t last)
{
  return claim (img, c, first, last, true);
}

int
qed_try_claim (struct qed_image *img, struct qed_claim *c, uint64_t first,
               uint64_t last)
{
  return claim (img, c, first, last, false);
}

void
qed_unclaim (struct qed_image *img, struct qed_claim *c)
{
  struct qed_writer *w = img->writer;

  pthread_mutex_lock (&w->lock);
  remove_claim (w, c);
  pthread_mutex_unlock (&w->lock);
}

/* ---- the writer itself ---- */

struct qed_writer *
qed_writer_new (struct qed_image *img)
{
  struct qed_writer *w = calloc (1, sizeof *w);
  pthread_condattr_t attr;

  if (w == NULL) {
    qed_error (errno, "%s: %m", img->st->name);
    return NULL;
  }
  pthread_mutex_init (&w->lock, NULL);
  pthread_cond_init (&w->changed, NULL);
  pthread_condattr_init (&attr);
  pthread_condattr_setclock (&attr, CLOCK_MONOTONIC);
  pthread_cond_init (&w->wake, &attr);
  pthread_condattr_destroy (&attr);

  qed_sync_init (&w->sync, img->st);
  w->space.st = img->st;
  w->space.table = img->table;
  w->space.sync = &w->sync;
  w->space.data = &img->data;
  w->space.h = &img->h;
  w->space.corrupt = &img->corrupt;
  qed_space_init (&w->space, &img->g);
  return w;
}

void
qed_writer_free (struct qed_writer *w)
{
  while (w->buffers) {
    struct qed_buffer *b = w->buffers;

    w->buffers = b->next;
    free (b);
  }
  qed_space_destroy (&w->space);
  qed_sync_destroy (&w->sync);
  pthread_mutex_destroy (&w->lock);
  pthread_cond_destroy (&w->changed);
  pthread_cond_destroy (&w->wake);
  free (w);
}

/* Signals are for the other threads. */
int
qed_writer_start (struct qed_image *img)
{
  struct qed_writer *w = img->writer;
  sigset_t all, old;
  int err;

  sigfillset (&all);
  pthread_sigmask (SIG_SETMASK, &all, &old);
  err = pthread_create (&w->thread, NULL, background_thread, img);
  pthread_sigmask (SIG_SETMASK, &old, NULL);
  if (err != 0)
    return qed_error (err, "%s: thread: %m", img->st->name);
  w->has_thread = true;
  return 0;
}

void
qed_writer_stop (struct qed_writer *w)
{
  pthread_mutex_lock (&w->lock);
  w->stop = true;
  pthread_cond_signal (&w->wake);
  pthread_mutex_unlock (&w->lock);
  if (w->has_thread)
    pthread_join (w->thread, NULL);
}
