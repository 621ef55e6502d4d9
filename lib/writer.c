/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */


/* The writable image: becoming one, claims, NEED_CHECK, flush, close.
 *
 * An allocating write (write.c) goes through these steps, each of which may
 * run beside others' steps for other clusters:
 *
 *     look whether their tables are sound (I9)
 *     claim the guest clusters     waits for who has a claim on them (I8)
 *     NEED_CHECK durable           once, until the image is clean again (I6)
 *     look up again, now that nobody else can allocate these clusters
 *     take space                   at the end of the file (I2)
 *     write the data
 *     link                         write the entries, then see them (I4)
 *     give up the claim
 *
 * I3: without a backing file there is no barrier between these: fresh space
 * reads as zeros, as the unallocated cluster did, so whatever part of them a
 * crash lets through, nothing that was durable has changed.
 *
 * In an overlay an unallocated cluster reads as the backing file does, which
 * fresh space doesn't.  So its link is only seen, and is pending (table.c)
 * until a commit:
 *
 *     sync      what the links point to is durable
 *     write the entries
 *     sync      the links are
 *
 * A commit has all links that were pending when it began.  It is shared by
 * all flushes that need it, begins by itself commit_ms after a link was made,
 * and when too many are pending.  The second sync may be the first one of the
 * next commit.
 *
 * A zero cluster that becomes data takes the same way: were its entry durable
 * and the new length of the file not, then it would be cleared when the image
 * is repaired, and the backing file be seen.  An unallocated cluster becomes
 * a zero cluster at once, and an L2 table is linked at once.
 *
 * A thread has at most one claim on clusters and, inside that, one on an L1
 * entry; who has one on an L1 entry waits for no other claim, so waiting for
 * claims ends.
 *
 *     CLEAN --claim--> SETTING --durable--> DIRTY --idle, close--> CLEARING
 *       ^                 |                   ^                       | | |
 *       |                 +----> UNKNOWN <----|-- header failed ------+ | |
 *       |                                     +-- cut or sync failed ---+ |
 *       +------------------------- durable -------------------------------+
 *
 * UNKNOWN goes where DIRTY goes, and where CLEAN goes.  CLEARING ends in DIRTY
 * as well if the image is corrupt, or if space that failed requests had isn't
 * given back yet (space.c).
 *
 * CLEARING begins only when nobody has a claim, and lets nobody have one until
 * it ends: so no metadata changes between the sync that makes all of it
 * durable and the header that says so.
 *
 * Locking: w->lock guards struct qed_writer (see there) and is held for
 * a few instructions only, never across I/O.  It isn't held together with the
 * table cache's.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "error.h"
#include "format.h"
#include "image.h"
#include "storage.h"
#include "table.h"
#include "writer.h"

/* ---- failure ---- */

int
qed_check_writable (const struct qed_image *img)
{
  const struct qed_writer *w = img->writer;
  int err;

  if (w == NULL)
    return qed_error (EROFS, "%s: the image is not open for writing",
                      img->st->name);
  err = atomic_load (&w->failed);
  if (err)
    return qed_error (err, "%s", w->why);
  return 0;
}

int
qed_writer_fail (struct qed_image *img, int err)
{
  struct qed_writer *w = img->writer;

  pthread_mutex_lock (&w->lock);
  if (atomic_load (&w->failed) == 0) {
    snprintf (w->why, sizeof w->why, "%s: nothing more is written to the "
              "image since this error: %s", img->st->name, qed_get_error ());
    atomic_store (&w->failed, err);
    pthread_cond_broadcast (&w->changed);
  }
  pthread_mutex_unlock (&w->lock);
  errno = err;
  return -1;
}

/* ---- flush (I5) ---- */

void
qed_mark_unsynced (struct qed_image *img)
{
  atomic_bool *unsynced = &img->writer->unsynced;

  /* It's mostly set already, and then nothing need go to the other CPUs. */
  if (!atomic_load (unsynced))
    atomic_store (unsynced, true);
}

/* Make everything durable whose write has returned, but for links that are
 * pending.  A sync that is under way may have begun too early for that, so it
 * takes one that begins now, or, with all those under way that may be, the next
 * one, which all who wait share.
 */
int
qed_sync_written (struct qed_image *img)
{
  struct qed_writer *w = img->writer;
  uint64_t need;
  int r = 0;

  pthread_mutex_lock (&w->lock);
  need = w->syncs_begun + (atomic_load (&w->unsynced) ? 1 : 0);
  while (r == 0 && w->last_synced < need) {
    if (w->syncs_begun >= need || w->syncing == QED_MAX_SYNCS)
      pthread_cond_wait (&w->changed, &w->lock);
    else {
      uint64_t number = ++w->syncs_begun;

      w->syncing++;
      atomic_store (&w->unsynced, false);
      pthread_mutex_unlock (&w->lock);
      r = qed_storage_sync (img->st);
      if (r == -1)
        qed_writer_fail (img, errno);
      pthread_mutex_lock (&w->lock);
      w->syncing--;
      if (w->last_synced < number)
        w->last_synced = number;
      pthread_cond_broadcast (&w->changed);
    }
  }
  pthread_mutex_unlock (&w->lock);
  return r == -1 ? -1 : qed_check_writable (img);
}

/* Called with the lock, which it drops meanwhile. */
static void
commit (struct qed_image *img)
{
  struct qed_writer *w = img->writer;

  w->commits_begun++;
  pthread_mutex_unlock (&w->lock);
  qed_table_begin_commit (img->table);
  if (qed_sync_written (img) == 0) {
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
  while (w->commits_ended < need && atomic_load (&w->failed) == 0)
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
    qed_sync_written (img);
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
  atomic_store (&img->writer->unsynced, true);
  return qed_sync_written (img);
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

/* Give back space that was undone, by moving what is behind it.  All is
 * durable, and the image isn't used any more, for the tables may move.
 */
static int
give_back (struct qed_image *img)
{
  struct qed_writer *w = img->writer;
  struct qed_header h = w->h;
  struct qed_check_result result;
  uint64_t size = w->file_size;

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

/* May the image be marked as clean?  LEFT: there is space that was undone. */
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
  if (qed_cut_tail (img, &left) == -1 || qed_sync_all (img) == -1)
    return -1;
  if (!may_be_clean (img, left, closing))
    return 0;
  if (qed_sync_all (img) == -1)
    return -1;
  *header_written = true;
  return write_need_check (img, false);
}

/* DIRTY, UNKNOWN -> CLEAN, if nobody is allocating.  CLOSING: nobody will use
 * the image any more.  Called with the lock, which it drops meanwhile.
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
  if (atomic_load (&w->failed))
    return true;
  return !qed_table_pending (img->table) &&
    (w->need_check == QED_CLEAN || atomic_load (&img->corrupt));
}

/* How often the thread looks, in milliseconds, so that who allocates needs no
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

int
qed_claim (struct qed_image *img, struct qed_claim *c, uint64_t first,
           uint64_t last)
{
  struct qed_writer *w = img->writer;
  int r = 0;

  c->first = first;
  c->last = last;
  pthread_mutex_lock (&w->lock);
  while (w->need_check == QED_CLEARING || is_claimed (w, c))
    pthread_cond_wait (&w->changed, &w->lock);
  c->next = w->claims;
  w->claims = c;
  w->allocations++;

  /* With a claim in force nobody clears it. */
  while (r == 0 && w->need_check != QED_DIRTY)
    if (w->need_check == QED_SETTING)
      pthread_cond_wait (&w->changed, &w->lock);
    else
      r = set_need_check (img);
  if (r == -1)
    remove_claim (w, c);
  pthread_mutex_unlock (&w->lock);
  return r;
}

void
qed_unclaim (struct qed_image *img, struct qed_claim *c)
{
  struct qed_writer *w = img->writer;

  pthread_mutex_lock (&w->lock);
  remove_claim (w, c);
  pthread_mutex_unlock (&w->lock);
}

/* ---- open and close ---- */

/* Look at the header again, now that nobody else may change it.  Nobody
 * should have before.
 */
static int
reread_header (struct qed_image *img, struct qed_writer *w)
{
  const struct qed_header *was = &img->h;
  struct qed_header *h = &w->h;
  int64_t size;

  if (qed_read_header (img->st, h, NULL) == -1)
    return -1;
  if (h->cluster_size != was->cluster_size ||
      h->table_size != was->table_size ||
      h->header_size != was->header_size ||
      h->l1_table_offset != was->l1_table_offset ||
      h->image_size != was->image_size ||
      (h->features ^ was->features) & ~QED_F_NEED_CHECK)
    return qed_error (EBUSY, "%s: another process has changed the image's "
                      "header since it was opened: open it again",
                      img->st->name);
  size = qed_storage_size (img->st);
  if (size == -1)
    return -1;
  w->file_size = (uint64_t) size;
  w->end = w->file_size & ~(img->g.cluster_size - 1);
  return 0;
}

/* An image marked NEED_CHECK: nothing is written if that can't be repaired. */
static int
check (struct qed_image *img, struct qed_writer *w, bool allowed,
       struct qed_check_result *result)
{
  uint64_t shared;

  if (!allowed)
    return qed_error (EIO, "%s: header: features 0x%" PRIx64 ": the image is "
                      "marked NEED_CHECK, which means that it was not closed "
                      "cleanly, and check=never forbids to check it: open it "
                      "with check=auto or run qed-img check -r all",
                      img->st->name, w->h.features);
  if (qed_check_tables (img->st, &w->h, w->file_size, NULL, 0, result) == -1)
    return -1;
  shared = result->damages[QED_DAMAGE_SHARED_TABLE] +
    result->damages[QED_DAMAGE_SHARED_DATA];
  if (shared > 0)
    return qed_error (EIO, "%s: %" PRIu64 " entries point to a table or a "
                      "cluster that is referenced twice: the image is corrupt "
                      "and can only be read: run qed-img check -r all",
                      img->st->name, shared);
  return 0;
}

static int
repair (struct qed_image *img, struct qed_writer *w,
        struct qed_check_result *result)
{
  const uint64_t unsound = result->damages[QED_DAMAGE_UNSOUND];
  const uint64_t in_tables = result->damages[QED_DAMAGE_IN_TABLE];
  const unsigned clear = 1U << QED_DAMAGE_UNSOUND | 1U << QED_DAMAGE_IN_TABLE;

  if (qed_debug)
    qed_debug ("%s: was not closed cleanly: clearing %" PRIu64 " entries "
               "out of range and %" PRIu64 " that point into tables, cutting "
               "the file from %" PRIu64 " to %" PRIu64 " bytes",
               img->st->name, unsound, in_tables, w->file_size, result->end);
  if (result->corruptions > 0 &&
      qed_check_tables (img->st, &w->h, w->file_size, NULL, clear,
                        result) == -1)
    return -1;
  /* What lies behind on a block device may not be zeros. */
  if (!img->st->fixed_size) {
    w->end = result->end;
    if (w->file_size > w->end &&
        qed_storage_resize (img->st, w->end) == -1)
      return -1;
    w->file_size = w->end;
  }
  return qed_storage_sync (img->st);
}

/* All that is needed before the first write, in an order in which refusing
 * changes nothing.
 */
static int
prepare (struct qed_image *img, struct qed_writer *w,
         const struct qed_write_options *opts)
{
  struct qed_check_result result;
  bool need_check;

  if (reread_header (img, w) == -1)
    return -1;
  need_check = w->h.features & QED_F_NEED_CHECK;
  if (need_check && check (img, w, !opts->no_check, &result) == -1)
    return -1;

  if (w->h.autoclear_features) {
    w->h.autoclear_features = 0; /* none is known */
    if (qed_write_header (img->st, &w->h) == -1 ||
        qed_storage_sync (img->st) == -1)
      return -1;
  }
  if (need_check && repair (img, w, &result) == -1)
    return -1;
  w->need_check = need_check ? QED_DIRTY : QED_CLEAN;
  w->limit = INT64_MAX; /* of all files: lengths are signed */
  w->checked = need_check && !img->st->fixed_size;
  w->first = w->end;
  /* A header and an L1 table: there are two clusters at least. */
  atomic_store (&w->last_cluster, w->file_size - img->g.cluster_size);
  qed_table_reset (img->table, w->end);
  if (need_check)
    atomic_store (&img->corrupt, false); /* if something was, it's repaired */
  return 0;
}

static struct qed_writer *
new_writer (const char *name)
{
  struct qed_writer *w = calloc (1, sizeof *w);
  pthread_condattr_t attr;

  if (w == NULL) {
    qed_error (errno, "%s: %m", name);
    return NULL;
  }
  pthread_mutex_init (&w->lock, NULL);
  pthread_cond_init (&w->changed, NULL);
  pthread_condattr_init (&attr);
  pthread_condattr_setclock (&attr, CLOCK_MONOTONIC);
  pthread_cond_init (&w->wake, &attr);
  pthread_condattr_destroy (&attr);
  /* Who opened the image before may have left writes to be made durable. */
  atomic_init (&w->unsynced, true);
  return w;
}

static void
free_writer (struct qed_writer *w)
{
  while (w->buffers) {
    struct qed_buffer *b = w->buffers;

    w->buffers = b->next;
    free (b);
  }
  pthread_mutex_destroy (&w->lock);
  pthread_cond_destroy (&w->changed);
  pthread_cond_destroy (&w->wake);
  free (w);
}

/* Signals are for the other threads. */
static int
start_thread (struct qed_image *img)
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

static int
open_writer (struct qed_image *img, const struct qed_write_options *opts)
{
  struct qed_storage *st = img->st;
  struct qed_writer *w = new_writer (st->name);
  int err;

  if (w == NULL)
    return -1;
  if (st->ops->make_writable && st->ops->make_writable (st) == -1) {
    err = errno;
    free_writer (w);
    errno = err;
    return err == EACCES || err == EPERM || err == EROFS ? 1 : -1;
  }
  w->idle_ms = opts->idle_ms;
  w->commit_ms = opts->commit_ms;
  if (prepare (img, w, opts) == -1)
    goto err;
  img->writer = w;
  if (w->idle_ms > 0 && start_thread (img) == -1)
    goto err;
  return 0;

 err:
  err = errno;
  img->writer = NULL;
  free_writer (w);
  if (st->ops->make_readonly)
    st->ops->make_readonly (st);
  errno = err;
  return -1;
}

int
qed_make_writable (struct qed_image *img,
                   const struct qed_write_options *opts)
{
  int r;

  if (img->salvage)
    return qed_error (EROFS, "%s: is open for salvage, so it can only be read",
                      img->st->name);
  pthread_mutex_lock (&img->writer_lock);
  r = img->writer ? 0 : open_writer (img, opts);
  pthread_mutex_unlock (&img->writer_lock);
  return r;
}

int
qed_writer_close (struct qed_image *img)
{
  struct qed_writer *w = img->writer;
  int r, err;

  pthread_mutex_lock (&w->lock);
  w->stop = true;
  pthread_cond_signal (&w->wake);
  pthread_mutex_unlock (&w->lock);
  if (w->has_thread)
    pthread_join (w->thread, NULL);

  if (atomic_load (&w->failed)) {
    (void) qed_storage_sync (img->st); /* for what it may still be good */
    r = qed_check_writable (img);
  }
  else {
    pthread_mutex_lock (&w->lock);
    r = clear_need_check (img, true);
    pthread_mutex_unlock (&w->lock);
    /* Writes in place to a clean image; or what can't be made clean. */
    if (atomic_load (&w->failed) == 0 && qed_sync_all (img) == -1)
      r = -1;
  }
  err = errno;
  img->writer = NULL;
  free_writer (w);
  errno = err;
  return r;
}
