/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Copying from the backing file into an open overlay: copy-on-read.
 *
 * A read of unallocated clusters reads all of them from the backing file, into
 * a copy (struct qed_copy), is answered from there, and leaves the copy to a
 * thread that keeps it in the image (keep.c).  So a read never waits for a
 * write or a sync, nor does it see one fail.
 *
 *     READING ---> READY ---> kept, gone
 *        |           |
 *        +-> FAILED -+--> gone
 *
 * While a copy is under way other reads of its clusters wait until it is READY,
 * and are answered from it: a cluster is read once (I8).  That is right
 * whatever clients write meanwhile.  A read looks into the tables first, and
 * only what was unallocated then is taken from a copy.  So a write that isn't
 * seen was not complete when the read began.
 *
 * Copies take up a bounded amount of memory.  A read that finds it in use reads
 * what it needs, and nothing is kept.  Only where keeping is about as fast as
 * memory, so that it has fallen behind for want of a CPU, a read waits a moment
 * first.  Clusters that are too large to be in memory can't be kept when they
 * are read: streaming copies them in parts.
 *
 * Copies that are READY are kept in the order of the disk, from where the last
 * one ended.  So parallel reads leave an image with few fragments.
 *
 * When keeping a copy fails, nothing is copied for a while.  When reading one
 * does, those clusters aren't copied for a while; if several do, nothing is.
 * That is said once, until it has worked for a longer while.  The read itself
 * is made again without a copy: only what its client asked for may fail it.
 *
 * Locking: c->lock guards the copies and is held for a few instructions and
 * malloc, never across I/O or a message.  The image's locks aren't taken under
 * it.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "copier.h"
#include "error.h"
#include "writer.h"

/* No copy is larger than this, in bytes, unless it is one cluster.  All of them
 * take up so much memory.
 */
#define MAX_COPY (UINT64_C (2) << 20)
#define MAX_BYTES (UINT64_C (32) << 20)

/* A read waits for memory if keeping a MiB takes no more microseconds, lately.
 * How long, at most; and if there was none, no read does for so long.
 */
#define MAX_PACE_US 8000
#define MAX_PACE 100000000
#define MAX_ROOM_MS 100
#define NO_ROOM_MS 10000

/* If so many copies in turn can't be read, none can. */
#define MAX_READ_FAILURES 3

/* Pauses become longer, up to this.  When copying has worked for so many times
 * as long as a first pause the next failure is a new one.
 */
#define MAX_PAUSE_MS 60000
#define QUIET_FACTOR 20

static uint64_t
now_us (void)
{
  struct timespec ts;

  clock_gettime (CLOCK_MONOTONIC, &ts);
  return (uint64_t) ts.tv_sec * 1000000 + (uint64_t) ts.tv_nsec / 1000;
}

uint64_t
qed_now_ms (void)
{
  return now_us () / 1000;
}

static struct timespec
time_at (uint64_t ms)
{
  return (struct timespec) {
    .tv_sec = (time_t) (ms / 1000), .tv_nsec = (long) (ms % 1000) * 1000000L,
  };
}

void
qed_copier_wait (struct qed_copier *c, uint64_t until)
{
  const struct timespec ts = time_at (until);

  if (until == QED_NEVER)
    pthread_cond_wait (&c->changed, &c->lock);
  else
    pthread_cond_timedwait (&c->changed, &c->lock, &ts);
}

/* ---- failures ---- */

bool
qed_copier_is_paused (const struct qed_copier *c)
{
  return c->failing && qed_now_ms () < c->paused_until;
}

/* Say that WHAT has failed, unless that was said.  Drops the lock meanwhile. */
static void
say_failed (struct qed_copier *c, const char *what)
{
  const char *name = qed_get_name (c->img);
  const bool first = !c->failing;

  c->failing = true;
  c->failed_at = qed_now_ms ();
  pthread_mutex_unlock (&c->lock);
  if (first && c->opts.say)
    c->opts.say (c->opts.opaque, "%s: %s has failed: it is tried again after a "
                 "while, and no request fails because of this: %s", name, what,
                 qed_get_error ());
  else if (qed_debug)
    qed_debug ("%s: %s has failed again: %s", name, what, qed_get_error ());
  pthread_mutex_lock (&c->lock);
}

/* Nothing can be written any more: say so.  Called as say_failed. */
static void
end_copying (struct qed_copier *c)
{
  c->failing = true;
  c->paused_until = QED_NEVER;
  pthread_mutex_unlock (&c->lock);
  if (qed_check_writable (c->img) == -1 && c->opts.say)
    c->opts.say (c->opts.opaque, "copying from the backing file has ended: %s",
                 qed_get_error ());
  pthread_mutex_lock (&c->lock);
}

void
qed_copier_pause (struct qed_copier *c, const char *what)
{
  const uint64_t now = qed_now_ms ();

  if (c->stop || (c->failing && now < c->paused_until))
    return;
  if (atomic_load (&c->img->writer->sync.failed)) {
    end_copying (c);
    return;
  }
  c->paused_until = now + c->pause_ms;
  c->pause_ms = c->pause_ms < MAX_PAUSE_MS / 2 ? 2 * c->pause_ms :
    MAX_PAUSE_MS;
  say_failed (c, what);
}

void
qed_copier_succeed (struct qed_copier *c)
{
  const uint64_t since = c->failed_at > c->paused_until ? c->failed_at :
    c->paused_until;

  if (c->failing && since != QED_NEVER && qed_now_ms () > since +
      QUIET_FACTOR * (uint64_t) c->opts.retry_ms) {
    c->failing = false;
    c->pause_ms = c->opts.retry_ms;
  }
}

/* ---- copies ---- */

struct qed_copy *
qed_copy_find (const struct qed_copier *c, uint64_t offset)
{
  for (unsigned i = 0; i < c->nr_ranges; ++i)
    if (offset - c->ranges[i].offset < c->ranges[i].length)
      return c->ranges[i].copy;
  return NULL;
}

/* Where the first copy that begins behind OFFSET does so, or END. */
static uint64_t
next_copy (const struct qed_copier *c, uint64_t offset, uint64_t end)
{
  for (unsigned i = 0; i < c->nr_ranges; ++i)
    if (c->ranges[i].offset > offset && c->ranges[i].offset < end)
      end = c->ranges[i].offset;
  return end;
}

/* Cut a range to one copy: from the start of the cluster at *OFFSET.  Returns
 * the length.
 */
static uint64_t
cut_copy (const struct qed_copier *c, uint64_t count, uint64_t *offset)
{
  const uint64_t size = c->img->g.cluster_size, disk = c->img->g.image_size;
  const uint64_t max = MAX_COPY < size ? size : MAX_COPY;
  uint64_t end = ((*offset + count - 1) | (size - 1)) + 1;

  *offset &= ~(size - 1);
  if (end - *offset > max)
    end = *offset + max;
  if (end > disk)
    end = disk;
  return next_copy (c, *offset, end) - *offset;
}

struct qed_copy *
qed_copy_begin (struct qed_copier *c, uint64_t count, uint64_t offset,
                uint64_t max)
{
  const uint64_t length = cut_copy (c, count, &offset);
  const bool large = c->img->g.cluster_size > QED_MAX_COPY_CLUSTER;
  const uint64_t bytes = large ? 0 : length;
  struct qed_copy *copy;

  if ((c->bytes > 0 && c->bytes + bytes > max) ||
      c->nr_copies == QED_MAX_COPIES)
    return NULL;
  copy = malloc (sizeof *copy + bytes);
  if (copy == NULL)
    return NULL;
  *copy = (struct qed_copy) {
    .offset = offset, .length = length, .state = QED_COPY_READING, .users = 1,
    .large = large,
  };
  c->ranges[c->nr_ranges++] = (struct qed_copy_range) {
    .offset = offset, .length = length, .copy = copy,
  };
  c->bytes += bytes;
  c->nr_copies++;
  return copy;
}

/* COPY isn't under way any more. */
static void
remove_copy (struct qed_copier *c, const struct qed_copy *copy)
{
  unsigned i = 0;

  while (c->ranges[i].copy != copy)
    i++;
  c->ranges[i] = c->ranges[--c->nr_ranges];
}

void
qed_copy_release (struct qed_copier *c, struct qed_copy *copy)
{
  if (--copy->users > 0)
    return;
  if (!copy->large)
    c->bytes -= copy->length;
  c->nr_copies--;
  free (copy);
  pthread_cond_signal (&c->room);
  pthread_cond_broadcast (&c->changed);
}

/* -1: that failed; 1: since the tables were looked into another copy was kept,
 * or the backing file dropped.
 */
static int
read_backing (struct qed_image *img, struct qed_copy *copy)
{
  struct qed_run run;
  int r;

  if (qed_map (img, copy->offset, copy->length, &run) == -1)
    return -1;
  if (run.type != QED_RUN_UNALLOCATED || run.length < copy->length)
    return 1;
  if (copy->large)
    return 0;
  if (qed_enter_backing (img) == NULL)
    return 1;
  r = qed_pread_backing (img, copy->bytes, copy->length, copy->offset);
  qed_leave_backing (img);
  /* If it was being dropped that has read zeros. */
  return r == 0 && img->backing == NULL ? 1 : r;
}

int
qed_copy_read (struct qed_copier *c, struct qed_copy *copy)
{
  int r, err;

  pthread_mutex_unlock (&c->lock);
  r = read_backing (c->img, copy);
  err = errno;
  pthread_mutex_lock (&c->lock);
  if (r == 0) {
    c->read_failures = 0;
    copy->state = QED_COPY_READY;
    copy->users++;              /* the thread that keeps it */
    c->nr_ready++;
  }
  else {
    copy->state = r == 1 ? QED_COPY_STALE : QED_COPY_FAILED;
    remove_copy (c, copy);
  }
  pthread_cond_broadcast (&c->changed);
  errno = err;
  return r == -1 ? -1 : 0;
}

/* ---- the thread that keeps ---- */

/* The copy to be kept next, or NULL: the first one that is READY from where the
 * last one ended, or from the start of the disk.
 */
static struct qed_copy *
find_ready (const struct qed_copier *c)
{
  struct qed_copy *best = NULL;

  for (unsigned i = 0; i < c->nr_ranges; ++i) {
    const struct qed_copy_range *r = &c->ranges[i];

    if ((best == NULL || r->offset - c->kept < best->offset - c->kept) &&
        r->copy->state == QED_COPY_READY)
      best = r->copy;
  }
  return best;
}

/* COPY, which is READY, has been kept, or is given up. */
static void
end_copy (struct qed_copier *c, struct qed_copy *copy)
{
  c->nr_ready--;
  remove_copy (c, copy);
  qed_copy_release (c, copy);
}

static void
end_ready_copies (struct qed_copier *c)
{
  struct qed_copy *copy;

  while ((copy = find_ready (c)))
    end_copy (c, copy);
}

static int
keep (struct qed_copier *c, const struct qed_copy *copy)
{
  return copy->large ? qed_keep_copy (c->img, copy->offset) :
    qed_keep (c->img, copy->bytes, copy->length, copy->offset, &c->stop);
}

/* So many bytes were kept in so many microseconds. */
static void
note_pace (struct qed_copier *c, uint64_t bytes, uint64_t us)
{
  uint64_t pace = (us << 20) / bytes;

  if (pace > MAX_PACE)
    pace = MAX_PACE;
  c->pace = (unsigned) ((7 * c->pace + pace) / 8);
}

/* Keep one of them.  Called with the lock, which it drops meanwhile. */
static void
keep_next (struct qed_copier *c)
{
  struct qed_copy *copy = find_ready (c);
  uint64_t start;
  int r;

  pthread_mutex_unlock (&c->lock);
  start = now_us ();
  r = keep (c, copy);
  pthread_mutex_lock (&c->lock);
  note_pace (c, copy->length, now_us () - start);
  c->kept = copy->offset + copy->length;
  end_copy (c, copy);
  if (r == 0)
    qed_copier_succeed (c);
  else {
    qed_copier_pause (c, "copying from the backing file into the image");
    end_ready_copies (c);
  }
}

void *
qed_keeper_thread (void *arg)
{
  struct qed_copier *c = arg;

  pthread_mutex_lock (&c->lock);
  while (!c->stop)
    if (c->nr_ready > 0)
      keep_next (c);
    else
      pthread_cond_wait (&c->changed, &c->lock);
  pthread_mutex_unlock (&c->lock);
  return NULL;
}

/* ---- copy-on-read ---- */

/* Is a copy at OFFSET known not to be readable? */
static bool
is_bad (const struct qed_copier *c, uint64_t offset)
{
  const uint64_t now = qed_now_ms ();

  for (unsigned i = 0; i < QED_MAX_BAD; ++i)
    if (offset - c->bad[i].offset < c->bad[i].length && now < c->bad[i].until)
      return true;
  return false;
}

/* COPY can't be read, and qed_get_error says why.  Drops the lock meanwhile. */
static void
note_bad (struct qed_copier *c, const struct qed_copy *copy)
{
  const char *what = "reading whole clusters from the backing file";

  c->bad[c->next_bad] = (struct qed_bad_range) {
    .offset = copy->offset, .length = copy->length,
    .until = qed_now_ms () + MAX_PAUSE_MS,
  };
  c->next_bad = (c->next_bad + 1) % QED_MAX_BAD;
  if (++c->read_failures >= MAX_READ_FAILURES)
    qed_copier_pause (c, what);
  else if (!c->stop && !qed_copier_is_paused (c))
    say_failed (c, what);
}

/* Wait for memory until UNTIL (qed_now_ms).  False: there was none in time. */
static bool
wait_for_room (struct qed_copier *c, uint64_t until)
{
  const struct timespec ts = time_at (until);
  const uint64_t now = qed_now_ms ();

  if (c->pace > MAX_PACE_US || now < c->no_room_until)
    return false;
  if (now >= until) {
    c->no_room_until = now + NO_ROOM_MS;
    return false;
  }
  pthread_cond_timedwait (&c->room, &c->lock, &ts);
  return true;
}

/* A copy of the start of an unallocated range, to be read by this thread if it
 * is *NEW; or NULL.  Called with the lock, which it drops meanwhile.
 */
static struct qed_copy *
find_or_begin (struct qed_copier *c, uint64_t count, uint64_t offset, bool *new)
{
  const uint64_t until = qed_now_ms () + MAX_ROOM_MS;
  struct qed_copy *copy = qed_copy_find (c, offset);

  *new = false;
  while (copy == NULL && !qed_copier_is_paused (c) && !is_bad (c, offset)) {
    copy = qed_copy_begin (c, count, offset, MAX_BYTES);
    *new = copy != NULL;
    if (copy || !wait_for_room (c, until))
      break;
    copy = qed_copy_find (c, offset);
  }
  if (copy && !*new)
    copy->users++;
  /* One thread is woken for each copy that has gone, which may leave room for
   * several.
   */
  if (c->bytes < MAX_BYTES && c->nr_copies < QED_MAX_COPIES)
    pthread_cond_signal (&c->room);
  return copy;
}

/* The same, read now or by another thread. */
static struct qed_copy *
get_copy (struct qed_copier *c, uint64_t count, uint64_t offset)
{
  bool new;
  struct qed_copy *copy = find_or_begin (c, count, offset, &new);

  if (copy && new && qed_copy_read (c, copy) == -1)
    note_bad (c, copy);
  return copy;
}

/* How many of COUNT bytes does COPY have at OFFSET? */
static uint64_t
length_in_copy (const struct qed_copy *copy, uint64_t count, uint64_t offset)
{
  const uint64_t n = copy->offset + copy->length - offset;

  return n < count ? n : count;
}

/* Read the start of COUNT bytes from COPY, which this thread gives up.  Returns
 * as read_some.
 */
static ssize_t
use_copy (struct qed_copier *c, struct qed_copy *copy, void *buf,
          uint64_t count, uint64_t offset)
{
  const enum qed_copy_state state = copy->state;

  count = length_in_copy (copy, count, offset);
  if (state == QED_COPY_READY)
    memcpy (buf, copy->bytes + (offset - copy->offset), count);
  pthread_mutex_lock (&c->lock);
  qed_copy_release (c, copy);
  pthread_mutex_unlock (&c->lock);
  if (state == QED_COPY_STALE)
    return 0;
  return state == QED_COPY_FAILED &&
    qed_pread (c->img, buf, count, offset) == -1 ? -1 : (ssize_t) count;
}

/* The start of an unallocated range that the backing file has.  Returns the
 * bytes that were read; 0: look again.
 */
static ssize_t
read_some (struct qed_copier *c, void *buf, uint64_t count, uint64_t offset)
{
  struct qed_copy *copy;

  pthread_mutex_lock (&c->lock);
  copy = get_copy (c, count, offset);
  while (copy && copy->state == QED_COPY_READING)
    pthread_cond_wait (&c->changed, &c->lock);
  pthread_mutex_unlock (&c->lock);
  return copy ? use_copy (c, copy, buf, count, offset) :
    qed_pread (c->img, buf, count, offset) == -1 ? -1 : (ssize_t) count;
}

int
qed_copier_pread (struct qed_copier *c, void *buf, size_t count,
                  uint64_t offset)
{
  if (!c->opts.on_read || c->img->g.cluster_size > QED_MAX_COPY_CLUSTER ||
      qed_check_range (c->img, offset, count) == -1)
    return qed_pread (c->img, buf, count, offset);

  while (count > 0) {
    struct qed_run run;
    ssize_t n;

    if (qed_map (c->img, offset, count, &run) == -1)
      return -1;
    if (run.type != QED_RUN_UNALLOCATED || offset >= c->end)
      n = qed_pread (c->img, buf, run.length, offset) == -1 ? -1 :
        (ssize_t) run.length;
    else
      n = read_some (c, buf, run.length < c->end - offset ? run.length :
                     c->end - offset, offset);
    if (n == -1)
      return -1;
    buf = (char *) buf + n;
    count -= (size_t) n;
    offset += (uint64_t) n;
  }
  return 0;
}

/* ---- starting and ending ---- */

struct qed_copier *
qed_copier_new (struct qed_image *img, const struct qed_copy_options *opts)
{
  struct qed_copier *c = calloc (1, sizeof *c);
  const struct qed_backing *b = img->backing;
  pthread_condattr_t attr;

  if (c == NULL) {
    qed_error (errno, "%s: %m", qed_get_name (img));
    return NULL;
  }
  c->img = img;
  c->opts = *opts;
  c->pause_ms = opts->retry_ms;
  if (b && b->size > 0)
    c->end = ((b->size - 1) | (img->g.cluster_size - 1)) + 1;
  if (c->end > img->g.image_size)
    c->end = img->g.image_size;
  pthread_mutex_init (&c->lock, NULL);
  pthread_condattr_init (&attr);
  pthread_condattr_setclock (&attr, CLOCK_MONOTONIC);
  pthread_cond_init (&c->changed, &attr);
  pthread_cond_init (&c->room, &attr);
  pthread_condattr_destroy (&attr);
  return c;
}

void
qed_copier_free (struct qed_copier *c)
{
  end_ready_copies (c);
  pthread_cond_destroy (&c->room);
  pthread_cond_destroy (&c->changed);
  pthread_mutex_destroy (&c->lock);
  free (c);
}

void
qed_copier_begin_request (struct qed_copier *c)
{
  if (atomic_load (&c->streams))
    atomic_fetch_add (&c->requests, 1);
}

void
qed_copier_end_request (struct qed_copier *c)
{
  if (atomic_load (&c->streams)) {
    atomic_store (&c->busy, true);
    atomic_fetch_sub (&c->requests, 1);
  }
}
