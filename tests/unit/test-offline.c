/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Resizing, rebasing and emptying: what they do, what a crash at any moment
 * leaves, and what a fault of any storage operation does.
 *
 * Each case takes an image with all kinds of entries on top of a backing file
 * (backing-files.h) and changes it in one of these ways: an action.  After
 * an interruption the image is one of:
 *
 *     resized    the old or the new size; the content as before, then zeros
 *     rebased    the old or the new name, and with the backing file of that
 *                name the same content; if only the name changes, the content
 *                that follows from it
 *     emptied    each sector as before or as in the backing file
 *
 * The image is marked NEED_CHECK unless it is sound.  The same call again then
 * finishes the change, and leaves the image clean, and without leaks if that
 * is the point of the change.
 */

#include <config.h>

#include "alloc.h"
#include "backing-files.h"
#include "damage.h"
#include "model.h"
#include "recorder.h"

/* The smallest geometry.  The tests look at a window around the border between
 * the first two L2 tables.
 */
#define CLUSTER UINT64_C (4096)
#define BORDER UINT64_C (512)
#define FIRST (BORDER - 8)
#define WINDOW (FIRST * CLUSTER)
#define WINDOW_CLUSTERS 16
#define WINDOW_BYTES (WINDOW_CLUSTERS * CLUSTER)
#define FAR_CLUSTER UINT64_C (1500)

/* Sizes of disks: the end is in a cluster of the first table, in one of the
 * second, at the end of a table, and far beyond.
 */
#define SMALL (WINDOW + 3 * CLUSTER + 1536)
#define MIDDLE (WINDOW + 12 * CLUSTER + 512)
#define TABLE_END (BORDER * CLUSTER)
#define LARGE (UINT64_C (1600) * CLUSTER)

/* A short backing file ends in the window. */
#define SHORT_SIZE (WINDOW + 10 * CLUSTER + 700)

enum what { RESIZE, RENAME, REBASE, EMPTY };

struct action {
  const char *title;
  enum what what;
  enum backing_kind backing, to;
  uint64_t size, new_size;
  const char *name;             /* NULL: of no backing file */
  bool stale;                   /* there are entries beyond the disk's end */
  bool dirty;                   /* NEED_CHECK */
  uint64_t old_name_length;     /* or 0: that of model.h */
  enum { AFTER_L1, AFTER_L2, AFTER_DATA, AFTER_LEAK } behind; /* the header */
};

/* The images are in a device with so many clusters of old content behind. */
#define DEVICE_CLUSTERS 100
static bool device;

struct run {
  const struct action *a;
  struct mem_file *f;
  uint8_t before[WINDOW_BYTES], on_to[WINDOW_BYTES], backing[WINDOW_BYTES];
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

static struct backing backings[NR_BACKING];

static void
make_backings (void)
{
  for (int i = 0; i < NR_BACKING; i++) {
    backing_init (&backings[i], (enum backing_kind) i, LARGE, SHORT_SIZE);
    backing_fill (&backings[i], WINDOW, WINDOW_BYTES);
    backing_fill (&backings[i], FAR_CLUSTER * CLUSTER, 2 * CLUSTER);
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

/* Give the image a backing file's name of so many bytes. */
static void
name_old_backing (struct model *m, uint64_t length)
{
  model_name_backing (m);
  if (length == 0)
    return;
  m->h.backing_filename_size = length;
  model_write_header (m);
  for (uint64_t i = 0; i < length; i++)
    mem_write (m->file, "o", 1, QED_HEADER_BYTES + i);
}

/* What is behind the header when it isn't the L1 table?  It was at the end of
 * the file, and a leak is there now.
 */
static void
put_behind_header (struct model *m, const struct action *a)
{
  uint8_t cluster[CLUSTER];
  uint64_t l1 = BORDER / (CLUSTER / 8), from, place;

  if (a->behind == AFTER_L1 || a->behind == AFTER_LEAK)
    return;
  if (a->behind == AFTER_L2) {
    from = model_get_l1 (m, l1);
    model_set_l1 (m, l1, CLUSTER);
  }
  else {
    for (place = model_get_l1 (m, l1); model_get64 (m, place) < CLUSTER; )
      place += 8;
    from = model_get64 (m, place);
    model_put64 (m, place, CLUSTER);
  }
  mem_read (m->file, cluster, CLUSTER, from);
  mem_write (m->file, cluster, CLUSTER, CLUSTER);
}

static void
make_image (struct run *run)
{
  const struct action *a = run->a;
  uint64_t disk = (a->size + CLUSTER - 1) / CLUSTER;
  struct model m;

  model_create_at (&m, run->f, CLUSTER, 1, 1, a->behind == AFTER_L1 ? 1 : 2,
                   LARGE);
  model_pattern (&m, model_append (&m, 3), 3 * CLUSTER); /* leaks */
  /* First, so that other clusters move into its place when it's cut off. */
  if (a->stale || FAR_CLUSTER < disk)
    model_data (&m, FAR_CLUSTER);
  for (uint64_t i = 0; i < WINDOW_CLUSTERS; i++)
    if (a->stale || FIRST + i < disk) {
      if (i % 5 == 0)
        model_data (&m, FIRST + i);
      else if (i % 5 == 1)
        model_set (&m, FIRST + i, 1);
    }
  put_behind_header (&m, a);
  m.h.image_size = a->size;
  m.h.features = a->dirty ? QED_F_NEED_CHECK : 0;
  model_write_header (&m);
  if (a->backing != BACKING_NONE)
    name_old_backing (&m, a->old_name_length);
}

/* Read the window of the image in F on top of this backing file; zeros past
 * the end of the disk.  False: F isn't an image, or can't be read.
 */
static bool
read_window (struct mem_file *f, enum backing_kind kind, uint8_t *window)
{
  struct model m;
  uint64_t length;

  if (!model_open (&m, f))
    return false;
  m.backing = backing_model (&backings[kind]);
  length = m.h.image_size < WINDOW + WINDOW_BYTES ?
    m.h.image_size - WINDOW : WINDOW_BYTES;
  memset (window, 0, WINDOW_BYTES);
  return model_pread (&m, window, length, WINDOW) == 0;
}

static void
read_backing (enum backing_kind kind, uint8_t *window)
{
  const struct model *m = backing_model (&backings[kind]);
  uint64_t length = 0;

  if (m)
    length = m->h.image_size < WINDOW + WINDOW_BYTES ?
      m->h.image_size - WINDOW : WINDOW_BYTES;
  memset (window, 0, WINDOW_BYTES);
  if (m)
    CHECK_EQ (model_pread (m, window, length, WINDOW), 0);
}

static void
start (struct run *run, const struct action *a)
{
  run->a = a;
  run->f = mem_file_new ();
  make_image (run);
  if (device)
    mem_make_device (run->f, DEVICE_CLUSTERS * CLUSTER);
  CHECK (read_window (run->f, a->backing, run->before));
  CHECK (read_window (run->f, a->to, run->on_to));
  read_backing (a->backing, run->backing);
}

/* ---- acting ---- */

static void
check_progress (void *opaque, uint64_t done, uint64_t total)
{
  uint64_t *last = opaque;

  CHECK_OP (done, >=, *last);
  CHECK_OP (done, <=, total);
  *last = done;
}

static int
act (struct qed_image *img, const struct action *a)
{
  uint64_t last = 0;
  const struct qed_progress progress = { check_progress, &last };
  struct qed_backing *to;
  int r = 0;

  switch (a->what) {
  case RESIZE:
    return qed_resize (img, a->new_size, true, &progress);
  case EMPTY:
    return qed_empty (img);
  case REBASE:
    to = backing_open (&backings[a->to]);
    r = qed_copy_differing (img, to, &progress);
    qed_backing_close (to);
    break;
  default:
    break;
  }
  return r == -1 ? -1 : qed_set_backing (img, a->name, true);
}

static const struct qed_write_options write_options = { .idle_ms = 0 };

static struct qed_image *
open_on (struct qed_storage *st, enum backing_kind kind)
{
  struct qed_backing *b = backing_open (&backings[kind]);
  struct qed_image *img = qed_open_overlay (st, b, QED_MIN_CACHE_SIZE);

  if (img == NULL) {
    qed_storage_close (st);
    qed_backing_close (b);
  }
  return img;
}

/* Open for writing, act, close.  -1: one of these failed. */
static int
open_and_act (struct qed_storage *st, const struct action *a,
              enum backing_kind kind, bool *acted)
{
  struct qed_image *img = open_on (st, kind);
  int r;

  if (img == NULL)
    return -1;
  r = qed_make_writable (img, &write_options) != 0 ? -1 : 0;
  if (r == 0)
    r = act (img, a);
  if (acted)
    *acted = r == 0;
  if (qed_close (img) == -1)
    r = -1;
  return r;
}

/* ---- judging a state ---- */

/* *NEW: does the header in F have the new size or name? */
static const char *
check_header (const struct run *run, struct mem_file *f, bool *new)
{
  const struct action *a = run->a;
  struct qed_storage *st = mem_open (f);
  struct qed_header h;
  char *name = NULL;
  const char *why = NULL;

  if (qed_read_header (st, &h, &name) == -1)
    why = violation ("header: %s", qed_get_error ());
  else if (a->what == RESIZE) {
    *new = h.image_size == a->new_size;
    if (!*new && h.image_size != a->size)
      why = violation ("header: size %" PRIu64, h.image_size);
  }
  else if (a->what != EMPTY) {
    *new = a->name ? name && strcmp (name, a->name) == 0 : !name;
    if (!*new && (name ? name[0] : 'b') !=
        (a->backing == BACKING_NONE || !a->old_name_length ? 'b' : 'o'))
      why = violation ("header: backing file %s", name);
  }
  free (name);
  qed_storage_close (st);
  return why;
}

/* The backing file of the image whose header is NEW, or isn't. */
static enum backing_kind
backing_of (const struct action *a, bool new)
{
  return new && (a->what == RENAME || a->what == REBASE) ? a->to : a->backing;
}

static const char *
check_content (const struct run *run, const uint8_t *window, bool new,
               uint64_t size)
{
  const struct action *a = run->a;
  const uint8_t *want = a->what == RENAME && new ? run->on_to : run->before;

  for (uint64_t i = 0; i < WINDOW_BYTES; i += QED_SECTOR_SIZE) {
    static const uint8_t zeros[QED_SECTOR_SIZE];
    const uint8_t *sector = WINDOW + i < size ? want + i : zeros;

    if (memcmp (window + i, sector, QED_SECTOR_SIZE) != 0 &&
        (a->what != EMPTY ||
         memcmp (window + i, run->backing + i, QED_SECTOR_SIZE) != 0))
      return violation ("content: sector %" PRIu64 " begins %02x, not %02x",
                        i / QED_SECTOR_SIZE, window[i], sector[0]);
  }
  return NULL;
}

static const char *
check_file (const struct run *run, struct mem_file *f, bool *new)
{
  uint8_t window[WINDOW_BYTES];
  const char *why;
  struct audit audit;
  struct model m;

  why = check_header (run, f, new);
  if (why)
    return why;
  if (!audit_image (f, &audit) || !model_open (&m, f))
    return "not a valid image";
  if (!audit.need_check && (audit.unsound || audit.duplicate))
    return violation ("clean, but %u entries are unsound, %u clusters "
                      "duplicate", audit.unsound, audit.duplicate);
  if (!read_window (f, backing_of (run->a, *new), window))
    return "can't be read";
  return check_content (run, window, *new, m.h.image_size);
}

/* Is F what the action should make? */
static const char *
check_done (const struct run *run, struct mem_file *f)
{
  const struct action *a = run->a;
  bool shrunk = a->what == RESIZE && a->new_size <= a->size;
  uint8_t window[WINDOW_BYTES];
  struct audit audit;
  bool new = true;
  const char *why = check_file (run, f, &new);

  if (!why)
    why = audit_closed (f, false);
  if (why)
    return why;
  if (!new)
    return "nothing has changed";
  CHECK (audit_image (f, &audit));
  if ((shrunk || a->what == EMPTY) && audit.leaked)
    return violation ("%" PRIu64 " clusters are leaked", audit.leaked);
  if (a->what == EMPTY && audit.size != 2 * CLUSTER)
    return violation ("the file has %" PRIu64 " bytes", audit.size);
  CHECK (read_window (f, a->backing, window));
  if (a->what == EMPTY && memcmp (window, run->backing, a->size - WINDOW <
                                  WINDOW_BYTES ? a->size - WINDOW :
                                  WINDOW_BYTES) != 0)
    return "content: not what the backing file has";
  return NULL;
}

/* Is F what an interruption may leave?  Does the same call finish it? */
static const char *
check_state (const struct run *run, struct mem_file *f)
{
  bool new = false;
  const char *why = check_file (run, f, &new);

  if (why)
    return why;
  if (open_and_act (mem_open (f), run->a, backing_of (run->a, new),
                    NULL) == -1)
    return violation ("again: %s", qed_get_error ());
  return check_done (run, f);
}

/* ---- crashes ---- */

static uint64_t states_checked;

/* Crash after each write, each time with several choices of which unsynced
 * writes are kept; or FEW of both.
 */
static const char *
check_states (const struct run *run, struct recorder *r, uint64_t seed,
              bool few, size_t *bad)
{
  static const enum recorder_keep keeps[] = {
    KEEP_NOTHING, KEEP_ALL, KEEP_SOME, KEEP_SOME, KEEP_SOME,
  };
  size_t n_keeps = few ? 2 : sizeof keeps / sizeof keeps[0];
  struct rng rng = { seed };

  for (*bad = 0; *bad <= recorder_length (r); *bad += few ? 3 : 1)
    for (size_t i = 0; i < n_keeps && !recorder_same_as_next (r, *bad); i++) {
      struct mem_file *f = mem_file_new ();
      const char *why;

      recorder_rebuild (r, *bad, keeps[i], &rng, f);
      why = check_state (run, f);
      mem_file_free (f);
      states_checked++;
      if (why)
        return why;
    }
  return NULL;
}

static bool no_punch;

static const char *
crash (const struct action *a, enum recorder_lie lie)
{
  struct recorder *r;
  struct run run;
  const char *why = NULL;
  bool few = getenv ("NBDKIT_VALGRIND");
  size_t bad;

  CONTEXT ("%s, on %d", a->title, a->backing);
  start (&run, a);
  mem_set_faults (run.f, &(struct mem_faults) { .no_punch = no_punch });
  r = recorder_new (run.f, lie);
  CHECK_EQ (open_and_act (recorder_open (r), a, a->backing, NULL), 0);
  if (lie == LIE_NONE)
    why = check_done (&run, run.f);
  if (why)
    harness_fail (__FILE__, __LINE__, "%s", why);
  /* It may take some choices to find a lie. */
  for (uint64_t seed = 1; !why && seed <= (lie == LIE_NONE ? 1 : 100); seed++)
    why = check_states (&run, r, seed, few, &bad);
  if (why && lie == LIE_NONE) {
    recorder_print (r, bad, stderr);
    harness_fail (__FILE__, __LINE__, "crash at %zu: %s", bad, why);
  }
  recorder_free (r);
  mem_file_free (run.f);
  return why;
}

/* ---- faults ---- */

static bool
is_hit (struct mem_file *f, uint64_t k)
{
  return mem_calls (f, MEM_ANY) >= k;
}

static void
fault (const struct action *a, uint64_t count, int err)
{
  bool hit = true;

  for (uint64_t k = 1; hit; k++) {
    struct mem_faults faults = {
      .op = MEM_ANY, .first = k, .count = count, .err = err
    };
    struct run run;
    const char *why;
    bool acted = false, new = false;
    int r;

    CONTEXT ("%s, on %d, operation %" PRIu64 " fails, %" PRIu64 " times, "
             "errno %d", a->title, a->backing, k, count, err);
    start (&run, a);
    mem_set_faults (run.f, &faults);
    r = open_and_act (mem_open (run.f), a, a->backing, &acted);
    hit = is_hit (run.f, k);
    mem_set_faults (run.f, NULL);

    why = r == 0 ? check_done (&run, run.f) : check_file (&run, run.f, &new);
    if (!why && acted && r == -1 && a->what != EMPTY && !new)
      why = "it was said to be done";
    if (!why && r == -1)
      why = check_state (&run, run.f);
    if (why)
      harness_fail (__FILE__, __LINE__, "%s", why);
    mem_file_free (run.f);
  }
}

/* ---- tests ---- */

#define NAME_60 "123456789012345678901234567890123456789012345678901234567890"
#define NAME_600 NAME_60 NAME_60 NAME_60 NAME_60 NAME_60 NAME_60 NAME_60 \
  NAME_60 NAME_60 NAME_60
#define NAME_3000 NAME_600 NAME_600 NAME_600 NAME_600 NAME_600

static const struct action actions[] = {
  { "grow in a cluster", RESIZE, .size = SMALL, .new_size = SMALL + 512 },
  { "grow", RESIZE, .size = SMALL, .new_size = LARGE },
  { "grow over what is there", RESIZE, .size = SMALL, .new_size = LARGE,
    .stale = true },
  { "grow when dirty", RESIZE, .size = MIDDLE, .new_size = LARGE,
    .stale = true, .dirty = true },
  { "shrink", RESIZE, .size = LARGE, .new_size = SMALL },
  { "shrink to a table", RESIZE, .size = LARGE, .new_size = TABLE_END },
  { "shrink in a table", RESIZE, .size = MIDDLE, .new_size = MIDDLE - 8192 },
  { "shrink when dirty", RESIZE, .size = LARGE, .new_size = MIDDLE,
    .dirty = true },
  { "shrink again", RESIZE, .size = MIDDLE, .new_size = MIDDLE,
    .stale = true },
  { "empty", EMPTY, .size = MIDDLE },
  { "empty when dirty", EMPTY, .size = LARGE, .stale = true, .dirty = true },
};

/* These have backing files of their own. */
static const struct action names[] = {
  { "rename", RENAME, .backing = BACKING_HOLES, .to = BACKING_FULL,
    .size = MIDDLE, .name = "new" },
  { "rename to a long name", RENAME,
    .backing = BACKING_HOLES, .to = BACKING_FULL,
    .size = MIDDLE,
    .name = NAME_600 },
  { "rename to a longer name", RENAME,
    .backing = BACKING_HOLES, .to = BACKING_FULL,
    .size = MIDDLE,
    .name = NAME_3000 },
  { "rename a long name", RENAME, .backing = BACKING_HOLES, .to = BACKING_FULL,
    .size = MIDDLE,
    .name = "new", .old_name_length = 3500 },
  { "rename a long name to a long one", RENAME, .backing = BACKING_HOLES,
    .to = BACKING_FULL,
    .size = MIDDLE, .name = NAME_600, .old_name_length = 2000 },
  { "name in the L1 table's place", RENAME, .backing = BACKING_HOLES,
    .to = BACKING_FULL,
    .size = MIDDLE, .name = NAME_3000, .old_name_length = 3000 },
  { "name in an L2 table's place", RENAME, .backing = BACKING_HOLES,
    .to = BACKING_FULL,
    .size = MIDDLE, .name = NAME_3000, .old_name_length = 3000,
    .behind = AFTER_L2 },
  { "name in data's place", RENAME, .backing = BACKING_HOLES,
    .to = BACKING_FULL,
    .size = MIDDLE, .name = NAME_3000, .old_name_length = 3000,
    .behind = AFTER_DATA, .dirty = true },
  { "name in the place of a leak", RENAME, .backing = BACKING_HOLES,
    .to = BACKING_FULL,
    .size = MIDDLE, .name = NAME_3000, .old_name_length = 3000,
    .behind = AFTER_LEAK },
  { "rebase to a name in data's place", REBASE, .backing = BACKING_HOLES,
    .to = BACKING_FULL, .size = MIDDLE, .name = NAME_3000,
    .old_name_length = 3000, .behind = AFTER_DATA },
  { "remove the name", RENAME, .backing = BACKING_HOLES, .to = BACKING_NONE,
    .size = MIDDLE,
    .old_name_length = 1000 },
  { "add a name", RENAME, .backing = BACKING_NONE, .to = BACKING_HOLES,
    .size = MIDDLE, .name = "new" },
  { "rebase", REBASE, .backing = BACKING_HOLES, .to = BACKING_FULL,
    .size = MIDDLE, .name = "new" },
  { "rebase onto less", REBASE, .backing = BACKING_FULL, .to = BACKING_HOLES,
    .size = LARGE,
    .name = NAME_600 },
  { "rebase when dirty", REBASE, .backing = BACKING_CHAIN, .to = BACKING_FULL,
    .size = MIDDLE,
    .name = "new", .dirty = true },
  { "rebase onto a chain", REBASE,
    .backing = BACKING_SHORT, .to = BACKING_CHAIN,
    .size = MIDDLE,
    .name = "new" },
  { "rebase onto nothing", REBASE, .backing = BACKING_FULL, .to = BACKING_NONE,
    .size = LARGE },
  { "rebase what has none", REBASE,
    .backing = BACKING_NONE, .to = BACKING_HOLES,
    .size = LARGE,
    .name = "new" },
};

/* Call FN for all actions, on top of all backing files. */
static void
for_all (void (*fn) (const struct action *a))
{
  make_backings ();
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    fn (&names[i]);
  for (size_t i = 0; i < sizeof actions / sizeof actions[0]; i++)
    for (int kind = 0; kind < NR_BACKING; kind++) {
      struct action a = actions[i];

      /* Growing with an unknown backing file makes many zero clusters. */
      if (kind == BACKING_LOST)
        continue;
      a.backing = a.to = (enum backing_kind) kind;
      fn (&a);
    }
  free_backings ();
}

static void
crash_anywhere (const struct action *a)
{
  crash (a, LIE_NONE);
}

static void
test_crash (void)
{
  for_all (crash_anywhere);
  printf ("  %" PRIu64 " states\n", states_checked);
}

static void
fail_once (const struct action *a)
{
  fault (a, 1, EIO);
}

static void
test_fault_once (void)
{
  for_all (fail_once);
}

static void
fail_for_good (const struct action *a)
{
  fault (a, UINT64_MAX, ENOSPC);
}

static void
test_fault_for_good (void)
{
  for_all (fail_for_good);
}

/* All of it in a device, which isn't cut. */
static void
test_device_crash (void)
{
  device = true;
  states_checked = 0;
  for_all (crash_anywhere);
  device = false;
  printf ("  %" PRIu64 " states\n", states_checked);
}

static void
test_device_fault (void)
{
  device = true;
  for_all (fail_once);
  device = false;
}

/* The crash test notices a storage that doesn't sync. */
static void
test_lie_sync (void)
{
  static const char *const titles[] = {
    "grow over what is there", "shrink", "empty",
  };

  /* This may take many states, and under valgrind minutes. */
  if (getenv ("NBDKIT_VALGRIND"))
    return;
  make_backings ();
  no_punch = true; /* a punch would keep an order */
  for (size_t i = 0; i < sizeof titles / sizeof titles[0]; i++)
    for (size_t j = 0; j < sizeof actions / sizeof actions[0]; j++)
      if (strcmp (actions[j].title, titles[i]) == 0) {
        struct action a = actions[j];
        const char *why;

        a.backing = a.to = BACKING_FULL;
        why = crash (&a, LIE_SYNC);
        CHECK (why != NULL);
        printf ("  %s: %s\n", titles[i], why);
      }
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    if (strcmp (names[i].title, "rename to a long name") == 0 ||
        strcmp (names[i].title, "name in the L1 table's place") == 0 ||
        strcmp (names[i].title, "name in an L2 table's place") == 0 ||
        strcmp (names[i].title, "name in data's place") == 0 ||
        strcmp (names[i].title, "rebase") == 0) {
      const char *why = crash (&names[i], LIE_SYNC);

      CHECK (why != NULL);
      printf ("  %s: %s\n", names[i].title, why);
    }
  no_punch = false;
  free_backings ();
}

/* Crashes where holes can't be punched, so zeros are written. */
static void
crash_without_punch (const struct action *a)
{
  no_punch = true;
  crash (a, LIE_NONE);
  no_punch = false;
}

static void
test_crash_without_punch (void)
{
  for_all (crash_without_punch);
}

/* ---- tests of details ---- */

static struct qed_image *
open_writable (struct mem_file *f, struct qed_backing *b)
{
  struct qed_image *img = qed_open_overlay (mem_open (f), b,
                                            QED_MIN_CACHE_SIZE);

  CHECK (img != NULL);
  CHECK_EQ (qed_make_writable (img, &write_options), 0);
  return img;
}

static void
test_sizes (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_image *img;
  struct model m;
  uint64_t hash;

  model_create (&m, f, 4096, 1, 1 << 20);
  hash = mem_hash (f);
  img = qed_open (mem_open (f), QED_MIN_CACHE_SIZE);
  CHECK (img != NULL);
  CHECK_FAILS (qed_resize (img, 1 << 20, true, NULL), EROFS, MEM_NAME);
  CHECK_FAILS (qed_set_backing (img, "base", true), EROFS, MEM_NAME);
  CHECK_FAILS (qed_copy_differing (img, NULL, NULL), EROFS, MEM_NAME);
  CHECK_FAILS (qed_empty (img), EROFS, MEM_NAME);
  CHECK_EQ (qed_make_writable (img, &write_options), 0);

  CHECK_FAILS (qed_resize (img, (1 << 20) + 1, false, NULL), EINVAL,
               MEM_NAME, "1048577", "multiple of 512");
  CHECK_FAILS (qed_resize (img, (1 << 20) - 512, false, NULL), EINVAL,
               MEM_NAME, "1048064", "1048576", "--shrink");
  CHECK_FAILS (qed_resize (img, (1 << 30) + 512, true, NULL), EINVAL,
               MEM_NAME, "1073742336", "at most 1073741824",
               "cluster_size 4096", "table_size 1", "qed-img create");
  CHECK_EQ (qed_resize (img, 1 << 20, false, NULL), 0);
  CHECK_EQ (mem_hash (f), hash);
  CHECK_EQ (qed_resize (img, 1 << 30, false, NULL), 0);
  CHECK_EQ (qed_get_header (img)->image_size, 1 << 30);
  CHECK_EQ (qed_close (img), 0);
  CHECK (audit_closed (f, false) == NULL);
  mem_file_free (f);
}

/* The largest geometry: the error doesn't advise a larger one. */
static void
test_largest (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_image *img;
  struct model m;

  model_create (&m, f, 1 << 26, 16, 512);
  img = open_writable (f, NULL);
  CHECK_FAILS (qed_resize (img, QED_MAX_IMAGE_SIZE + 512, true, NULL), EINVAL,
               MEM_NAME, "at most 9223372036854775296");
  CHECK (strstr (qed_get_error (), "qed-img create") == NULL);
  CHECK_EQ (qed_resize (img, QED_MAX_IMAGE_SIZE, false, NULL), 0);
  CHECK_EQ (qed_resize (img, 1024, true, NULL), 0);
  CHECK_EQ (qed_close (img), 0);
  CHECK_EQ (mem_size (f), (UINT64_C (1) << 26) * 17);
  mem_file_free (f);
}

/* Random images of all geometries are resized to random sizes.  The content
 * stays, or is zeros where it was cut off.
 */
#define MAX_TOUCHED 256
#define PROBE 4096

static void
probe (const struct model *m, uint64_t cluster, uint64_t size, uint8_t *buf)
{
  uint64_t cs = m->h.cluster_size, offset = cluster * cs;

  memset (buf, 0, 2 * PROBE);
  for (int i = 0; i < 2; i++, offset += cs - PROBE)
    if (offset < size)
      CHECK_EQ (model_pread (m, buf + i * PROBE,
                             size - offset < PROBE ? size - offset : PROBE,
                             offset), 0);
}

static uint64_t
random_new_size (struct rng *rng, const struct model *m, uint64_t cluster)
{
  uint64_t size = cluster * m->h.cluster_size, max = QED_MAX_IMAGE_SIZE;

  if (model_max_size (m) < max)
    max = (uint64_t) model_max_size (m);
  size += rng_below (rng, m->h.cluster_size / 512 + 2) * 512;
  if (rng_below (rng, 3) == 0)
    size += rng_below (rng, model_entries (m)) * m->h.cluster_size;
  return size < 512 ? 512 : size > max ? max : size;
}

static void
resize_randomly (struct rng *rng, uint32_t cluster_size, uint32_t table_size)
{
  static uint8_t before[MAX_TOUCHED][2 * PROBE], after[2 * PROBE];
  struct mem_file *f = mem_file_new ();
  uint64_t touched[MAX_TOUCHED], least;
  struct snapshot s;
  struct model m;
  size_t n;

  damage_random (&m, f, rng, cluster_size, table_size, 0, 80);
  m.h.features = 0;
  model_write_header (&m);
  least = m.h.image_size;
  snapshot_take (&s, f);
  for (n = 0; n < s.n && n < MAX_TOUCHED; n++)
    touched[n] = s.c[n].cluster;
  snapshot_free (&s);
  for (size_t i = 0; i < n; i++)
    probe (&m, touched[i], least, before[i]);
  for (int times = 0; times < 4 && n > 0; times++) {
    uint64_t size = random_new_size (rng, &m, touched[rng_below (rng, n)]);
    struct qed_image *img = open_writable (f, NULL);
    struct qed_check_result r;

    CONTEXT ("clusters %u * %u, from %" PRIu64 " to %" PRIu64, cluster_size,
             table_size, m.h.image_size, size);
    CHECK_EQ (qed_resize (img, size, true, NULL), 0);
    CHECK_EQ (qed_close (img), 0);
    CHECK (damage_check (f, false, &r));
    CHECK_EQ (r.corruptions + r.need_check, 0);
    if (size <= m.h.image_size)
      CHECK (r.leaks == 0 && r.end == r.file_size);
    CHECK (model_open (&m, f));
    CHECK_EQ (m.h.image_size, size);
    for (size_t i = 0; i < n; i++) {
      uint64_t offset = touched[i] * cluster_size;

      /* What was cut off reads as zeros when the disk grows again. */
      if (size < least)
        for (int j = 0; j < 2; j++, offset += cluster_size - PROBE)
          if (size < offset + PROBE)
            memset (before[i] + j * PROBE + (size > offset ? size - offset :
                                             0), 0,
                    size > offset ? PROBE - (size - offset) : PROBE);
      probe (&m, touched[i], size, after);
      CHECK (memcmp (before[i], after, 2 * PROBE) == 0);
    }
    least = size < least ? size : least;
  }
  mem_file_free (f);
}

static void
test_random (void)
{
  struct rng rng = { 5 };
  int times = getenv ("NBDKIT_VALGRIND") ? 1 : 6;

  FOR_ALL_GEOMETRIES (cluster_size, table_size)
    for (int i = 0; i < times; i++)
      resize_randomly (&rng, cluster_size, table_size);
}

/* A disk of 64 TiB takes no longer than reading its L1 table. */
static void
test_64t (void)
{
  struct mem_file *f = mem_file_new (), *raw = mem_file_new ();
  struct qed_image *img;
  struct model m;
  uint64_t entry;

  mem_truncate (raw, UINT64_C (1) << 46);
  mem_write (raw, "x", 1, (UINT64_C (1) << 45) + 5000);
  model_create (&m, f, 1 << 16, 4, 1 << 20);
  model_data (&m, 3);
  img = open_writable (f, qed_backing_raw (mem_open (raw)));
  mem_reset_counters (f);
  mem_reset_counters (raw);
  CHECK_EQ (qed_resize (img, UINT64_C (1) << 46, false, NULL), 0);
  CHECK_OP (mem_calls (f, MEM_ANY), <, 200);
  CHECK_OP (mem_calls (raw, MEM_ANY), <, 20);
  CHECK_EQ (qed_close (img), 0);
  CHECK (model_open (&m, f));
  CHECK_EQ (model_lookup (&m, UINT64_C (1) << 29, &entry), QED_RUN_ZERO);
  CHECK_EQ (model_lookup (&m, (UINT64_C (1) << 29) + 1, &entry),
            QED_RUN_UNALLOCATED);

  img = open_writable (f, qed_backing_raw (mem_open (raw)));
  mem_reset_counters (f);
  mem_reset_counters (raw);
  CHECK_EQ (qed_copy_differing (img, NULL, NULL), 0);
  CHECK_EQ (qed_resize (img, 1 << 20, true, NULL), 0);
  CHECK_OP (mem_calls (f, MEM_ANY), <, 200);
  CHECK_OP (mem_calls (raw, MEM_ANY), <, 20);
  CHECK_EQ (qed_close (img), 0);
  CHECK_EQ (mem_size (f), (1 << 16) * 10);
  mem_file_free (f);
  mem_file_free (raw);
}

/* With an unsound entry the disk doesn't grow over it, and isn't cut either,
 * since what is cut off may be shared.
 */
static void
test_corrupt (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_image *img;
  struct model m;
  uint64_t hash;

  model_create (&m, f, CLUSTER, 1, LARGE);
  model_data (&m, 0);
  model_set (&m, 10, 12345);
  m.h.image_size = 5 * CLUSTER;
  model_write_header (&m);
  hash = mem_hash (f);
  img = open_writable (f, NULL);
  CHECK_FAILS (qed_resize (img, LARGE, false, NULL), EIO, MEM_NAME,
               "1 entries", "qed-img check -r all");
  CHECK_EQ (qed_get_header (img)->image_size, 5 * CLUSTER);
  CHECK_FAILS (qed_resize (img, CLUSTER, true, NULL), EIO, MEM_NAME,
               "corrupt", "qed-img check -r all");
  CHECK_EQ (qed_close (img), 0);
  CHECK_EQ (mem_hash (f), hash);

  /* But it can be emptied. */
  img = open_writable (f, NULL);
  CHECK_EQ (qed_empty (img), 0);
  CHECK_EQ (qed_close (img), 0);
  CHECK (audit_closed (f, false) == NULL);
  CHECK_EQ (mem_size (f), 2 * CLUSTER);
  mem_file_free (f);
}

/* Two L1 entries, on either side of the new end, point to one L2 table. */
static void
test_shared_table (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_image *img;
  struct model m;
  uint64_t hash;

  model_create (&m, f, CLUSTER, 1, LARGE);
  model_data (&m, 600);
  model_set_l1 (&m, 0, model_get_l1 (&m, 1));
  hash = mem_hash (f);
  img = open_writable (f, NULL);
  CHECK_FAILS (qed_resize (img, 20 * CLUSTER, true, NULL), EIO, MEM_NAME,
               "qed-img check -r all");
  CHECK_EQ (qed_close (img), 0);
  CHECK_EQ (mem_hash (f), hash);
  mem_file_free (f);
}

/* The header names a backing file that isn't open: it may have any data. */
static void
test_grow_lost (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_image *img;
  struct model m, raw;
  uint8_t buf[2 * CLUSTER];

  model_create (&m, f, CLUSTER, 1, 5 * CLUSTER - 512);
  model_name_backing (&m);
  img = open_writable (f, NULL);
  CHECK_EQ (qed_resize (img, 7 * CLUSTER, false, NULL), 0);
  CHECK_EQ (qed_close (img), 0);
  CHECK (audit_closed (f, false) == NULL);

  make_backings ();
  raw = *backing_model (&backings[BACKING_FULL]);
  CHECK (model_open (&m, f));
  model_pattern (&raw, 0, 7 * CLUSTER);
  m.backing = &raw;
  CHECK_EQ (model_pread (&m, buf, sizeof buf, 5 * CLUSTER), 0);
  for (size_t i = 0; i < sizeof buf; i++)
    CHECK_EQ (buf[i], 0);
  free_backings ();
  mem_file_free (f);
}

/* ---- names ---- */

/* Make an image in F with 4 KiB of header clusters, with NAME or none, and a
 * byte of unknown purpose at each of PLACES, which end with 0.
 */
static struct qed_image *
open_named (struct mem_file *f, const char *name, const unsigned *places)
{
  struct model m;

  model_create (&m, f, 4096, 1, 1 << 20);
  if (name) {
    m.h.features = QED_F_BACKING_FILE;
    m.h.backing_filename_offset = QED_HEADER_BYTES;
    m.h.backing_filename_size = strlen (name);
    model_write_header (&m);
    mem_write (f, name, strlen (name), QED_HEADER_BYTES);
  }
  for (; places && *places; places++)
    mem_write (f, "#", 1, *places);
  return open_writable (f, NULL);
}

/* Close the image: it has that name, the bytes at PLACES, and nothing else in
 * its header clusters.
 */
static void
check_named (struct mem_file *f, struct qed_image *img, const char *name,
             bool raw, const unsigned *places)
{
  static uint8_t buf[20 * 4096];
  struct qed_storage *st;
  struct qed_header h;
  struct audit a;
  char *got;

  CHECK_EQ (qed_close (img), 0);
  CHECK (audit_closed (f, false) == NULL);
  CHECK (audit_image (f, &a));
  CHECK_EQ (a.leaked, 0);
  st = mem_open (f);
  CHECK_EQ (qed_read_header (st, &h, &got), 0);
  qed_storage_close (st);
  CHECK_STR (got ? got : "", name ? name : "");
  CHECK_EQ (h.features, (name ? QED_F_BACKING_FILE : 0) |
            (raw ? QED_F_BACKING_FORMAT_NO_PROBE : 0));
  CHECK_OP (h.header_size * 4096, <=, sizeof buf);
  mem_read (f, buf, h.header_size * 4096, 0);
  memset (buf, 0, QED_HEADER_BYTES);
  memset (buf + h.backing_filename_offset, 0, h.backing_filename_size);
  for (; places && *places; places++) {
    CHECK_EQ (buf[*places], '#');
    buf[*places] = 0;
  }
  for (size_t i = 0; i < h.header_size * 4096; i++)
    CHECK_EQ (buf[i], 0);
  CHECK (name || (h.backing_filename_offset | h.backing_filename_size) == 0);
  free (got);
}

/* A string of LENGTH characters. */
static const char *
long_name (unsigned length)
{
  static char buf[2][5000];
  static int i;

  i = !i;
  memset (buf[i], 'a' + (int) (length % 26), length);
  buf[i][length] = '\0';
  return buf[i];
}

static void
test_names (void)
{
  static const unsigned lengths[] = {
    1, 10, 447, 448, 449, 1000, 1792, 1793, 2000, 3500, 4031, 4032, 0
  };
  struct mem_file *f = mem_file_new ();

  for (const unsigned *old = lengths; *old; old++)
    for (const unsigned *new = lengths; *new; new++) {
      const char *name = long_name (*new);
      /* There is room behind the old name; in the first sector; and
       * everywhere if the old name ends in the first sector.
       */
      unsigned first = 512 - 64, after = 4032 - *old;
      bool fits = *new <= first || *new <= after || *old <= first ||
        *new == *old;
      struct qed_image *img = open_named (f, long_name (*old), NULL);

      CONTEXT ("name of %u bytes, then %u", *old, *new);
      CHECK_EQ (qed_check_backing_name (img, name), 0);
      CHECK_EQ (qed_get_header (img)->header_size, 1);
      CHECK_EQ (qed_set_backing (img, name, true), 0);
      CHECK_EQ (qed_get_header (img)->header_size, fits ? 1 : 2);
      check_named (f, img, name, true, NULL);

      /* Then there is room where the old name was. */
      img = open_writable (f, NULL);
      CHECK_EQ (qed_set_backing (img, long_name (4000), true), 0);
      CHECK_EQ (qed_set_backing (img, NULL, true), 0);
      CHECK_OP (qed_get_header (img)->header_size, <=, 2);
      check_named (f, img, NULL, false, NULL);
    }

  for (const unsigned *new = lengths; *new; new++) {
    struct qed_image *img = open_named (f, NULL, NULL);
    const char *name = long_name (*new);

    CHECK_EQ (qed_set_backing (img, name, false), 0);
    check_named (f, img, name, false, NULL);
    img = open_writable (f, NULL);
    CHECK_EQ (qed_set_backing (img, NULL, true), 0);
    check_named (f, img, NULL, false, NULL);
  }
  mem_file_free (f);
}

/* Bytes of unknown purpose stay, wherever they are. */
static void
test_names_beside (void)
{
  static const unsigned places[][4] = {
    { 64 }, { 70, 200 }, { 511 }, { 512 }, { 511, 512, 513 }, { 600 },
    { 64, 3000 }, { 4095 },
  };
  /* The longest name that has room. */
  static const unsigned room[] = {
    4031, 3895, 3584, 3583, 3582, 3495, 2935, 4031
  };
  struct mem_file *f = mem_file_new ();

  for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
    struct qed_image *img = open_named (f, NULL, places[i]);

    CONTEXT ("case %zu", i);
    CHECK_EQ (qed_set_backing (img, long_name (room[i]), true), 0);
    CHECK_EQ (qed_get_header (img)->header_size, 1);
    check_named (f, img, long_name (room[i]), true, places[i]);

    img = open_named (f, NULL, places[i]);
    CHECK_EQ (qed_set_backing (img, long_name (room[i] + 1), true), 0);
    CHECK_EQ (qed_get_header (img)->header_size, 2);
    check_named (f, img, long_name (room[i] + 1), true, places[i]);
  }
  mem_file_free (f);
}

/* ---- more header clusters ---- */

/* Fill the header clusters, so that no name fits, or their first 64 KiB. */
static void
fill_header (const struct model *m)
{
  uint64_t end = (uint64_t) m->h.header_size * m->h.cluster_size;

  for (uint64_t i = QED_HEADER_BYTES; i < end && i < 1 << 16; i++)
    mem_write (m->file, "#", 1, i);
}

/* The header takes the place of the whole table behind it, so nothing is
 * leaked, and the disk stays as it was.
 */
static void
extend_over_table (uint32_t cluster_size, uint32_t table_size, bool l2)
{
  const uint64_t n = l2 ? table_size : 0, cs = cluster_size;
  struct mem_file *f = mem_file_new ();
  struct qed_image *img;
  struct model m;
  uint8_t before[512], after[512];
  struct audit a;
  uint64_t guest, data;

  CONTEXT ("clusters %u * %u, L2 %d", cluster_size, table_size, l2);
  /* For an L2 table behind the header the L1 table is behind that. */
  model_create_at (&m, f, cluster_size, table_size, 1, 1 + n, 3 * cs);
  m.h.image_size = (model_entries (&m) + 3) * cs;
  model_write_header (&m);
  fill_header (&m);
  if (l2)
    model_set_l1 (&m, 1, cs);
  guest = model_entries (&m) + 2;
  data = model_data (&m, guest);
  mem_read (f, before, sizeof before, data);
  img = open_writable (f, NULL);
  CHECK_EQ (qed_set_backing (img, "new", true), 0);
  CHECK_EQ (qed_get_header (img)->header_size, 1 + table_size);
  CHECK_EQ (qed_get_header (img)->backing_filename_offset, cs);
  CHECK_EQ (qed_get_header (img)->l1_table_offset,
            l2 ? (1 + n) * cs : data + cs);
  CHECK_EQ (qed_close (img), 0);

  CHECK (audit_closed (f, false) == NULL);
  CHECK (audit_image (f, &a));
  CHECK_EQ (a.leaked, 0);
  CHECK (model_open (&m, f));
  CHECK_EQ (model_pread (&m, after, sizeof after, guest * cs), 0);
  CHECK (memcmp (before, after, sizeof after) == 0);
  /* Nothing is left of what was there. */
  mem_read (f, after, sizeof after, cs);
  CHECK (memcmp (after, "new", 3) == 0);
  for (size_t i = 3; i < sizeof after; i++)
    CHECK_EQ (after[i], 0);
  mem_file_free (f);
}

static void
test_headroom (void)
{
  FOR_ALL_GEOMETRIES (cluster_size, table_size)
    for (int l2 = 0; l2 < 2; l2++)
      extend_over_table ((uint32_t) cluster_size, (uint32_t) table_size, l2);
}

/* The image isn't extended when it is corrupt, when the header clusters would
 * reach beyond 4 GiB, and when a device has no room.  Nothing changes then.
 */
static void
test_headroom_refused (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_image *img;
  struct model m;
  uint64_t hash;

  model_create (&m, f, 4096, 1, 1 << 20);
  fill_header (&m);
  model_set (&m, 3, 4096 + 1);
  hash = mem_hash (f);
  img = qed_open (mem_open (f), QED_MIN_CACHE_SIZE);
  CHECK_FAILS (qed_check_backing_name (img, "new"), EIO, MEM_NAME,
               "1 entries", "room for the backing file's name",
               "qed-img check -r all");
  CHECK_EQ (qed_make_writable (img, &write_options), 0);
  CHECK_FAILS (qed_set_backing (img, "new", true), EIO, MEM_NAME,
               "1 entries", "qed-img check -r all");
  CHECK_EQ (qed_close (img), 0);
  CHECK_EQ (mem_hash (f), hash);

  model_create_at (&m, f, 1 << 26, 1, 62, 63, 1 << 20);
  fill_header (&m);
  img = open_writable (f, NULL);
  CHECK_EQ (qed_set_backing (img, "new", true), 0);
  CHECK_EQ (qed_get_header (img)->header_size, 63);
  CHECK_EQ (qed_close (img), 0);
  model_create_at (&m, f, 1 << 26, 1, 63, 63, 1 << 20);
  fill_header (&m);
  hash = mem_hash (f);
  img = open_writable (f, NULL);
  CHECK_FAILS (qed_set_backing (img, "new", true), ENAMETOOLONG, MEM_NAME,
               "room for 0 bytes", "beyond 4 GiB", "shorter name");
  CHECK_EQ (qed_close (img), 0);
  CHECK_EQ (mem_hash (f), hash);

  model_create (&m, f, 4096, 4, 1 << 20);
  fill_header (&m);
  mem_make_device (f, 3 * 4096);
  img = open_writable (f, NULL);
  CHECK_FAILS (qed_set_backing (img, "new", true), ENOSPC, MEM_NAME,
               "are left", "larger");
  CHECK_EQ (qed_close (img), 0);
  CHECK (audit_closed (f, true) == NULL);
  CHECK (model_open (&m, f));
  CHECK_EQ (m.h.header_size, 1);
  mem_file_free (f);
}

static void
test_names_refused (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_image *img;
  struct model m;

  img = open_named (f, "old", NULL);
  CHECK_FAILS (qed_set_backing (img, "", true), EINVAL, MEM_NAME, "0 bytes");
  CHECK_FAILS (qed_set_backing (img, long_name (4096), true), ENAMETOOLONG,
               MEM_NAME, "4096 bytes", "4095");
  check_named (f, img, "old", false, NULL);

  model_create (&m, f, 1 << 16, 4, 1 << 20);
  m.h.compat_features = 0x8000;
  model_write_header (&m);
  img = open_writable (f, NULL);
  CHECK_FAILS (qed_set_backing (img, "new", true), ENOTSUP, MEM_NAME,
               "compat_features 0x8000");
  CHECK_FAILS (qed_set_backing (img, NULL, true), ENOTSUP, MEM_NAME,
               "compat_features 0x8000");
  CHECK_EQ (qed_resize (img, 2 << 20, false, NULL), 0);
  CHECK_EQ (qed_close (img), 0);
  CHECK (model_open (&m, f));
  CHECK_EQ (m.h.compat_features, 0x8000);
  mem_file_free (f);
}

/* The old name may overlap with the header's fields, which stay intact. */
static void
test_name_in_header (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_image *img;
  struct model m;

  model_create (&m, f, 4096, 1, 1 << 20);
  m.h.features = QED_F_BACKING_FILE;
  m.h.backing_filename_offset = 1;
  m.h.backing_filename_size = 2;
  model_write_header (&m);
  img = open_writable (f, NULL);
  CHECK_EQ (qed_set_backing (img, "new", true), 0);
  check_named (f, img, "new", true, NULL);
  mem_file_free (f);
}

/* ---- copying ---- */

/* Clusters larger than the unit of comparing are copied whole, in little
 * memory, and only if something differs.
 */
static void
test_copy_large_clusters (void)
{
  const uint64_t cs = 1 << 24;
  struct mem_file *f = mem_file_new (), *raw = mem_file_new ();
  struct mem_file *other = mem_file_new ();
  struct model m, backing, to;
  struct qed_image *img;
  struct qed_backing *b;
  int64_t bytes;

  mem_truncate (raw, 8 * cs);
  mem_truncate (other, 9 * cs);
  model_raw (&backing, raw);
  model_raw (&to, other);
  for (uint64_t c = 0; c < 6; c++) {
    model_pattern (&backing, c * cs + 5000, 9000);
    model_pattern (&to, c * cs + 5000, 9000);
  }
  model_pattern (&backing, 3 * cs - 100, 50);     /* at the end of cluster 2 */
  model_pattern (&to, 4 * cs + 3 * cs / 4, 50); /* in the middle of 4 */
  model_pattern (&to, 7 * cs - 1, 1);           /* 6 is zeros in raw */
  model_create (&m, f, cs, 1, 8 * cs - 512);
  CHECK (model_open (&m, f));
  img = open_writable (f, qed_backing_raw (mem_open (raw)));
  b = qed_backing_raw (mem_open (other));
  CHECK (b != NULL);

  mem_reset_counters (raw);
  bytes = alloc_bytes ();
  alloc_reset_peak ();
  CHECK_EQ (qed_copy_differing (img, b, NULL), 0);
  CHECK_OP (alloc_peak () - bytes, <, cs);
  CHECK_OP (mem_largest (raw, MEM_PREAD), >=, 1 << 20);
  qed_backing_close (b);
  CHECK_EQ (qed_set_backing (img, "new", true), 0);
  CHECK_EQ (qed_close (img), 0);

  CHECK (model_open (&m, f));
  for (uint64_t c = 0; c < 8; c++) {
    enum qed_run_type want = c == 2 || c == 4 ? QED_RUN_DATA : c == 6 ?
      QED_RUN_ZERO : QED_RUN_UNALLOCATED;
    uint8_t got[16384], wanted[16384];
    static const uint64_t places[] = { 0, 3 << 22, (1 << 24) - 16384 };
    uint64_t entry;

    CONTEXT ("cluster %" PRIu64, c);
    CHECK_EQ (model_lookup (&m, c, &entry), want);
    m.backing = &to;
    for (int i = 0; i < 3; i++) {
      size_t n = c == 7 && i == 2 ? 15000 : sizeof got;

      CHECK_EQ (model_pread (&m, got, n, c * cs + places[i]), 0);
      CHECK_EQ (model_pread (&backing, wanted, n, c * cs + places[i]), 0);
      CHECK (memcmp (got, wanted, n) == 0);
    }
  }
  mem_file_free (f);
  mem_file_free (raw);
  mem_file_free (other);
}

/* Holes aren't read, data is read in large pieces, and equal data isn't
 * copied.
 */
static void
test_copy_reads (void)
{
  struct mem_file *f = mem_file_new (), *raw = mem_file_new ();
  struct model m, backing;
  struct qed_image *img;
  struct qed_backing *b;
  uint64_t size;

  mem_truncate (raw, UINT64_C (1) << 40);
  model_raw (&backing, raw);
  model_pattern (&backing, UINT64_C (5) << 35, 8 << 20);
  model_create (&m, f, 1 << 16, 4, UINT64_C (1) << 40);
  size = mem_size (f);
  img = open_writable (f, qed_backing_raw (mem_open (raw)));
  b = qed_backing_raw (mem_open (raw));
  mem_reset_counters (raw);
  CHECK_EQ (qed_copy_differing (img, b, NULL), 0);
  CHECK_EQ (mem_bytes (raw, MEM_PREAD), 2 * (8 << 20));
  CHECK_EQ (mem_calls (raw, MEM_PREAD), 8);
  CHECK_OP (mem_calls (raw, MEM_NEXT_EXTENT), <, 20);
  qed_backing_close (b);
  CHECK_EQ (qed_close (img), 0);
  CHECK_EQ (mem_size (f), size);
  mem_file_free (f);
  mem_file_free (raw);
}

/* A backing file that can't be read makes the copy fail. */
static void
test_copy_fails (void)
{
  const struct mem_faults faults = {
    .op = MEM_PREAD, .first = 1, .count = 1, .err = EIO
  };

  for (int which = 0; which < 2; which++) {
    struct mem_file *f = mem_file_new (), *files[2] = {
      mem_file_new (), mem_file_new ()
    };
    struct qed_backing *b;
    struct qed_image *img;
    struct model m;

    for (int i = 0; i < 2; i++)
      mem_truncate (files[i], 1 << 20);
    mem_write (files[0], "one", 3, 70000);
    mem_write (files[1], "two", 3, 70000);
    model_create (&m, f, 1 << 16, 4, 1 << 20);
    img = open_writable (f, qed_backing_raw (mem_open (files[0])));
    b = qed_backing_raw (mem_open (files[1]));
    mem_set_faults (files[which], &faults);
    CHECK_FAILS (qed_copy_differing (img, b, NULL), EIO, MEM_NAME);
    CHECK_EQ (qed_copy_differing (img, b, NULL), 0);
    qed_backing_close (b);
    CHECK_EQ (qed_close (img), 0);
    mem_file_free (f);
    mem_file_free (files[0]);
    mem_file_free (files[1]);
  }
}

static void
test_take_backing (void)
{
  struct mem_file *f = mem_file_new (), *raw = mem_file_new ();
  struct qed_backing *b, *taken;
  struct qed_image *img;
  struct model m;
  uint8_t byte;

  mem_truncate (raw, 1 << 20);
  mem_write (raw, "x", 1, 1000);
  model_create (&m, f, 1 << 16, 4, 1 << 20);
  b = qed_backing_raw (mem_open (raw));
  img = qed_open_overlay (mem_open (f), b, QED_MIN_CACHE_SIZE);
  taken = qed_take_backing (img);
  CHECK (taken == b);
  CHECK_EQ (mem_open_storages (f), 0);
  CHECK_EQ (b->ops->pread (b, &byte, 1, 1000), 0);
  CHECK_EQ (byte, 'x');
  qed_backing_close (b);
  img = qed_open (mem_open (f), QED_MIN_CACHE_SIZE);
  CHECK (qed_take_backing (img) == NULL);
  mem_file_free (f);
  mem_file_free (raw);
}

/* ---- emptying ---- */

/* Afterwards the L1 table follows the header, wherever it was. */
static void
test_empty_moves_l1 (void)
{
  for (uint64_t l1 = 3; l1 < 12; l1++) {
    struct mem_file *f = mem_file_new ();
    struct qed_image *img;
    struct model m;
    struct audit a;

    model_create_at (&m, f, CLUSTER, 4, 2, l1, 1 << 20);
    model_pattern (&m, 2 * CLUSTER, (l1 - 2) * CLUSTER);
    model_data (&m, 5);
    img = open_writable (f, NULL);
    CHECK_EQ (qed_empty (img), 0);
    CHECK_EQ (qed_close (img), 0);
    CHECK (audit_closed (f, false) == NULL);
    CHECK (audit_image (f, &a));
    CHECK_EQ (a.leaked, 0);
    CHECK_EQ (mem_size (f), 6 * CLUSTER);
    for (uint64_t i = 0; i < 4 * CLUSTER; i += 8)
      CHECK_EQ (model_get64 (&m, 2 * CLUSTER + i), 0);
    mem_file_free (f);
  }
}

HARNESS_MAIN (
  TEST (test_crash),
  TEST (test_fault_once),
  TEST (test_device_crash),
  TEST (test_device_fault),
  TEST (test_fault_for_good),
  TEST (test_lie_sync),
  TEST (test_crash_without_punch),
  TEST (test_sizes),
  TEST (test_largest),
  TEST (test_random),
  TEST (test_64t),
  TEST (test_corrupt),
  TEST (test_shared_table),
  TEST (test_grow_lost),
  TEST (test_names),
  TEST (test_names_beside),
  TEST (test_headroom),
  TEST (test_headroom_refused),
  TEST (test_names_refused),
  TEST (test_name_in_header),
  TEST (test_copy_large_clusters),
  TEST (test_copy_reads),
  TEST (test_copy_fails),
  TEST (test_take_backing),
  TEST (test_empty_moves_l1),
)
