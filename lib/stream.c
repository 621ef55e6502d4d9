/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Streaming: an open overlay becomes complete, and stands alone from then on.
 *
 * A thread goes along the disk, again and again, and copies what is unallocated
 * as copy-on-read does (copier.c), in the order of the disk.  Where the backing
 * file is known to have zeros it makes zero clusters.  What another thread is
 * writing to, and what can't be read, is left to the next pass.
 *
 * A pass that finds nothing unallocated, up to the end of the backing file, is
 * the last one, since mapping only grows (I1).  Then, each step durable before
 * the next one:
 *
 *     commit all links
 *     replace the header by one without a backing file (rebase.c)
 *     drop the backing file
 *
 * After a crash before the header is replaced the image is an overlay, of which
 * streaming copies what is left.  There is no other state.  The image stays an
 * overlay in memory (image.h) until it is closed.
 *
 * An image that is corrupt is never completed: what a repair clears would read
 * as zeros.  So all tables are checked before anything else.
 *
 * The thread makes way for clients: while they make requests it does less at
 * once, and rests in between.  How much is read at once depends on the backing
 * file.  A client's read may have to wait for it, so that is less if it takes
 * less time then.  Where most of the time is a round trip it doesn't.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <time.h>

#include "check.h"
#include "copier.h"
#include "error.h"
#include "offline.h"
#include "storage.h"
#include "writer.h"

/* How much is copied at once, at most: always, and while clients make requests;
 * and how much is known to be zeros, in one go.
 */
#define MAX_CHUNK (UINT64_C (2) << 20)
#define BUSY_CHUNK (UINT64_C (64) << 10)
#define ZERO_CLUSTERS 4096

/* A chunk that takes fewer milliseconds to read is doubled; one that takes more
 * than twice as many is halved.  What has not helped isn't tried again in so
 * many reads.
 */
#define READ_MS 50
#define HOLD_READS 64

/* Copies may take up so much memory, which leaves some to clients. */
#define MAX_BYTES (UINT64_C (8) << 20)

/* Copies are made durable when they are so many bytes, so that a client's flush
 * doesn't have to wait for more.
 */
#define SYNC_BYTES (UINT64_C (64) << 20)

/* Clients make requests until there has been none for so long.  Meanwhile the
 * thread rests so many times as long as it has worked, within these limits.
 */
#define BUSY_MS 20
#define REST_FACTOR 4
#define MIN_REST_MS 1
#define MAX_REST_MS 50

/* Between two passes, while what is left is another thread's. */
#define MIN_PASS_MS 10
#define MAX_PASS_MS 1000

enum change { KEPT, HALVED, DOUBLED };

struct stream {
  struct qed_copier *c;
  struct qed_ahead ahead;       /* of the backing file */
  uint64_t chunk;               /* how much is copied at once */
  enum change change;           /* of that, before the next read */
  uint64_t before_ms;           /* the last read before the change took */
  unsigned hold[3];             /* so many reads before such a change */
  uint64_t read_ms;             /* the last read took */
  uint64_t waited_ms;           /* for reads, since the last rest */
  uint64_t small_until;         /* offset: copy single clusters before */
  uint64_t busy_until;          /* qed_now_ms: clients make requests */
  bool busy;                    /* they do */
  bool worked;                  /* since the last rest */
  uint64_t since;               /* qed_now_ms: began to */
  uint64_t due_ns;              /* of the same clock: the rate allows more */
  uint64_t unsynced;            /* bytes, since the last sync for that */
  bool failed;                  /* something has, in this pass */
  uint64_t done;                /* bytes, for progress */
};

static void
report (struct stream *s, uint64_t done)
{
  const struct qed_copy_options *opts = &s->c->opts;

  if (done <= s->done || s->failed)
    return;
  s->done = done;
  if (opts->progress)
    opts->progress (opts->opaque, done, s->c->end);
}

/* Wait until UNTIL (qed_now_ms) and while copying is paused.  False: stop. */
static bool
rest_until (struct stream *s, uint64_t until)
{
  struct qed_copier *c = s->c;
  bool stop;

  pthread_mutex_lock (&c->lock);
  while (!c->stop && qed_now_ms () < until)
    qed_copier_wait (c, until);
  while (!c->stop && qed_copier_is_paused (c))
    qed_copier_wait (c, c->paused_until);
  stop = c->stop;
  pthread_mutex_unlock (&c->lock);
  return !stop;
}

/* Do clients make requests now, or have they since this was asked last? */
static bool
is_busy (struct qed_copier *c)
{
  return atomic_exchange (&c->busy, false) || atomic_load (&c->requests) > 0;
}

/* After work: make way for clients, and keep to the rate.  False: stop. */
static bool
rest (struct stream *s)
{
  const uint64_t now = qed_now_ms ();
  uint64_t until = s->due_ns / 1000000, ms;

  if (!s->worked)
    return rest_until (s, 0);
  if (is_busy (s->c))
    s->busy_until = now + BUSY_MS;
  s->busy = now < s->busy_until;
  if (s->busy) {
    /* A slow backing file doesn't take what clients need. */
    ms = REST_FACTOR * (now - s->since - s->waited_ms) + s->waited_ms;
    ms = ms < MIN_REST_MS ? MIN_REST_MS : ms > MAX_REST_MS ? MAX_REST_MS : ms;
    if (now + ms > until)
      until = now + ms;
  }
  if (!rest_until (s, until))
    return false;
  s->worked = false;
  s->waited_ms = 0;
  s->since = qed_now_ms ();
  return true;
}

/* COUNT bytes, a few clusters, were read from the backing file. */
static void
charge (struct stream *s, uint64_t count)
{
  const uint64_t now = qed_now_ms () * 1000000;

  if (s->c->opts.rate == 0)
    return;
  if (s->due_ns < now)
    s->due_ns = now;
  s->due_ns += count * 1000000000 / s->c->opts.rate;
}

/* While clients make requests: more if the time goes by in a round trip, when
 * they don't feel it.
 */
static uint64_t
busy_chunk (const struct stream *s)
{
  uint64_t chunk = BUSY_CHUNK;

  while (chunk < MAX_CHUNK / 2 && chunk / BUSY_CHUNK < s->read_ms)
    chunk *= 2;
  return chunk;
}

/* How much to copy at once. */
static uint64_t
choose_chunk (const struct stream *s, uint64_t offset)
{
  const uint64_t rate = s->c->opts.rate;
  uint64_t chunk = s->chunk;

  if (offset < s->small_until)
    return 1;
  if (s->busy && chunk > busy_chunk (s))
    chunk = busy_chunk (s);
  /* At a low rate: several times a second. */
  return rate > 0 && rate / 8 < chunk ? rate / 8 + 1 : chunk;
}

static void
change_chunk (struct stream *s, enum change change, uint64_t ms)
{
  s->chunk = change == HALVED ? s->chunk / 2 : s->chunk * 2;
  s->change = change;
  s->before_ms = ms;
}

/* The chunk was changed, and then one was read in MS.  Was that worth it?  If
 * not it is undone.
 */
static void
judge_change (struct stream *s, uint64_t ms)
{
  const bool halved = s->change == HALVED;

  if (halved ? 4 * ms >= 3 * s->before_ms :
      ms > READ_MS && 2 * ms >= 3 * s->before_ms) {
    s->chunk = halved ? s->chunk * 2 : s->chunk / 2;
    s->hold[s->change] = HOLD_READS;
  }
  s->change = KEPT;
}

/* Is a change of that kind not to be tried yet? */
static bool
is_held (struct stream *s, enum change change)
{
  if (s->hold[change] == 0)
    return false;
  s->hold[change]--;
  return true;
}

/* LENGTH bytes were read in so many milliseconds, maybe fewer than the chunk,
 * since clients made requests or no more was unallocated.
 */
static void
adapt_chunk (struct stream *s, uint64_t length, uint64_t ms)
{
  const bool slow = ms > 2 * READ_MS;

  for (; slow && s->hold[HALVED] == 0 && s->chunk / 2 >= length; s->chunk /= 2)
    s->change = KEPT;
  if (length < s->chunk)
    return;
  if (s->change != KEPT)
    judge_change (s, ms);
  if (slow && s->chunk > s->c->img->g.cluster_size && !is_held (s, HALVED))
    change_chunk (s, HALVED, ms);
  else if (s->chunk < MAX_CHUNK &&
           (ms <= READ_MS / 2 || !is_held (s, DOUBLED)))
    change_chunk (s, DOUBLED, ms);
}

/* Begin a copy.  NULL: there is one already, which has ended now, or it is time
 * to stop.  Called with the lock, which it drops meanwhile.
 */
static struct qed_copy *
begin_copy (struct qed_copier *c, uint64_t count, uint64_t offset)
{
  struct qed_copy *copy = NULL;
  bool other = false;

  while (!c->stop && copy == NULL) {
    if (qed_copy_find (c, offset))
      other = true;
    else if (other)
      break;
    else
      copy = qed_copy_begin (c, count, offset, MAX_BYTES);
    if (copy == NULL)
      qed_copier_wait (c, qed_now_ms () + 100);
  }
  return copy;
}

/* COPY can't be read.  Try its clusters one by one.  Returns as read_copy. */
static uint64_t
read_failed (struct stream *s, const struct qed_copy *copy)
{
  if (copy->length > s->c->img->g.cluster_size) {
    s->small_until = copy->offset + copy->length;
    return 0;
  }
  s->failed = true;
  qed_copier_pause (s->c, "reading the backing file, to copy it,");
  return copy->length;
}

/* Read COPY, and leave it to the thread that keeps it.  Returns how much of its
 * range is done; 0: look again.  Called with the lock, which it drops
 * meanwhile.
 */
static uint64_t
read_copy (struct stream *s, struct qed_copy *copy)
{
  const uint64_t start = qed_now_ms ();
  int r = qed_copy_read (s->c, copy);

  s->read_ms = qed_now_ms () - start;
  s->waited_ms += s->read_ms;
  if (r == -1)
    return read_failed (s, copy);
  adapt_chunk (s, copy->length, s->read_ms);
  return copy->state == QED_COPY_STALE ? 0 : copy->length;
}

/* Wait until all copies have been kept. */
static void
wait_for_keeper (struct qed_copier *c)
{
  pthread_mutex_lock (&c->lock);
  while (!c->stop && c->nr_ready > 0)
    qed_copier_wait (c, QED_NEVER);
  pthread_mutex_unlock (&c->lock);
}

/* Copy the start of an unallocated range.  Returns how much of it is done, or
 * 0: look again.
 */
static uint64_t
copy_data (struct stream *s, uint64_t count, uint64_t offset)
{
  struct qed_copier *c = s->c;
  const uint64_t chunk = choose_chunk (s, offset);
  struct qed_copy *copy;
  bool large = false;
  uint64_t n = 0;

  pthread_mutex_lock (&c->lock);
  copy = begin_copy (c, count < chunk ? count : chunk, offset);
  if (copy) {
    n = read_copy (s, copy);
    large = copy->large;
    qed_copy_release (c, copy);
  }
  pthread_mutex_unlock (&c->lock);
  if (large)                    /* so that a rest comes after the work */
    wait_for_keeper (c);
  charge (s, n);
  return n;
}

/* A step of a pass has failed: pause, and go on behind the cluster. */
static uint64_t
failed (struct stream *s, const char *what)
{
  pthread_mutex_lock (&s->c->lock);
  qed_copier_pause (s->c, what);
  pthread_mutex_unlock (&s->c->lock);
  s->failed = true;
  return s->c->img->g.cluster_size;
}

/* Copy the start of an unallocated range, and make copies durable now and then.
 * Returns as copy_data.
 */
static uint64_t
copy_and_sync (struct stream *s, uint64_t count, uint64_t offset)
{
  uint64_t n = copy_data (s, count, offset);

  s->unsynced += n;
  if (s->unsynced >= SYNC_BYTES) {
    s->unsynced = 0;
    if (qed_sync_all (s->c->img) == -1)
      (void) failed (s, "making copies durable");
  }
  return n;
}

/* COUNT bytes are unallocated.  Returns as copy_data. */
static uint64_t
copy_unallocated (struct stream *s, uint64_t count, uint64_t offset)
{
  const uint64_t in_cluster = s->c->img->g.cluster_size - 1;
  uint64_t zeros, end;

  if (qed_look_ahead (&s->ahead, offset, s->c->end) == -1)
    return failed (s, "looking for data in the backing file");
  zeros = s->ahead.start >= s->c->end ? count :
    (s->ahead.start & ~in_cluster) <= offset ? 0 :
    (s->ahead.start & ~in_cluster) - offset;
  if (zeros > 0) {
    if (zeros > ZERO_CLUSTERS * (in_cluster + 1))
      zeros = ZERO_CLUSTERS * (in_cluster + 1);
    zeros = zeros > count ? count : zeros;
    return qed_keep (s->c->img, NULL, zeros, offset, &s->c->stop) == 0 ?
      zeros : failed (s, "copying from the backing file into the image");
  }
  end = ((s->ahead.end - 1) | in_cluster) + 1;
  return copy_and_sync (s, end - offset < count ? end - offset : count, offset);
}

/* Nothing is allocated beside an entry that may not be followed.  WHY names the
 * image.
 */
static void
say_corrupt (struct qed_copier *c, const char *why)
{
  if (c->opts.say)
    c->opts.say (c->opts.opaque, "streaming has stopped, and the image keeps "
                 "its backing file: %s: run qed-img check -r all", why);
}

enum pass { STOPPED, LEFT, COMPLETE };

/* Go along the disk once.  LEFT: something was unallocated. */
static enum pass
make_pass (struct stream *s)
{
  struct qed_image *img = s->c->img;
  enum pass r = COMPLETE;

  s->ahead = (struct qed_ahead) { .b = img->backing };
  s->failed = false;
  s->small_until = 0;
  for (uint64_t offset = 0, n; offset < s->c->end; offset += n) {
    struct qed_run run;

    if (!rest (s))
      return STOPPED;
    if (qed_map (img, offset, s->c->end - offset, &run) == -1) {
      n = failed (s, "reading the tables");
      r = LEFT;
      continue;
    }
    n = run.length;
    if (run.type == QED_RUN_UNSOUND || atomic_load (&img->corrupt)) {
      if (run.type == QED_RUN_UNSOUND)
        qed_unsound_error (img, offset);
      else
        qed_error (EIO, "%s: the image is corrupt", qed_get_name (img));
      say_corrupt (s->c, qed_get_error ());
      return STOPPED;
    }
    if (run.type == QED_RUN_UNALLOCATED) {
      r = LEFT;
      s->worked = true;
      n = copy_unallocated (s, n, offset);
    }
    if (offset + n < s->c->end)
      report (s, offset + n);
  }
  wait_for_keeper (s->c);
  return r;
}

/* All links are visible, and nothing is unallocated. */
static int
stand_alone (struct qed_image *img)
{
  if (qed_sync_all (img) == -1 ||
      (img->h.features & QED_F_BACKING_FILE &&
       qed_set_backing (img, NULL, false) == -1))
    return -1;
  qed_drop_backing (img);
  return 0;
}

/* Make passes until nothing is left. */
static enum pass
make_passes (struct stream *s)
{
  uint64_t ms = MIN_PASS_MS;
  enum pass r;

  while ((r = make_pass (s)) == LEFT) {
    if (!rest_until (s, qed_now_ms () + ms))
      return STOPPED;
    ms = 2 * ms < MAX_PASS_MS ? 2 * ms : MAX_PASS_MS;
  }
  return r;
}

static void *
stream_thread (void *arg)
{
  struct qed_copier *c = arg;
  struct stream s = {
    .c = c, .chunk = MAX_CHUNK, .since = qed_now_ms (),
  };

  if (make_passes (&s) != COMPLETE)
    return NULL;
  while (stand_alone (c->img) == -1) {
    (void) failed (&s, "making the image stand alone");
    if (!rest_until (&s, 0))
      return NULL;
  }
  atomic_store (&c->streams, false);
  if (c->opts.progress)
    c->opts.progress (c->opts.opaque, c->end, c->end);
  return NULL;
}

/* ---- starting and ending ---- */

/* Can what is read from the backing file, if there is one, be kept? */
static int
check_on_read (struct qed_image *img, const struct qed_copy_options *opts)
{
  if (!opts->on_read || opts->stream || img->backing == NULL ||
      img->g.cluster_size <= QED_MAX_COPY_CLUSTER)
    return 0;
  return qed_error (ENOTSUP, "%s: clusters have %" PRIu32 " bytes, and those "
                    "of more than %" PRIu64 " bytes are too large to be kept "
                    "when they are read: streaming can copy them",
                    qed_get_name (img), img->h.cluster_size,
                    QED_MAX_COPY_CLUSTER);
}

int
qed_copier_check (struct qed_image *img, const struct qed_copy_options *opts)
{
  if (check_on_read (img, opts) == -1)
    return -1;
  if (!opts->stream || !(img->h.features & QED_F_BACKING_FILE))
    return 0;
  if (img->backing == NULL)
    return qed_error (EINVAL, "%s: streaming would let the header name no "
                      "backing file, and the one that it names isn't open: "
                      "leave out backing=none", qed_get_name (img));
  return qed_check_backing_name (img, NULL);
}

/* Is the image corrupt?  Then that is said.  -1: it can't be known. */
static int
find_damage (struct qed_copier *c)
{
  const struct qed_image *img = c->img;
  struct qed_check_result result;
  int64_t size = qed_storage_size (img->st);

  if (size == -1 || qed_check_tables (img->st, &img->h, (uint64_t) size, NULL,
                                      0, &result) == -1)
    return -1;
  if (result.corruptions == 0)
    return 0;
  qed_error (EIO, "%s: %" PRIu64 " entries of its tables are damaged",
             qed_get_name (img), result.corruptions);
  say_corrupt (c, qed_get_error ());
  return 1;
}

/* Signals are for the other threads. */
static int
start_thread (struct qed_copier *c, pthread_t *thread, void *(*fn) (void *))
{
  sigset_t all, old;
  int err;

  sigfillset (&all);
  pthread_sigmask (SIG_SETMASK, &all, &old);
  err = pthread_create (thread, NULL, fn, c);
  pthread_sigmask (SIG_SETMASK, &old, NULL);
  return err == 0 ? 0 : qed_error (err, "%s: thread: %m",
                                   qed_get_name (c->img));
}

struct qed_copier *
qed_copier_start (struct qed_image *img, const struct qed_copy_options *opts)
{
  struct qed_copier *c = qed_copier_new (img, opts);
  const bool streams = opts->stream && img->backing;
  int damaged;

  if (c == NULL)
    return NULL;
  damaged = streams ? find_damage (c) : 0;
  if (damaged == -1 ||
      start_thread (c, &c->keeper, qed_keeper_thread) == -1) {
    qed_copier_free (c);
    return NULL;
  }
  c->has_streamer = opts->stream && damaged == 0;
  atomic_store (&c->streams, c->has_streamer);
  if (c->has_streamer && start_thread (c, &c->streamer, stream_thread) == -1) {
    c->has_streamer = false;
    qed_copier_stop (c);
    return NULL;
  }
  return c;
}

void
qed_copier_stop (struct qed_copier *c)
{
  int err = errno;

  if (c == NULL)
    return;
  pthread_mutex_lock (&c->lock);
  c->stop = true;
  pthread_cond_broadcast (&c->changed);
  pthread_mutex_unlock (&c->lock);
  qed_interrupt (c->img);
  if (c->has_streamer)
    pthread_join (c->streamer, NULL);
  pthread_join (c->keeper, NULL);
  qed_copier_free (c);
  errno = err;
}
