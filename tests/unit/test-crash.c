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


/* Power failures: workloads on an image whose file is recorded, then the
 * states of the file that a crash leaves (recorder.h), each of which has to
 * be what I3, I5 and I6 promise:
 *
 *   - Unless NEED_CHECK is set no entry is unsound and no cluster is used
 *     twice: at most there are leaks (I6).
 *   - It opens, also for writing, by which it is repaired if NEED_CHECK was
 *     set.
 *   - Each sector of the disk has content that it may have (I3, I5; see
 *     struct guest_op): what a flush or FUA covered, or what was written
 *     later, and never what belongs elsewhere: content tells its place and
 *     the operation that wrote it.
 *   - Further writing works and reads back, and closing leaves the image
 *     clean, sound and cut to its last used cluster.
 *
 * The workloads are all short sequences of operations, and random ones: long,
 * with a write that fails half-way, parallel, and with pauses in which the
 * image is marked as clean.  Of their states some are looked at: of all tests
 * together about as many as QED_CRASH_STATES in the environment says.
 *
 * The tests of lies show that the breach of each of these invariants is
 * noticed.
 */

#include <config.h>

#include <pthread.h>

#include "model.h"
#include "recorder.h"

/* The disk: the smallest geometry; what is written lies about the border
 * between its first two L2 tables, of which each maps 512 clusters.  The
 * last clusters are for writing after the crash.
 */
#define CLUSTER UINT64_C (4096)
#define BORDER UINT64_C (512)
#define FIRST (BORDER - 4)
#define WORK_CLUSTERS 8
#define WINDOW (FIRST * CLUSTER)
#define RECOVERY (WINDOW + WORK_CLUSTERS * CLUSTER)
#define DISK_SIZE (RECOVERY + 2 * CLUSTER - 3 * QED_SECTOR_SIZE)
#define WINDOW_BYTES (DISK_SIZE - WINDOW)
#define SECTORS (WINDOW_BYTES / QED_SECTOR_SIZE)

#define MAX_OPS 64

/* A guest's operation and what it left in the sectors that it touched.  After
 * a crash a sector has what one of its operations left that had begun before
 * the crash, or the initial content, unless it had ended before another one
 * began that is durable by the crash: because it had FUA and had ended, or
 * because it had ended before a flush began that had ended.
 */
struct guest_op {
  size_t begin, end;            /* marks in the log; end SIZE_MAX: never */
  bool fua, flush;
  bool weak;                    /* what was there before may stay: it was a
                                   trim, or failed */
  unsigned sector, sectors;     /* of the window */
  uint8_t *content;             /* of these sectors */
};

struct session {
  struct mem_file *f;
  struct recorder *r;
  struct qed_image *img;
  uint64_t seed;
  unsigned idle_ms;
  bool parallel;                /* whole sectors only */
  unsigned fail_at;             /* this pwrite is cut short, the next fails */
  unsigned pwrites;
  uint8_t initial[WINDOW_BYTES];
  uint8_t now[WINDOW_BYTES];    /* not if parallel */

  pthread_mutex_t lock;         /* for what follows */
  struct guest_op ops[MAX_OPS];
  size_t n;
};

static const char * __attribute__ ((format (printf, 1, 2)))
violation (const char *fmt, ...)
{
  static char why[300];
  va_list args;

  va_start (args, fmt);
  vsnprintf (why, sizeof why, fmt, args);
  va_end (args);
  return why;
}

/* ---- images to begin with ---- */

enum { EMPTY, FILLED, DIRTY_EMPTY, DIRTY_FILLED, NR_IMAGES };

/* Clusters that nothing refers to, with content. */
static void
add_leak (struct model *m)
{
  model_pattern (m, model_append (m, 3), 3 * CLUSTER);
}

/* Filled: a table with all kinds of entries, no second table, and (if it's
 * clean) a part of a cluster after the last one.  Dirty: as a crash leaves it,
 * with leaks at the end and an entry that points after the end of the file.
 */
static void
make_image (struct mem_file *f, int kind, uint8_t window[WINDOW_BYTES])
{
  struct model m;

  model_create (&m, f, CLUSTER, 1, DISK_SIZE);
  if (kind == FILLED || kind == DIRTY_FILLED) {
    model_data (&m, FIRST);
    model_set (&m, FIRST + 1, 1);
    model_data (&m, FIRST + 2);
  }
  if (kind == DIRTY_EMPTY || kind == DIRTY_FILLED)
    add_leak (&m);
  if (kind == FILLED)
    model_pattern (&m, mem_size (f), 1000);
  CHECK (model_open (&m, f));
  CHECK_EQ (model_pread (&m, window, WINDOW_BYTES, WINDOW), 0);

  if (kind == DIRTY_FILLED)
    model_set (&m, FIRST + 3, mem_size (f) + CLUSTER);
  if (kind == DIRTY_EMPTY)
    model_set_l1 (&m, 1, mem_size (f) + CLUSTER);
  if (kind == DIRTY_EMPTY || kind == DIRTY_FILLED) {
    m.h.features |= QED_F_NEED_CHECK;
    model_write_header (&m);
  }
}

/* ---- recording a workload ---- */

static void
open_session_image (struct session *s)
{
  const struct qed_write_options opts = { .idle_ms = s->idle_ms };

  s->img = qed_open (recorder_open (s->r), QED_MIN_CACHE_SIZE);
  CHECK (s->img != NULL);
  CHECK_EQ (qed_make_writable (s->img, &opts), 0);
}

/* Cut short at the end of a sector: each is still old or new.  And not the
 * header: without that closing has to fail too.
 */
static ssize_t
fail_write (void *opaque, enum mem_op op, uint64_t offset, size_t count)
{
  struct session *s = opaque;
  uint64_t half = (offset + count / 2) / QED_SECTOR_SIZE * QED_SECTOR_SIZE;

  if (op == MEM_PWRITE && offset > 0 && s->fail_at) {
    s->pwrites++;
    if (s->pwrites == s->fail_at && half > offset)
      return (ssize_t) (half - offset);
    if (s->pwrites == s->fail_at + 1) {
      errno = ENOSPC;
      return -1;
    }
  }
  return (ssize_t) count;
}

static struct session *
new_session (int image, enum recorder_lie lie, unsigned idle_ms,
             bool parallel, uint64_t seed)
{
  /* Let something happen while the image is being marked as clean. */
  const struct mem_faults slow = { .delay_us = 100 };
  struct session *s = calloc (1, sizeof *s);

  CHECK (s != NULL);
  CHECK (pthread_mutex_init (&s->lock, NULL) == 0);
  s->seed = seed;
  s->idle_ms = idle_ms;
  s->parallel = parallel;
  s->f = mem_file_new ();
  make_image (s->f, image, s->initial);
  mem_set_hook (s->f, fail_write, s);
  mem_set_faults (s->f, parallel && idle_ms > 0 ? &slow : NULL);
  memcpy (s->now, s->initial, WINDOW_BYTES);
  s->r = recorder_new (s->f, lie);
  open_session_image (s);
  return s;
}

static void
free_session (struct session *s)
{
  for (size_t i = 0; i < s->n; i++)
    free (s->ops[i].content);
  recorder_free (s->r);
  mem_file_free (s->f);
  pthread_mutex_destroy (&s->lock);
  free (s);
}

/* The bytes of operation OP at OFFSET in the window. */
static void
fill (uint8_t *buf, uint64_t offset, uint64_t length, size_t op)
{
  for (uint64_t i = 0; i < length; i++) {
    uint64_t word = (uint64_t) (op + 1) << 40 | (WINDOW + offset + i) / 8;

    buf[i] = (uint8_t) (word >> (offset + i) % 8 * 8);
  }
}

/* Begin an operation that puts zeros or its own bytes into a range of the
 * window.
 */
static struct guest_op *
begin_op (struct session *s, uint64_t offset, uint64_t length, bool zeros)
{
  struct guest_op *op;
  uint64_t skip = offset % QED_SECTOR_SIZE;
  size_t bytes;

  pthread_mutex_lock (&s->lock);
  CHECK_OP (s->n, <, MAX_OPS);
  op = &s->ops[s->n++];
  op->begin = recorder_mark (s->r);
  op->end = SIZE_MAX;
  op->sector = offset / QED_SECTOR_SIZE;
  op->sectors = (skip + length + QED_SECTOR_SIZE - 1) / QED_SECTOR_SIZE;
  bytes = (size_t) op->sectors * QED_SECTOR_SIZE;
  op->content = malloc (bytes + 1);
  CHECK (op->content != NULL);
  memcpy (op->content, s->now + (offset - skip), bytes);
  if (zeros)
    memset (op->content + skip, 0, length);
  else
    fill (op->content + skip, offset, length, s->n - 1);
  pthread_mutex_unlock (&s->lock);
  return op;
}

/* What the image reads now is what the operation has left. */
static void
read_back (struct session *s, struct guest_op *op, bool failed)
{
  uint8_t *now = s->now + op->sector * QED_SECTOR_SIZE;
  size_t bytes = (size_t) op->sectors * QED_SECTOR_SIZE;
  uint8_t after[WINDOW_BYTES];

  CHECK_EQ (qed_pread (s->img, after, bytes,
                       WINDOW + op->sector * QED_SECTOR_SIZE), 0);
  for (size_t i = 0; i < bytes; i++)
    if (after[i] != op->content[i])
      CHECK (op->weak && after[i] == now[i]);
  memcpy (now, after, bytes);
  if (!failed)
    memcpy (op->content, after, bytes);
}

static void
end_op (struct session *s, struct guest_op *op, int r)
{
  if (r == -1) {
    CHECK (s->fail_at && errno == ENOSPC);
    op->weak = true;
  }
  if (!s->parallel)
    read_back (s, op, r == -1);
  pthread_mutex_lock (&s->lock);
  op->end = recorder_mark (s->r);
  pthread_mutex_unlock (&s->lock);
}

/* A range near guest cluster HOME: whole clusters, or of any alignment. */
static void
random_range (const struct session *s, struct rng *rng, uint64_t home,
              bool whole, uint64_t *offset, uint64_t *length)
{
  uint64_t end = WORK_CLUSTERS * CLUSTER;

  *offset = (home - FIRST + rng_below (rng, 3)) * CLUSTER;
  if (whole)
    *length = (1 + rng_below (rng, 2)) * CLUSTER;
  else {
    *offset += rng_below (rng, CLUSTER);
    *length = 1 + rng_below (rng, rng_below (rng, 2) ? CLUSTER : 700);
  }
  if (s->parallel) {
    *offset = *offset / QED_SECTOR_SIZE * QED_SECTOR_SIZE;
    *length = (*length / QED_SECTOR_SIZE + 1) * QED_SECTOR_SIZE;
  }
  if (*offset >= end)
    *offset = end - CLUSTER;
  if (*length > end - *offset)
    *length = end - *offset;
}

/* Write, zero or trim: see do_op. */
static void
change (struct session *s, char kind, struct rng *rng, uint64_t home)
{
  bool whole = kind == 'w' || (kind != 's' && rng_below (rng, 2));
  struct guest_op *op;
  uint64_t offset, length;
  unsigned flags;
  int r;

  random_range (s, rng, home, whole, &offset, &length);
  op = begin_op (s, offset, length, kind == 'z' || kind == 't');
  op->fua = kind == 'f' || (op - s->ops > 2 && rng_below (rng, 6) == 0);
  flags = op->fua ? QED_FUA : 0;
  op->weak = kind == 't';
  switch (kind) {
  case 'z':
    if (rng_below (rng, 2))
      flags |= QED_MAY_TRIM;
    r = qed_zero (s->img, length, WINDOW + offset, flags);
    break;
  case 't':
    r = qed_trim (s->img, length, WINDOW + offset, flags);
    break;
  default:
    r = qed_pwrite (s->img, op->content + offset % QED_SECTOR_SIZE, length,
                    WINDOW + offset, flags);
  }
  end_op (s, op, r);
}

/* One operation:
 *   w  write of whole clusters     s  write that is no whole cluster
 *   f  write with FUA              z  zero, with and without MAY_TRIM
 *   t  trim                        F  flush
 *   c  close, and open again       p  pause: marked as clean when idle
 */
static void
do_op (struct session *s, char kind, struct rng *rng, uint64_t home)
{
  struct guest_op *op;

  if (kind == 'p')
    usleep (2000 * s->idle_ms);
  else if (kind == 'F' || kind == 'c') {
    op = begin_op (s, 0, 0, false);
    op->flush = true;
    CHECK_EQ (kind == 'F' ? qed_flush (s->img) : qed_close (s->img), 0);
    pthread_mutex_lock (&s->lock);
    op->end = recorder_mark (s->r);
    pthread_mutex_unlock (&s->lock);
    if (kind == 'c')
      open_session_image (s);
  }
  else
    change (s, kind, rng, home);
}

static void
do_sequence (struct session *s, const char *ops, uint64_t home)
{
  struct rng rng = { s->seed };

  CONTEXT ("operations %s, at cluster %" PRIu64 ", seed %" PRIu64
           ", failing write %u", ops, home, s->seed, s->fail_at);
  for (; *ops; ops++)
    do_op (s, *ops, &rng, home);
  recorder_mark (s->r);
  CHECK_EQ (qed_close (s->img), 0);
}

/* All operations in OPS, then close. */
static struct session *
run_sequence (const char *ops, int image, uint64_t home, uint64_t seed,
              enum recorder_lie lie)
{
  struct session *s = new_session (image, lie, 0, false, seed);

  do_sequence (s, ops, home);
  return s;
}

/* ---- judging a state ---- */

/* Of the flushes that ended before the cut, when the last one began. */
static size_t
last_flush (const struct session *s, size_t cut)
{
  size_t r = 0;

  for (size_t i = 0; i < s->n; i++)
    if (s->ops[i].flush && s->ops[i].end < cut && s->ops[i].begin > r)
      r = s->ops[i].begin;
  return r;
}

/* May SECTOR of the window be DATA after a crash at CUT? */
static bool
allowed (const struct session *s, size_t cut, unsigned sector,
         const uint8_t *data)
{
  size_t flushed = last_flush (s, cut), since = 0;

  /* What had ended by then is overwritten for good. */
  for (size_t i = 0; i < s->n; i++) {
    const struct guest_op *op = &s->ops[i];

    if (sector - op->sector < op->sectors && !op->weak && op->begin > since &&
        (op->end < flushed || (op->fua && op->end < cut)))
      since = op->begin;
  }

  for (size_t i = 0; i < s->n; i++) {
    const struct guest_op *op = &s->ops[i];

    if (sector - op->sector < op->sectors && op->begin < cut &&
        op->end >= since &&
        memcmp (op->content + (sector - op->sector) * QED_SECTOR_SIZE, data,
                QED_SECTOR_SIZE) == 0)
      return true;
  }
  return since == 0 && memcmp (s->initial + sector * QED_SECTOR_SIZE, data,
                               QED_SECTOR_SIZE) == 0;
}

static const char *
check_content (const struct session *s, size_t cut, const uint8_t *window)
{
  for (unsigned i = 0; i < SECTORS; i++) {
    const uint8_t *p = window + i * QED_SECTOR_SIZE;
    uint64_t word = 0;

    if (allowed (s, cut, i, p))
      continue;
    for (int j = 7; j >= 0; j--)
      word = word << 8 | p[j];
    return violation ("content: sector %u (at %#" PRIx64 ") begins %#" PRIx64,
                      i, WINDOW + i * QED_SECTOR_SIZE, word);
  }
  return NULL;
}

/* Write into what is and what isn't allocated. */
static const char *
write_more (struct qed_image *img, struct rng *rng, uint8_t *window)
{
  static const uint64_t lengths[] = { 300, CLUSTER, 2 * CLUSTER };
  uint64_t offset = RECOVERY - WINDOW + 700, length = 3000;
  uint8_t after[WINDOW_BYTES];

  for (size_t i = 0; i < 4; i++) {
    fill (window + offset, offset, length, MAX_OPS + i);
    if (qed_pwrite (img, window + offset, length, WINDOW + offset,
                    i == 1 ? QED_FUA : 0) == -1)
      return violation ("write after recovery: %s", qed_get_error ());
    length = lengths[i % 3];
    offset = rng_below (rng, WINDOW_BYTES - length);
  }
  memset (window + offset, 0, length);
  if (qed_zero (img, length, WINDOW + offset, 0) == -1)
    return violation ("zero after recovery: %s", qed_get_error ());
  if (qed_pread (img, after, WINDOW_BYTES, WINDOW) == -1 ||
      memcmp (after, window, WINDOW_BYTES) != 0)
    return "content: not what was written after recovery";
  return NULL;
}

static const char *
check_open (const struct session *s, size_t cut, struct qed_image *img,
            struct rng *rng, uint8_t *window)
{
  const struct qed_write_options opts = { .idle_ms = 0 };
  const char *why;

  if (qed_make_writable (img, &opts) != 0)
    return violation ("make_writable: %s", qed_get_error ());
  if (qed_pread (img, window, WINDOW_BYTES, WINDOW) == -1)
    return violation ("read: %s", qed_get_error ());
  why = check_content (s, cut, window);
  return why ? why : write_more (img, rng, window);
}

/* Is F what a crash at CUT may leave?  If not: a description. */
static const char *
check_state (const struct session *s, size_t cut, struct mem_file *f,
             struct rng *rng)
{
  uint8_t window[WINDOW_BYTES], after[WINDOW_BYTES];
  struct qed_storage *st;
  struct qed_image *img;
  struct model m;
  struct audit a;
  const char *why;

  if (!audit_image (f, &a))
    return "not a valid image";
  if (!a.need_check && (a.unsound || a.duplicate))
    return violation ("clean, but %u entries are unsound, %u clusters "
                      "duplicate", a.unsound, a.duplicate);
  if (cut == recorder_length (s->r) && audit_closed (f, true))
    return audit_closed (f, true);
  if (a.first < FIRST)
    return violation ("cluster %" PRIu64 " was never written", a.first);

  st = mem_open (f);
  img = qed_open (st, QED_MIN_CACHE_SIZE);
  if (img == NULL) {
    qed_storage_close (st);
    return violation ("open: %s", qed_get_error ());
  }
  why = check_open (s, cut, img, rng, window);
  if (qed_close (img) == -1 && !why)
    why = violation ("close: %s", qed_get_error ());
  if (!why)
    why = audit_closed (f, s->fail_at > 0);
  if (why)
    return why;
  return model_open (&m, f) &&
    model_pread (&m, after, WINDOW_BYTES, WINDOW) == 0 &&
    memcmp (window, after, WINDOW_BYTES) == 0 ? NULL :
    "content: another after closing";
}

/* ---- all states of a workload ---- */

static uint64_t states_checked;

/* How many states each of some tests is to look at. */
static uint64_t
states_wanted (unsigned percent)
{
  const char *s = getenv ("QED_CRASH_STATES");
  uint64_t n = s ? strtoull (s, NULL, 0) :
    getenv ("NBDKIT_VALGRIND") ? 300 : 20000;

  return n * percent / 100 + 1;
}

static void
report_states (void)
{
  printf ("  %" PRIu64 " states\n", states_checked);
  states_checked = 0;
}

#define MAX_SEEN 4096

/* Look at one state, unless it was seen before. */
static const char *
check_cut (const struct session *s, size_t cut, enum recorder_keep keep,
           struct rng *rng, uint64_t *seen, size_t *n_seen)
{
  struct mem_file *f = mem_file_new ();
  uint64_t hash = recorder_rebuild (s->r, cut, keep, rng, f);
  const char *why = NULL;
  size_t i = 0;

  while (i < *n_seen && seen[i] != hash)
    i++;
  if (i == *n_seen) {
    if (i < MAX_SEEN)
      seen[(*n_seen)++] = hash;
    why = check_state (s, cut, f, rng);
    states_checked++;
  }
  mem_file_free (f);
  return why;
}

/* Look at about MAX states of a workload.  NULL, or what is wrong with the
 * one at *BAD.
 */
static const char *
check_states (const struct session *s, uint64_t max, size_t *bad)
{
  static const enum recorder_keep keeps[] = {
    KEEP_NOTHING, KEEP_ALL, KEEP_SOME, KEEP_SOME, KEEP_SOME, KEEP_SOME,
  };
  const size_t n_keeps = sizeof keeps / sizeof keeps[0];
  struct rng rng = { s->seed }, choice = { ~s->seed };
  static uint64_t seen[MAX_SEEN];
  size_t n_seen = 0, cuts = 0;

  for (size_t cut = 0; cut <= recorder_length (s->r); cut++)
    cuts += !recorder_same_as_next (s->r, cut);
  for (size_t cut = 0; cut <= recorder_length (s->r); cut++)
    for (size_t i = 0;
         i < n_keeps && !recorder_same_as_next (s->r, cut); i++) {
      const char *why;

      if (rng_below (&choice, cuts * n_keeps) >= max)
        continue;
      why = check_cut (s, cut, keeps[i], &rng, seen, &n_seen);
      if (why) {
        *bad = cut;
        return why;
      }
    }
  return NULL;
}

/* Check and free. */
static void
all_states_are_good (struct session *s, uint64_t max)
{
  size_t cut;
  const char *why = check_states (s, max, &cut);

  if (why) {
    recorder_print (s->r, cut, stderr);
    harness_fail (__FILE__, __LINE__, "crash at %zu: %s", cut, why);
  }
  free_session (s);
}

/* ---- tests ---- */

static const char kinds[] = "wsfztFc";
#define NR_KINDS (sizeof kinds - 1)
#define NR_SEQUENCES (NR_KINDS + NR_KINDS * NR_KINDS +                  \
                      NR_KINDS * NR_KINDS * NR_KINDS)

/* Sequence number I of 1 to 3 operations. */
static void
sequence (size_t i, char ops[4])
{
  size_t length = i < NR_KINDS ? 1 : i < NR_KINDS + NR_KINDS * NR_KINDS ? 2 :
    3;

  i -= length == 1 ? 0 : length == 2 ? NR_KINDS :
    NR_KINDS + NR_KINDS * NR_KINDS;
  ops[length] = '\0';
  for (; length > 0; i /= NR_KINDS)
    ops[--length] = kinds[i % NR_KINDS];
}

/* All sequences of up to 3 operations, on all images, in a table that is
 * there (if the image is filled) and in one that isn't.
 */
static void
test_all_sequences (void)
{
  uint64_t max = states_wanted (50) / (NR_SEQUENCES * NR_IMAGES * 2) + 1;
  char ops[4];

  for (size_t i = 0; i < NR_SEQUENCES; i++)
    for (int image = 0; image < NR_IMAGES; image++)
      for (uint64_t home = FIRST; home <= BORDER; home += BORDER - FIRST) {
        sequence (i, ops);
        all_states_are_good (run_sequence (ops, image, home, i, LIE_NONE),
                             max);
      }
  report_states ();
}

/* Longer ones, also across the border of the tables, some with pauses; with
 * FAILURES a write fails when a part of it was written.
 */
static void
random_sequences (uint64_t wanted, bool failures)
{
  char ops[40];

  for (uint64_t seed = 0; states_checked < wanted; seed++) {
    struct rng rng = { seed };
    unsigned idle_ms = seed % 4 == 0 && !failures;
    size_t length = 4 + rng_below (&rng, sizeof ops - 4);
    struct session *s = new_session ((int) (seed / 4 % NR_IMAGES), LIE_NONE,
                                     idle_ms, false, seed);

    for (size_t i = 0; i < length; i++)
      ops[i] = "wwwsssfzztFcp"[rng_below (&rng, 12 + idle_ms)];
    ops[length] = '\0';
    if (failures)
      s->fail_at = 1 + (unsigned) rng_below (&rng, 12);
    do_sequence (s, ops, FIRST + rng_below (&rng, 6));
    all_states_are_good (s, 100);
  }
  report_states ();
}

static void
test_random_sequences (void)
{
  random_sequences (states_wanted (15), false);
}

static void
test_failed_writes (void)
{
  random_sequences (states_wanted (10), true);
}

#define THREADS 4

struct thread {
  pthread_t id;
  struct session *s;
  uint64_t seed;
};

static void *
guest (void *arg)
{
  struct thread *t = arg;
  struct rng rng = { t->seed };
  unsigned n = 2 + rng_below (&rng, 8);

  CONTEXT ("parallel, seed %" PRIu64, t->seed);
  while (n-- > 0) {
    if (t->s->idle_ms)
      usleep (rng_below (&rng, 3000 * t->s->idle_ms));
    do_op (t->s, "wwssfztF"[rng_below (&rng, 8)], &rng,
           BORDER - 2 + rng_below (&rng, 3));
  }
  return NULL;
}

static void
parallel (uint64_t wanted, unsigned idle_ms, uint64_t max)
{
  for (uint64_t seed = 0; states_checked < wanted; seed++) {
    struct session *s = new_session ((int) (seed % NR_IMAGES), LIE_NONE,
                                     idle_ms, true, seed);
    struct thread threads[THREADS];

    CONTEXT ("parallel, seed %" PRIu64, seed);
    for (unsigned i = 0; i < THREADS; i++) {
      threads[i] = (struct thread) { .s = s, .seed = seed * THREADS + i };
      CHECK (pthread_create (&threads[i].id, NULL, guest, &threads[i]) == 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
      CHECK (pthread_join (threads[i].id, NULL) == 0);
    recorder_mark (s->r);
    CHECK_EQ (qed_close (s->img), 0);
    all_states_are_good (s, max);
  }
  report_states ();
}

static void
test_parallel (void)
{
  parallel (states_wanted (15), 0, 100);
}

/* With pauses in which the image is marked as clean. */
static void
test_parallel_idle (void)
{
  parallel (states_wanted (10), 1, 30);
}

/* With a storage that lies the check says so, in words that begin with WORDS,
 * for some sequence of at most 2 operations.
 */
static void
is_noticed (enum recorder_lie lie, const char *words)
{
  bool noticed = false;
  size_t cut;
  char ops[4];

  for (size_t i = 0; i < NR_KINDS + NR_KINDS * NR_KINDS && !noticed; i++)
    for (int image = 0; image < NR_IMAGES && !noticed; image++) {
      struct session *s;
      const char *why;

      sequence (i, ops);
      s = run_sequence (ops, image, FIRST, i, lie);
      why = check_states (s, UINT64_MAX, &cut);
      noticed = why && strncmp (why, words, strlen (words)) == 0;
      if (noticed)
        printf ("  after %s, crash at %zu: %s\n", ops, cut, why);
      free_session (s);
    }
  CHECK (noticed);
  states_checked = 0;
}

static void
test_lie_sync (void)
{
  is_noticed (LIE_SYNC, "content:");
}

static void
test_lie_late_entries (void)
{
  is_noticed (LIE_LATE_ENTRIES, "content:");
}

static void
test_lie_stale_space (void)
{
  is_noticed (LIE_STALE_SPACE, "content:");
}

static void
test_lie_dirty_unsynced (void)
{
  is_noticed (LIE_DIRTY_UNSYNCED, "clean, but");
}

static void
test_lie_clean_early (void)
{
  is_noticed (LIE_CLEAN_EARLY, "clean, but");
}

HARNESS_MAIN (
  TEST (test_all_sequences),
  TEST (test_random_sequences),
  TEST (test_failed_writes),
  TEST (test_parallel),
  TEST (test_parallel_idle),
  TEST (test_lie_sync),
  TEST (test_lie_late_entries),
  TEST (test_lie_stale_space),
  TEST (test_lie_dirty_unsynced),
  TEST (test_lie_clean_early),
)
