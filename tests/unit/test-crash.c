/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* A power failure at any moment leaves an image that I3, I5 and I6 allow.  The
 * test records workloads on an image, with and without a backing file
 * (backing-files.h), and looks at the states of the file that a crash leaves
 * (recorder.h).  In each of them:
 *
 *   - Unless NEED_CHECK is set no entry is unsound and no cluster is used
 *     twice: there are leaks at most (I6).
 *   - The image opens for reading and for writing.  Opening it for writing
 *     repairs it if NEED_CHECK was set.
 *   - Each sector of the disk has content that it may have (I3, I5; see
 *     struct guest_op): the content that a flush or FUA covered, or a later
 *     write; the backing file's content if it was never written, even if
 *     other sectors of its cluster were; and never another sector's content.
 *     Content identifies its offset and the operation that wrote it.
 *   - Further writes work and read back, and closing leaves the image clean,
 *     sound and cut to its last used cluster.
 *   - The backing file has not been written (I10).
 *
 * The workloads are all short sequences of operations, and random ones: long,
 * with a write that fails half-way, parallel, and with pauses in which the
 * image is marked as clean and links are committed, or with more links than
 * the cache has room for.  The tests look at a part of the states, in all
 * about twice as many as QED_CRASH_STATES in the environment says.
 *
 * In a device, which has old content behind the image, the same holds, but that
 * it isn't cut.
 *
 * The tests of lies show that the breach of each of these invariants is
 * noticed.
 */

#include <config.h>

#include <pthread.h>

#include "backing-files.h"
#include "model.h"
#include "recorder.h"

/* The disk has the smallest geometry and more tables than the cache holds.
 * Workloads write around the border between its last two L2 tables, each of
 * which maps 512 clusters.  The last clusters are for writes after the crash.
 */
#define CLUSTER UINT64_C (4096)
#define TABLES UINT64_C (20)
#define BORDER (512 * (TABLES - 1))
#define FIRST (BORDER - 4)
#define WORK_CLUSTERS 8
#define WINDOW (FIRST * CLUSTER)
#define RECOVERY (WINDOW + WORK_CLUSTERS * CLUSTER)
#define DISK_SIZE (RECOVERY + 2 * CLUSTER - 3 * QED_SECTOR_SIZE)
#define WINDOW_BYTES (DISK_SIZE - WINDOW)
#define SECTORS (WINDOW_BYTES / QED_SECTOR_SIZE)

/* The length of short raw backing files. */
#define SHORT_SIZE (WINDOW + 5 * CLUSTER + 3 * QED_SECTOR_SIZE + 300)

/* The clusters of a device behind the image: enough for all workloads. */
#define DEVICE_CLUSTERS 160

#define MAX_OPS 64

/* A guest's operation and the content that it left in its sectors.
 *
 * An operation is durable at the crash if it had FUA and had ended, or if it
 * had ended before a flush began and that flush had ended.  After the crash a
 * sector has its initial content, or that of an operation which had begun
 * before the crash.  But once a durable operation on the sector has begun, the
 * content of all operations that had ended before that is gone.
 */
struct guest_op {
  size_t begin, end;            /* marks in the log; end SIZE_MAX: never */
  bool fua, flush;
  bool weak;                    /* what was there before may stay: it was a
                                   trim, or failed */
  unsigned sector, sectors;     /* of the window */
  uint8_t *content;             /* of these sectors */
};

/* The image isn't marked as clean in a pause, but links are committed. */
#define NEVER_IDLE 1000000
#define PAUSE_US 2000

/* What a workload is to run on. */
struct setup {
  int image;                    /* to begin with */
  enum backing_kind backing;
  enum recorder_lie lie;
  unsigned idle_ms, commit_ms;  /* see NEVER_IDLE */
  bool parallel;                /* whole sectors only */
  bool device;                  /* see mem_make_device */
  bool no_holes;                /* it can't make any: zeros are written */
  uint64_t seed;
};

struct session {
  struct setup setup;
  struct mem_file *f;
  struct backing *backing;
  struct recorder *r;
  struct qed_image *img;
  unsigned fail_at;             /* this pwrite is cut short, the next fails */
  unsigned pwrites;
  _Atomic uint64_t pressed;
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

/* A filled image has one table, with entries of all kinds, and if it is clean
 * a partial cluster at its end.  A dirty image is as a crash leaves it, with
 * leaks at its end and an entry that points past the end of the file, or of the
 * device that has BEHIND bytes more.
 */
static void
make_image (struct mem_file *f, int kind, const struct backing *backing,
            uint64_t behind, uint8_t window[WINDOW_BYTES])
{
  struct model m;

  model_create (&m, f, CLUSTER, 1, DISK_SIZE);
  backing_name (backing, &m);
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
  m.backing = backing_model (backing);
  CHECK_EQ (model_pread (&m, window, WINDOW_BYTES, WINDOW), 0);

  if (kind == DIRTY_FILLED)
    model_set (&m, FIRST + 3, mem_size (f) + behind + CLUSTER);
  if (kind == DIRTY_EMPTY)
    model_set_l1 (&m, TABLES - 1, mem_size (f) + behind + CLUSTER);
  if (kind == DIRTY_EMPTY || kind == DIRTY_FILLED) {
    m.h.features |= QED_F_NEED_CHECK;
    model_write_header (&m);
  }
}

/* The backing files: made once, because nothing changes them. */
static struct backing backings[NR_BACKING];

static void
make_backings (void)
{
  for (int i = 0; i < NR_BACKING; i++) {
    backing_init (&backings[i], (enum backing_kind) i, DISK_SIZE, SHORT_SIZE);
    backing_fill (&backings[i], WINDOW, UINT64_MAX);
  }
}

static void
free_backings (void)
{
  for (int i = 0; i < NR_BACKING; i++) {
    backing_check (&backings[i]);
    backing_free (&backings[i]);
  }
}

/* ---- recording a workload ---- */

static void
open_session_image (struct session *s)
{
  const struct qed_write_options opts = {
    .idle_ms = s->setup.idle_ms, .commit_ms = s->setup.commit_ms,
  };

  s->img = qed_open_overlay (recorder_open (s->r), backing_open (s->backing),
                             QED_MIN_CACHE_SIZE);
  CHECK (s->img != NULL);
  CHECK_EQ (qed_make_writable (s->img, &opts), 0);
}

/* If an overlay's L2 entries can't be written, closing must fail too. */
static bool
is_commit (const struct session *s, uint64_t offset)
{
  const struct model m = { .file = s->f, .h.l1_table_offset = CLUSTER };

  for (uint64_t i = TABLES - 2; i < TABLES; i++)
    if (s->setup.backing != BACKING_NONE &&
        offset - model_get_l1 (&m, i) < CLUSTER)
      return true;
  return false;
}

/* The write is cut short at the end of a sector, so that each sector is old or
 * new.  It is not the header's: without that, closing must fail.
 */
static ssize_t
fail_write (void *opaque, enum mem_op op, uint64_t offset, size_t count)
{
  struct session *s = opaque;
  uint64_t half = (offset + count / 2) / QED_SECTOR_SIZE * QED_SECTOR_SIZE;

  if (op == MEM_PWRITE && offset > 0 && s->fail_at && !is_commit (s, offset)) {
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
new_session (const struct setup *setup)
{
  /* Do something while the image is being marked as clean. */
  const struct mem_faults faults = {
    .delay_us = setup->parallel && setup->idle_ms ? 100 : 0,
    .no_punch = setup->no_holes, .no_zero = setup->no_holes,
    .no_holes = setup->device && setup->seed % 2,
  };
  const uint64_t behind = setup->device ? DEVICE_CLUSTERS * CLUSTER : 0;
  struct session *s = calloc (1, sizeof *s);

  CHECK (s != NULL);
  CHECK (pthread_mutex_init (&s->lock, NULL) == 0);
  s->setup = *setup;
  s->backing = &backings[setup->backing];
  s->f = mem_file_new ();
  make_image (s->f, setup->image, s->backing, behind, s->initial);
  if (behind > 0) {
    mem_truncate (s->f, (mem_size (s->f) + CLUSTER - 1) / CLUSTER * CLUSTER);
    mem_make_device (s->f, behind);
  }
  mem_set_hook (s->f, fail_write, s);
  mem_set_faults (s->f, &faults);
  memcpy (s->now, s->initial, WINDOW_BYTES);
  s->r = recorder_new (s->f, setup->lie);
  open_session_image (s);
  return s;
}

static void
free_session (struct session *s)
{
  for (size_t i = 0; i < s->n; i++)
    free (s->ops[i].content);
  backing_check (s->backing);
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

/* The image now reads as the content that the operation has left. */
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
  if (!s->setup.parallel)
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
  if (s->setup.parallel) {
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

/* Make more links than may be pending, elsewhere. */
static void
press (struct session *s)
{
  uint64_t cluster = s->pressed++;

  for (uint64_t table = 0; table < TABLES - 2; table++)
    CHECK_EQ (qed_pwrite (s->img, "press", 5,
                          (table * 512 + cluster) * CLUSTER, 0), 0);
}

/* One operation:
 *   w  write of whole clusters     s  write that is no whole cluster
 *   f  write with FUA              z  zero, with and without MAY_TRIM
 *   t  trim                        F  flush
 *   c  close, and open again       p  pause: marked as clean when idle,
 *   P  press                          links are committed
 */
static void
do_op (struct session *s, char kind, struct rng *rng, uint64_t home)
{
  struct guest_op *op;

  if (kind == 'P')
    press (s);
  else if (kind == 'p')
    usleep (PAUSE_US);
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
  struct rng rng = { s->setup.seed };

  CONTEXT ("operations %s, at cluster %" PRIu64 ", image %d on %d, seed %"
           PRIu64 ", failing write %u", ops, home, s->setup.image,
           s->setup.backing, s->setup.seed, s->fail_at);
  for (; *ops; ops++)
    do_op (s, *ops, &rng, home);
  recorder_mark (s->r);
  CHECK_EQ (qed_close (s->img), 0);
}

/* All operations in OPS, then close. */
static struct session *
run_sequence (const char *ops, uint64_t home, const struct setup *setup)
{
  struct session *s = new_session (setup);

  do_sequence (s, ops, home);
  return s;
}

/* ---- judging a state ---- */

/* The begin of the last flush that ended before the cut. */
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

  /* Since the last durable operation: older ones are overwritten for good. */
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

/* Write to allocated and to unallocated clusters. */
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

/* Check that F is a state that a crash at CUT may leave.  Returns NULL or a
 * description of what is wrong.
 */
static const char *
check_state (const struct session *s, size_t cut, struct mem_file *f,
             struct rng *rng)
{
  uint8_t window[WINDOW_BYTES], after[WINDOW_BYTES];
  struct qed_storage *st;
  struct qed_backing *backing;
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
  if (a.first < FIRST && !s->pressed)
    return violation ("cluster %" PRIu64 " was never written", a.first);

  st = mem_open (f);
  backing = backing_open (s->backing);
  img = qed_open_overlay (st, backing, QED_MIN_CACHE_SIZE);
  if (img == NULL) {
    qed_storage_close (st);
    qed_backing_close (backing);
    return violation ("open: %s", qed_get_error ());
  }
  why = check_open (s, cut, img, rng, window);
  if (qed_close (img) == -1 && !why)
    why = violation ("close: %s", qed_get_error ());
  if (!why)
    why = audit_closed (f, s->fail_at > 0);
  if (why)
    return why;
  CHECK (model_open (&m, f));
  m.backing = backing_model (s->backing);
  return model_pread (&m, after, WINDOW_BYTES, WINDOW) == 0 &&
    memcmp (window, after, WINDOW_BYTES) == 0 ? NULL :
    "content: another after closing";
}

/* ---- all states of a workload ---- */

static uint64_t states_checked;

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

/* Look at about MAX states of a workload.  Returns NULL, or what is wrong with
 * the state whose cut *BAD gets.
 */
static const char *
check_states (const struct session *s, uint64_t max, size_t *bad)
{
  static const enum recorder_keep keeps[] = {
    KEEP_NOTHING, KEEP_ALL, KEEP_SOME, KEEP_SOME, KEEP_SOME, KEEP_SOME,
  };
  const size_t n_keeps = sizeof keeps / sizeof keeps[0];
  struct rng rng = { s->setup.seed }, choice = { ~s->setup.seed };
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

/* The backing files of a test's images. */
#define NO_OVERLAY BACKING_NONE, BACKING_NONE
#define OVERLAY BACKING_LOST, BACKING_CHAIN

/* All sequences of up to 3 operations, on all images, in a table that exists
 * (if the image is filled) and in one that doesn't.  If they have more states
 * than are wanted, some of the sequences.
 */
static void
all_sequences (uint64_t wanted, bool device, enum backing_kind first,
               enum backing_kind last)
{
  uint64_t sessions = NR_SEQUENCES * NR_IMAGES * 2 * (last - first + 1);
  uint64_t max = wanted / sessions + 1;
  struct setup setup = { .backing = first, .device = device };
  struct rng rng = { 0 };
  char ops[4];

  make_backings ();
  for (; setup.backing <= last; setup.backing++)
    for (setup.seed = 0; setup.seed < NR_SEQUENCES; setup.seed++)
      for (setup.image = 0; setup.image < NR_IMAGES; setup.image++)
        for (uint64_t home = FIRST; home <= BORDER; home += BORDER - FIRST) {
          if (rng_below (&rng, sessions) >= wanted)
            continue;
          setup.no_holes = device && setup.seed % 4 == 1;
          sequence (setup.seed, ops);
          all_states_are_good (run_sequence (ops, home, &setup), max);
        }
  free_backings ();
  report_states ();
}

static void
test_all_sequences (void)
{
  all_sequences (recorder_states_wanted (50), false, NO_OVERLAY);
}

static void
test_overlay_all_sequences (void)
{
  all_sequences (recorder_states_wanted (50), false, OVERLAY);
}

/* I2: what is behind an image in a device is never seen. */
static void
test_device_all_sequences (void)
{
  all_sequences (recorder_states_wanted (15), true, NO_OVERLAY);
}

static void
test_device_overlay_all_sequences (void)
{
  all_sequences (recorder_states_wanted (15), true, OVERLAY);
}

/* For random tests, in turn. */
static void
choose_setup (struct setup *setup, uint64_t seed, enum backing_kind first,
              enum backing_kind last)
{
  setup->seed = seed;
  setup->image = (int) (seed / 4 % NR_IMAGES);
  setup->backing = first + (enum backing_kind) (seed % (last - first + 1));
}

/* Longer ones, also across the border of the tables, some with pauses; with
 * FAILURES a write fails when a part of it was written.
 */
static void
random_sequences (uint64_t wanted, bool failures, bool device,
                  enum backing_kind first, enum backing_kind last)
{
  struct setup setup = { .device = device };
  char ops[40];

  make_backings ();
  for (uint64_t seed = 0; states_checked < wanted; seed++) {
    struct rng rng = { seed };
    size_t length = 4 + rng_below (&rng, sizeof ops - 4);
    struct session *s;

    choose_setup (&setup, seed, first, last);
    setup.idle_ms = setup.commit_ms = seed % 4 == 0 && !failures;
    if (seed % 8 == 4 && setup.backing != BACKING_NONE)
      setup.idle_ms = NEVER_IDLE;
    setup.no_holes = device && seed % 8 == 1;
    s = new_session (&setup);
    for (size_t i = 0; i < length; i++)
      ops[i] = "wwwsssfzztFcp"[rng_below (&rng, 12 + setup.commit_ms)];
    ops[length] = '\0';
    if (seed % 8 == 2 && !failures && setup.backing != BACKING_NONE)
      ops[length / 2] = 'P';
    if (failures)
      s->fail_at = 1 + (unsigned) rng_below (&rng, 12);
    do_sequence (s, ops, FIRST + rng_below (&rng, 6));
    all_states_are_good (s, 100);
  }
  free_backings ();
  report_states ();
}

static void
test_random_sequences (void)
{
  random_sequences (recorder_states_wanted (15), false, false, NO_OVERLAY);
}

static void
test_overlay_random_sequences (void)
{
  random_sequences (recorder_states_wanted (20), false, false, OVERLAY);
}

static void
test_failed_writes (void)
{
  random_sequences (recorder_states_wanted (10), true, false, NO_OVERLAY);
}

static void
test_overlay_failed_writes (void)
{
  random_sequences (recorder_states_wanted (10), true, false, OVERLAY);
}

static void
test_device_random_sequences (void)
{
  random_sequences (recorder_states_wanted (5), false, true, NO_OVERLAY);
  random_sequences (recorder_states_wanted (5), true, true, NO_OVERLAY);
}

static void
test_device_overlay_random_sequences (void)
{
  random_sequences (recorder_states_wanted (5), false, true, OVERLAY);
  random_sequences (recorder_states_wanted (5), true, true, OVERLAY);
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
  if (t->s->setup.backing != BACKING_NONE && t->seed % 64 == 0)
    press (t->s);
  while (n-- > 0) {
    if (t->s->setup.idle_ms)
      usleep (rng_below (&rng, PAUSE_US));
    do_op (t->s, "wwssfztF"[rng_below (&rng, 8)], &rng,
           BORDER - 2 + rng_below (&rng, 3));
  }
  return NULL;
}

static void
parallel (uint64_t wanted, bool pauses, bool device, uint64_t max,
          enum backing_kind first, enum backing_kind last)
{
  struct setup setup = {
    .commit_ms = pauses, .parallel = true, .device = device,
  };

  make_backings ();
  for (uint64_t seed = 0; states_checked < wanted; seed++) {
    struct thread threads[THREADS];
    struct session *s;

    choose_setup (&setup, seed, first, last);
    setup.idle_ms = pauses;
    if (pauses && seed % 2 && setup.backing != BACKING_NONE)
      setup.idle_ms = NEVER_IDLE;
    CONTEXT ("parallel, seed %" PRIu64, seed);
    s = new_session (&setup);
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
  free_backings ();
  report_states ();
}

static void
test_parallel (void)
{
  parallel (recorder_states_wanted (15), false, false, 100, NO_OVERLAY);
}

static void
test_overlay_parallel (void)
{
  parallel (recorder_states_wanted (20), false, false, 100, OVERLAY);
}

/* With pauses in which the image is marked as clean, or links committed. */
static void
test_parallel_idle (void)
{
  parallel (recorder_states_wanted (10), true, false, 30, NO_OVERLAY);
}

static void
test_overlay_parallel_idle (void)
{
  parallel (recorder_states_wanted (15), true, false, 30, OVERLAY);
}

static void
test_device_parallel (void)
{
  parallel (recorder_states_wanted (5), false, true, 100, NO_OVERLAY);
  parallel (recorder_states_wanted (5), true, true, 30, OVERLAY);
}

/* With a storage that lies the check fails, with a description that begins
 * with WORDS, for a sequence of at most 2 operations; and for one on an
 * overlay too.
 */
static bool
is_noticed_on (enum backing_kind backing, enum recorder_lie lie,
               const char *words)
{
  struct setup setup = {
    .backing = backing, .lie = lie, .device = lie == LIE_FRESH_UNSYNCED,
  };
  bool noticed = false;
  size_t cut;
  char ops[4];

  for (; setup.seed < NR_KINDS + NR_KINDS * NR_KINDS; setup.seed++)
    for (setup.image = 0; setup.image < NR_IMAGES && !noticed;
         setup.image++) {
      struct session *s;
      const char *why;

      sequence (setup.seed, ops);
      s = run_sequence (ops, FIRST, &setup);
      why = check_states (s, UINT64_MAX, &cut);
      noticed = why && strncmp (why, words, strlen (words)) == 0;
      if (noticed)
        printf ("  after %s on %d, crash at %zu: %s\n", ops, backing, cut, why);
      free_session (s);
    }
  return noticed;
}

static void
is_noticed (enum recorder_lie lie, const char *words,
            const char *overlay_words)
{
  make_backings ();
  if (words)
    CHECK (is_noticed_on (BACKING_NONE, lie, words));
  if (overlay_words) {
    CHECK (is_noticed_on (BACKING_FULL, lie, overlay_words));
    CHECK (is_noticed_on (BACKING_CHAIN, lie, overlay_words));
  }
  free_backings ();
  states_checked = 0;
}

static void
test_lie_sync (void)
{
  is_noticed (LIE_SYNC, "content:", "content:");
}

static void
test_lie_late_entries (void)
{
  is_noticed (LIE_LATE_ENTRIES, "content:", "content:");
}

/* Without a backing file entries may become durable early. */
static void
test_lie_early_entries (void)
{
  is_noticed (LIE_EARLY_ENTRIES, NULL, "content:");
}

/* An overlay doesn't use space before its content is durable. */
static void
test_lie_stale_space (void)
{
  is_noticed (LIE_STALE_SPACE, "content:", NULL);
}

/* In a device neither a new L2 table nor a cluster that is written in part may
 * be given away before the zeros there are durable.
 */
static void
test_lie_fresh_unsynced (void)
{
  is_noticed (LIE_FRESH_UNSYNCED, "content:", "cluster");
}

static void
test_lie_dirty_unsynced (void)
{
  is_noticed (LIE_DIRTY_UNSYNCED, "clean, but", "clean, but");
}

static void
test_lie_clean_early (void)
{
  is_noticed (LIE_CLEAN_EARLY, "clean, but", "content:");
}

HARNESS_MAIN (
  TEST (test_all_sequences),
  TEST (test_random_sequences),
  TEST (test_failed_writes),
  TEST (test_parallel),
  TEST (test_parallel_idle),
  TEST (test_overlay_all_sequences),
  TEST (test_overlay_random_sequences),
  TEST (test_overlay_failed_writes),
  TEST (test_overlay_parallel),
  TEST (test_overlay_parallel_idle),
  TEST (test_device_all_sequences),
  TEST (test_device_overlay_all_sequences),
  TEST (test_device_random_sequences),
  TEST (test_device_overlay_random_sequences),
  TEST (test_device_parallel),
  TEST (test_lie_sync),
  TEST (test_lie_late_entries),
  TEST (test_lie_early_entries),
  TEST (test_lie_stale_space),
  TEST (test_lie_fresh_unsynced),
  TEST (test_lie_dirty_unsynced),
  TEST (test_lie_clean_early),
)
