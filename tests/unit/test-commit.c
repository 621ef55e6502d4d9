/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Committing an overlay to its backing file: the disk reads the same before,
 * during and after it.  That also holds when any operation fails, and for all
 * states of the two files that a power failure at one moment can leave.  A
 * commit that was interrupted can be repeated, with the same result.
 */

#include <config.h>

#include <fcntl.h>

#include "harness.h"
#include "memory-storage.h"
#include "model.h"
#include "recorder.h"

#define CS UINT64_C (4096)
#define DISK (40 * CS + 3 * QED_SECTOR_SIZE)

/* The backing file of the overlay. */
enum kind {
  RAW,                          /* as long as the disk */
  RAW_LONG,
  RAW_SHORT,                    /* must grow; ends within a sector */
  RAW_SECTOR,                   /* ends within the disk's last sector */
  RAW_EMPTY,
  QED,
  QED_LARGE_CLUSTERS,
  QED_SMALL,                    /* must grow */
  QED_SMALL_OVER,               /* and has a longer backing file */
  NR_KINDS
};

/* The images between the two, if any: then the commit doesn't change the
 * overlay.
 */
enum between {
  NOTHING,
  SAME,                         /* one of the same size and geometry */
  SHORT,
  LONG,
  SHORT_OVER_LONG,
  LONG_OVER_SHORT,
  NR_BETWEENS
};

/* The images between BASE and OVERLAY; NULL if there is none. */
enum { OVERLAY, BASE, BOTTOM, UPPER, LOWER, NR_FILES };

/* The overlay and a QED backing file are in devices with so many clusters of
 * old content behind.
 */
#define DEVICE_CLUSTERS 50
static bool device;

struct session {
  enum kind kind;
  enum between between;
  struct mem_file *files[NR_FILES];
  uint64_t hashes[NR_FILES];            /* of OVERLAY, UPPER, LOWER */
  struct recorder *recorders[NR_FILES]; /* of OVERLAY and BASE, or NULL */
  uint8_t disk[DISK];                   /* its expected content */
  uint64_t backing;                     /* hash of BOTTOM */
};

static bool
is_raw (const struct session *s)
{
  return s->kind < QED;
}

/* ---- making ---- */

static uint64_t
raw_size (enum kind kind)
{
  switch (kind) {
  case RAW_LONG: return DISK + 2 * CS + 77;
  case RAW_SHORT: return 9 * CS + 1000;
  case RAW_SECTOR: return DISK - 300;
  case RAW_EMPTY: return 0;
  default: return DISK;
  }
}

static void
make_raw (struct model *m, struct mem_file *f, uint64_t size)
{
  mem_truncate (f, size);
  model_raw (m, f);
  model_pattern (m, 0, size);
  if (size > 6 * CS)
    mem_punch (f, 4 * CS, CS);
}

/* Clusters of all kinds next to each other, over data of the backing file. */
static void
make_base (struct session *s, struct model *m, struct model *backing)
{
  uint32_t cs = s->kind == QED_LARGE_CLUSTERS ? 16384 : 4096;
  uint64_t size = s->kind >= QED_SMALL ? 17 * CS + 512 : DISK;

  if (is_raw (s)) {
    make_raw (m, s->files[BASE], raw_size (s->kind));
    return;
  }
  model_create (m, s->files[BASE], cs, 1, size);
  if (s->kind == QED_SMALL_OVER) {
    s->files[BOTTOM] = mem_file_new ();
    make_raw (backing, s->files[BOTTOM], 30 * CS + 100);
    model_name_backing (m);
    m->backing = backing;
  }
  for (uint64_t c = 0; c < model_clusters (m); c++)
    if (c % 3 == 0)
      model_data (m, c);
    else if (c % 5 == 0)
      model_set (m, c, 1);
}

/* An image that is one of FILES, with BACKING as its backing file and entries
 * for some of its clusters.
 */
static void
make_between (struct session *s, int file, struct model *m, uint32_t cs,
              uint32_t ts, uint64_t size, const struct model *backing)
{
  s->files[file] = mem_file_new ();
  model_create (m, s->files[file], cs, ts, size);
  model_name_backing (m);
  m->backing = backing;
  for (uint64_t c = 0; c < model_clusters (m); c++)
    if ((c + (uint64_t) file) % 6 == 0)
      model_data (m, c);
    else if ((c + (uint64_t) file) % 6 == 2)
      model_set (m, c, 1);
  m->file_size = mem_size (s->files[file]);
}

/* Returns the direct backing file of the overlay; MODELS: UPPER and LOWER. */
static const struct model *
make_all_between (struct session *s, struct model models[2],
                  const struct model *base)
{
  const uint64_t small = 22 * CS + 1024, large = DISK + 9 * CS + 512;

  switch (s->between) {
  case NOTHING:
    return base;
  case SAME:
    make_between (s, UPPER, &models[0], CS, 1, DISK, base);
    break;
  case SHORT:
    make_between (s, UPPER, &models[0], CS, 1, small, base);
    break;
  case LONG:
    make_between (s, UPPER, &models[0], 2 * CS, 2, large, base);
    break;
  case SHORT_OVER_LONG:
    make_between (s, LOWER, &models[1], CS, 4, large, base);
    make_between (s, UPPER, &models[0], 2 * CS, 1, small, &models[1]);
    break;
  case LONG_OVER_SHORT:
    make_between (s, LOWER, &models[1], 4 * CS, 1, small, base);
    make_between (s, UPPER, &models[0], CS, 2, large, &models[1]);
    break;
  case NR_BETWEENS:
    abort ();
  }
  return &models[0];
}

static void
make_with (struct session *s, enum kind kind, enum between between)
{
  struct model overlay, base, backing, models[2];
  const struct model *upper;

  *s = (struct session) { .kind = kind, .between = between };
  s->files[OVERLAY] = mem_file_new ();
  s->files[BASE] = mem_file_new ();
  make_base (s, &base, &backing);
  if (!is_raw (s))
    base.file_size = mem_size (s->files[BASE]);
  upper = make_all_between (s, models, &base);
  model_create (&overlay, s->files[OVERLAY], CS, 1, DISK);
  model_name_backing (&overlay);
  for (uint64_t c = 0; c < model_clusters (&overlay); c++)
    if (c % 4 == 1 || c % 7 == 6)
      model_data (&overlay, c);
    else if (c % 4 == 2)
      model_set (&overlay, c, 1);
  /* A data cluster that has a hole. */
  mem_punch (s->files[OVERLAY], model_data (&overlay, 10), 2 * 512);
  CHECK (model_open (&overlay, s->files[OVERLAY]));
  overlay.backing = upper;
  CHECK_EQ (model_pread (&overlay, s->disk, DISK, 0), 0);
  if (s->files[BOTTOM])
    s->backing = mem_hash (s->files[BOTTOM]);
  if (device) {
    mem_make_device (s->files[OVERLAY], DEVICE_CLUSTERS * CS);
    if (!is_raw (s))
      mem_make_device (s->files[BASE], DEVICE_CLUSTERS * CS);
  }
  for (int i = 0; i < NR_FILES; i++)
    if (s->files[i])
      s->hashes[i] = mem_hash (s->files[i]);
}

static void
make (struct session *s, enum kind kind)
{
  make_with (s, kind, NOTHING);
}

static void
free_files (struct session *s)
{
  for (int i = 0; i < NR_FILES; i++)
    if (s->files[i]) {
      CHECK_EQ (mem_open_storages (s->files[i]), 0);
      mem_file_free (s->files[i]);
    }
}

/* ---- opening ---- */

/* The lengths of both logs before each operation that is recorded. */
#define MAX_MOMENTS 5000
static struct moment { size_t overlay, base; } moments[MAX_MOMENTS];
static size_t nr_moments;
static struct session *recorded;

static void
note_moment (void)
{
  CHECK_OP (nr_moments, <, MAX_MOMENTS);
  moments[nr_moments++] = (struct moment) {
    recorder_length (recorded->recorders[OVERLAY]),
    recorder_length (recorded->recorders[BASE]),
  };
}

static const struct qed_storage_ops *recorder_ops;
static struct qed_storage_ops noting_ops;

static ssize_t
noting_pwrite (struct qed_storage *st, const void *buf, size_t count,
               uint64_t offset)
{
  note_moment ();
  return recorder_ops->pwrite (st, buf, count, offset);
}

static int
noting_resize (struct qed_storage *st, uint64_t size)
{
  note_moment ();
  return recorder_ops->resize (st, size);
}

static int
noting_sync (struct qed_storage *st)
{
  note_moment ();
  return recorder_ops->sync (st);
}

static int
noting_punch (struct qed_storage *st, uint64_t offset, uint64_t length)
{
  note_moment ();
  return recorder_ops->punch (st, offset, length);
}

static int
noting_zero (struct qed_storage *st, uint64_t offset, uint64_t length)
{
  note_moment ();
  return recorder_ops->zero (st, offset, length);
}

static struct qed_storage *
open_file (const struct session *s, int i)
{
  struct qed_storage *st;

  if (s->recorders[i] == NULL)
    return mem_open (s->files[i]);
  st = recorder_open (s->recorders[i]);
  recorder_ops = st->ops;
  noting_ops = *recorder_ops;
  noting_ops.pwrite = noting_pwrite;
  noting_ops.resize = noting_resize;
  noting_ops.sync = noting_sync;
  noting_ops.punch = noting_punch;
  noting_ops.zero = noting_zero;
  st->ops = &noting_ops;
  return st;
}

/* NULL: it failed. */
static struct qed_image *
open_image_on (const struct session *s, int i, struct qed_backing *b)
{
  struct qed_storage *st = open_file (s, i);
  struct qed_image *img = qed_open_overlay (st, b, QED_MIN_CACHE_SIZE);

  if (img == NULL) {
    qed_storage_close (st);
    qed_backing_close (b);
  }
  return img;
}

static struct qed_image *
open_base (const struct session *s)
{
  struct qed_backing *b = NULL;

  if (s->files[BOTTOM]) {
    b = qed_backing_raw (mem_open (s->files[BOTTOM]));
    CHECK (b != NULL);
  }
  return open_image_on (s, BASE, b);
}

/* Open the overlay over the images between, over B. */
static struct qed_image *
open_overlay_on (const struct session *s, struct qed_backing *b)
{
  for (int i = LOWER; i >= UPPER; i--)
    if (s->files[i]) {
      struct qed_image *img = open_image_on (s, i, b);

      CHECK (img != NULL);
      b = qed_backing_image (img);
      CHECK (b != NULL);
    }
  return open_image_on (s, OVERLAY, b);
}

static int
commit_with (const struct session *s, bool keep,
             const struct qed_progress *progress)
{
  int r;

  do {
    struct qed_pair pair = { .img = open_overlay_on (s, NULL) };

    if (is_raw (s))
      pair.raw = open_file (s, BASE);
    else
      pair.base = open_base (s);
    if (pair.img == NULL || (pair.raw == NULL && pair.base == NULL)) {
      qed_close_pair (&pair);
      return -1;
    }
    r = qed_commit_pair (&pair, keep, progress);
    for (int i = 0; i < NR_FILES; i++)
      if (s->files[i])
        CHECK_EQ (mem_open_storages (s->files[i]), 0);
  } while (r == 1);
  return r;
}

static int
commit (const struct session *s)
{
  return commit_with (s, s->between != NOTHING, NULL);
}

/* ---- what must hold ---- */

/* The disk reads the same as before the commit. */
static void
check_disk (const struct session *s)
{
  static uint8_t buf[DISK];
  struct qed_backing *b;
  struct qed_image *img;

  b = is_raw (s) ? qed_backing_raw (open_file (s, BASE)) :
    qed_backing_image (open_base (s));
  CHECK (b != NULL);
  img = open_overlay_on (s, b);
  CHECK (img != NULL);
  memset (buf, 0xda, sizeof buf);
  CHECK_EQ (qed_pread (img, buf, DISK, 0), 0);
  for (size_t i = 0; i < DISK; i++)
    if (buf[i] != s->disk[i])
      harness_fail (__FILE__, __LINE__, "byte %zu (cluster %zu) is %02x, "
                    "should be %02x", i, i / CS, buf[i], s->disk[i]);
  qed_close (img);
}

/* The backing file has the disk's content and the overlay is empty.  With
 * images between the two the overlay is unchanged instead.
 */
static void
check_committed (const struct session *s, bool leaks)
{
  static uint8_t buf[DISK];
  struct model m, backing;
  const char *why;

  check_disk (s);
  if (is_raw (s)) {
    uint64_t size = raw_size (s->kind);

    mem_read (s->files[BASE], buf, DISK, 0);
    CHECK_EQ (mem_size (s->files[BASE]), size + 511 < DISK ? DISK : size);
  }
  else {
    CHECK (model_open (&m, s->files[BASE]));
    CHECK_EQ (m.h.image_size, DISK);
    if (s->files[BOTTOM]) {
      model_raw (&backing, s->files[BOTTOM]);
      m.backing = &backing;
      CHECK_EQ (mem_hash (s->files[BOTTOM]), s->backing);
    }
    CHECK_EQ (model_pread (&m, buf, DISK, 0), 0);
    why = audit_closed (s->files[BASE], leaks);
    CHECK_STR (why ? why : "", "");
  }
  for (size_t i = 0; i < DISK; i++)
    if (buf[i] != s->disk[i])
      harness_fail (__FILE__, __LINE__, "backing: byte %zu (cluster %zu) is "
                    "%02x, should be %02x", i, i / CS, buf[i], s->disk[i]);

  if (s->between != NOTHING) {
    for (int i = 0; i < NR_FILES; i++)
      if (i != BASE && s->files[i])
        CHECK_EQ (mem_hash (s->files[i]), s->hashes[i]);
    return;
  }
  CHECK (model_open (&m, s->files[OVERLAY]));
  for (uint64_t c = 0; c < model_clusters (&m); c++) {
    uint64_t entry;

    CHECK_EQ (model_lookup (&m, c, &entry), QED_RUN_UNALLOCATED);
  }
  why = audit_closed (s->files[OVERLAY], leaks);
  CHECK_STR (why ? why : "", "");
}

/* ---- tests ---- */

struct told {
  uint64_t calls, done, total;
};

static void
tell (void *opaque, uint64_t done, uint64_t total)
{
  struct told *t = opaque;

  CHECK_OP (done, >=, t->done);
  CHECK_OP (done, <=, total);
  if (t->calls++ > 0)
    CHECK_EQ (total, t->total);
  t->done = done;
  t->total = total;
}

static void
test_commit (void)
{
  for (int kind = 0; kind < NR_KINDS; kind++)
    for (int between = 0; between < NR_BETWEENS; between++) {
      struct told told = { .calls = 0 };
      const struct qed_progress progress = { tell, &told };
      struct session s;

      CONTEXT ("kind %d, between %d", kind, between);
      make_with (&s, (enum kind) kind, (enum between) between);
      check_disk (&s);
      CHECK_EQ (commit_with (&s, between != NOTHING, &progress), 0);
      check_committed (&s, false);
      CHECK_OP (told.calls, >, 5);
      CHECK_EQ (told.done, told.total);
      /* A second commit has nothing to do. */
      CHECK_EQ (commit (&s), 0);
      check_committed (&s, false);
      free_files (&s);
    }
}

/* A commit doesn't copy clusters that neither the overlay nor an image between
 * has.  But the range past the end of an image between is copied, as zeros.
 */
static void
test_between_total (void)
{
  struct told told = { .calls = 0 };
  const struct qed_progress progress = { tell, &told };
  struct session s = { .kind = RAW, .between = SHORT };
  struct model overlay, base, upper;

  s.files[OVERLAY] = mem_file_new ();
  s.files[BASE] = mem_file_new ();
  s.files[UPPER] = mem_file_new ();
  make_raw (&base, s.files[BASE], DISK);
  model_create (&upper, s.files[UPPER], CS, 1, 20 * CS);
  model_name_backing (&upper);
  model_data (&upper, 3);
  model_set (&upper, 4, 1);
  model_create (&overlay, s.files[OVERLAY], CS, 1, DISK);
  model_name_backing (&overlay);
  model_data (&overlay, 4);
  model_data (&overlay, 10);
  model_data (&overlay, 30);
  s.hashes[OVERLAY] = mem_hash (s.files[OVERLAY]);
  s.hashes[UPPER] = mem_hash (s.files[UPPER]);
  upper.backing = &base;
  upper.file_size = mem_size (s.files[UPPER]);
  overlay.backing = &upper;
  overlay.file_size = mem_size (s.files[OVERLAY]);
  CHECK_EQ (model_pread (&overlay, s.disk, DISK, 0), 0);
  CHECK_EQ (commit_with (&s, true, &progress), 0);
  check_committed (&s, false);
  CHECK_EQ (told.total, 3 * CS + (DISK - 20 * CS));
  free_files (&s);
}

/* The overlay doesn't change, so it need not be writable. */
static void
test_keep (void)
{
  const struct mem_faults fault = {
    .op = MEM_MAKE_WRITABLE, .first = 1, .count = 1, .err = EACCES,
  };

  for (int kind = 0; kind < NR_KINDS; kind++) {
    struct session s;
    uint64_t hash;

    CONTEXT ("kind %d", kind);
    make (&s, (enum kind) kind);
    hash = mem_hash (s.files[OVERLAY]);
    mem_set_faults (s.files[OVERLAY], &fault);
    CHECK_EQ (commit_with (&s, true, NULL), 0);
    CHECK_EQ (mem_hash (s.files[OVERLAY]), hash);
    check_disk (&s);
    CHECK_FAILS (commit (&s), EACCES, "");
    CHECK_EQ (commit (&s), 0);
    check_committed (&s, false);
    free_files (&s);
  }
}

/* Zeros on a filesystem that can't punch holes, or that can only write. */
static void
test_no_holes (void)
{
  for (int kind = 0; kind < NR_KINDS; kind++)
    for (int i = 0; i < 2; i++) {
      const struct mem_faults fault = { .no_punch = true, .no_zero = i };
      struct session s;

      CONTEXT ("kind %d, %d", kind, i);
      make (&s, (enum kind) kind);
      mem_set_faults (s.files[BASE], &fault);
      CHECK_EQ (commit (&s), 0);
      check_committed (&s, false);
      free_files (&s);
    }
}

static ssize_t
know_no_holes (void *opaque __attribute__ ((unused)), enum mem_op op,
               uint64_t offset __attribute__ ((unused)), size_t count)
{
  errno = EOPNOTSUPP;
  return op == MEM_NEXT_EXTENT ? -1 : (ssize_t) count;
}

/* The filesystem doesn't report holes either: reserved space is used all the
 * same, and closing the file moves nothing.
 */
static void
test_reserve_without_holes (void)
{
  for (int kind = QED; kind < NR_KINDS; kind++) {
    const struct mem_faults fault = { .no_punch = true, .no_zero = true };
    uint64_t written[2];
    struct session s;

    CONTEXT ("kind %d", kind);
    for (int i = 0; i < 2; i++) {
      make (&s, (enum kind) kind);
      mem_set_faults (s.files[BASE], &fault);
      if (i == 1)
        mem_set_hook (s.files[BASE], know_no_holes, NULL);
      CHECK_EQ (commit (&s), 0);
      written[i] = mem_bytes (s.files[BASE], MEM_PWRITE);
      mem_set_hook (s.files[BASE], NULL, NULL);
      check_committed (&s, false);
      free_files (&s);
    }
    CHECK_EQ (written[1], written[0]);
  }
}

/* Zeros give space back, and take none. */
static void
test_holes (void)
{
  struct session s;
  bool hole;

  make (&s, RAW);
  CHECK_EQ (commit (&s), 0);
  mem_next_extent (s.files[BASE], 2 * CS, &hole);
  CHECK (hole);
  mem_next_extent (s.files[BASE], 10 * CS, &hole);
  CHECK (hole);
  free_files (&s);

  make (&s, RAW_EMPTY);
  CHECK_EQ (commit (&s), 0);
  mem_next_extent (s.files[BASE], 2 * CS, &hole);
  CHECK (hole);
  free_files (&s);
}

/* The overlay's slices without entries are searched once, not for each of the
 * many runs of the backing file.
 */
static void
test_work_between (void)
{
  const uint64_t clusters = 8192;
  struct session s = { .kind = RAW_LONG, .between = SAME };
  struct model m;

  for (int i = 0; i <= UPPER; i++)
    if (i != BOTTOM)
      s.files[i] = mem_file_new ();
  mem_truncate (s.files[BASE], clusters * CS);
  model_create (&m, s.files[UPPER], CS, 16, clusters * CS);
  model_name_backing (&m);
  for (uint64_t c = 0; c < clusters; c += 2)
    model_set (&m, c, 1);
  model_create (&m, s.files[OVERLAY], CS, 16, clusters * CS);
  model_name_backing (&m);
  for (uint64_t c = 511; c < clusters; c += 512)
    model_set (&m, c, 1); /* so that they are not holes */
  for (uint64_t c = 511; c < clusters - 512; c += 512)
    model_set (&m, c, 0);
  CHECK_EQ (commit_with (&s, true, NULL), 0);
  CHECK_OP (mem_calls (s.files[OVERLAY], MEM_ANY), <, 500);
  free_files (&s);
}

/* Two ranges with one L2 table, of which a hostile image may have millions. */
static void
test_shared_tables (void)
{
  static const int which[] = { OVERLAY, BASE, UPPER };

  for (size_t i = 0; i < sizeof which / sizeof which[0]; i++) {
    uint64_t hashes[NR_FILES] = { 0 };
    struct session s;
    struct model m;

    CONTEXT ("file %d", which[i]);
    make_with (&s, QED, which[i] == UPPER ? SAME : NOTHING);
    CHECK (model_open (&m, s.files[which[i]]));
    model_set_l1 (&m, 1, model_get_l1 (&m, 0));
    for (int j = 0; j < NR_FILES; j++)
      if (s.files[j])
        hashes[j] = mem_hash (s.files[j]);
    CHECK_FAILS (commit (&s), EIO, "some of its L2 tables overlap",
                 "qed-img check -r all");
    for (int j = 0; j < NR_FILES; j++)
      if (s.files[j])
        CHECK_EQ (mem_hash (s.files[j]), hashes[j]);
    free_files (&s);
  }
}

/* Nothing is written at all. */
static void
test_unsound (void)
{
  for (int kind = 0; kind < NR_KINDS; kind++)
    for (int i = OVERLAY; i <= BASE; i++) {
      uint64_t overlay, base;
      struct session s;
      struct model m;

      if (i == BASE && kind < QED)
        continue;
      make (&s, (enum kind) kind);
      CHECK (model_open (&m, s.files[i]));
      model_set (&m, 7, 12345);
      overlay = mem_hash (s.files[OVERLAY]);
      base = mem_hash (s.files[BASE]);
      CHECK_FAILS (commit (&s), EIO, "0x3039", "check -r all");
      CHECK_EQ (mem_hash (s.files[OVERLAY]), overlay);
      CHECK_EQ (mem_hash (s.files[BASE]), base);
      free_files (&s);
    }
}

/* The same if that is an image between. */
static void
test_unsound_between (void)
{
  for (int kind = 0; kind < NR_KINDS; kind++)
    for (int i = UPPER; i <= LOWER; i++) {
      struct session s;
      struct model m;
      uint64_t base;

      CONTEXT ("kind %d, file %d", kind, i);
      make_with (&s, (enum kind) kind, LONG_OVER_SHORT);
      CHECK (model_open (&m, s.files[i]));
      for (uint64_t c = 0; c < model_clusters (&m); c++)
        model_set (&m, c, 12345);
      base = mem_hash (s.files[BASE]);
      CHECK_FAILS (commit (&s), EIO, "0x3039", "check -r all");
      CHECK_EQ (mem_hash (s.files[BASE]), base);
      CHECK_EQ (mem_hash (s.files[OVERLAY]), s.hashes[OVERLAY]);
      free_files (&s);
    }
}

/* An overlay larger than the backing image's geometry can map. */
static void
test_too_large (void)
{
  struct session s;
  struct model m;

  make (&s, QED);
  CHECK (model_open (&m, s.files[OVERLAY]));
  m.h.table_size = 2;
  model_create (&m, s.files[OVERLAY], CS, 2, (1 << 30) + 512);
  model_name_backing (&m);
  CHECK_FAILS (commit (&s), EINVAL, "at most 1073741824");
  free_files (&s);
}

/* Valgrind is slow. */
static unsigned
step (void)
{
  return getenv ("NBDKIT_VALGRIND") ? 7 : 1;
}

/* Each operation on each of the files fails, once or from then on. */
static void
fail_all (enum kind kind, enum between between, int file, bool once)
{
  for (uint64_t k = 1;; k += step ()) {
    const struct mem_faults fault = {
      .op = MEM_ANY, .first = k, .count = once ? 1 : UINT64_MAX, .err = EIO,
    };
    struct session s;
    uint64_t calls;
    int r;

    CONTEXT ("kind %d, between %d, file %d, call %" PRIu64, kind, between,
             file, k);
    make_with (&s, kind, between);
    mem_set_faults (s.files[file], &fault);
    r = commit (&s);
    calls = mem_calls (s.files[file], MEM_ANY);
    mem_set_faults (s.files[file], NULL);
    if (r == 0)
      check_committed (&s, false);
    else {
      CHECK_EQ (errno, EIO);
      check_disk (&s);
      CHECK_EQ (commit (&s), 0);
      check_committed (&s, true);
    }
    free_files (&s);
    if (calls < k) {
      CHECK_EQ (r, 0);
      CHECK_OP (k, >, 5);
      break;
    }
  }
}

static void
test_faults (void)
{
  for (int kind = 0; kind < NR_KINDS; kind++)
    for (int file = OVERLAY; file <= BASE; file++)
      for (int once = 0; once < 2; once++) {
        fail_all ((enum kind) kind, NOTHING, file, once);
        fail_all ((enum kind) kind, SHORT_OVER_LONG, file, once);
      }
}

/* ---- power failures ---- */

static uint64_t states;

/* A state that a crash leaves: it reads as before, and can be committed. */
static void
check_state (const struct session *s, size_t overlay, size_t base,
             enum recorder_keep keep_overlay, enum recorder_keep keep_base,
             struct rng *rng)
{
  struct session now = *s;

  CONTEXT ("kind %d, between %d, cuts %zu and %zu, kept %d and %d", s->kind,
           s->between, overlay, base, keep_overlay, keep_base);
  memset (now.recorders, 0, sizeof now.recorders);
  now.files[OVERLAY] = mem_file_new ();
  now.files[BASE] = mem_file_new ();
  recorder_rebuild (s->recorders[OVERLAY], overlay, keep_overlay, rng,
                    now.files[OVERLAY]);
  recorder_rebuild (s->recorders[BASE], base, keep_base, rng,
                    now.files[BASE]);
  check_disk (&now);
  CHECK_EQ (commit (&now), 0);
  check_committed (&now, true);
  mem_file_free (now.files[OVERLAY]);
  mem_file_free (now.files[BASE]);
  states++;
}

static void
check_cuts (const struct session *s, size_t overlay, size_t base,
            struct rng *rng)
{
  for (int i = 0; i < 4; i++)
    check_state (s, overlay, base, i & 1 ? KEEP_ALL : KEEP_NOTHING,
                 i & 2 ? KEEP_ALL : KEEP_NOTHING, rng);
  for (int i = 0; i < 4; i++)
    check_state (s, overlay, base, KEEP_SOME, KEEP_SOME, rng);
}

/* All cuts, each of which is a cut through both logs. */
static void
crash (enum kind kind, enum between between)
{
  struct session s;
  struct rng rng = { (uint64_t) kind };

  make_with (&s, kind, between);
  s.recorders[OVERLAY] = recorder_new (s.files[OVERLAY], LIE_NONE);
  s.recorders[BASE] = recorder_new (s.files[BASE], LIE_NONE);
  recorded = &s;
  nr_moments = 0;
  CHECK_EQ (commit (&s), 0);
  note_moment ();

  for (size_t i = 0; i + 1 < nr_moments; i += step ()) {
    const struct moment *m = &moments[i];

    check_cuts (&s, m->overlay, m->base, &rng);
    /* In the middle of an operation that logs several events. */
    for (size_t cut = m->overlay + 1; cut < m[1].overlay; cut++)
      check_cuts (&s, cut, m->base, &rng);
    for (size_t cut = m->base + 1; cut < m[1].base; cut++)
      check_cuts (&s, m->overlay, cut, &rng);
  }
  check_cuts (&s, moments[nr_moments - 1].overlay,
              moments[nr_moments - 1].base, &rng);
  recorder_free (s.recorders[OVERLAY]);
  recorder_free (s.recorders[BASE]);
  s.recorders[OVERLAY] = s.recorders[BASE] = NULL;
  check_committed (&s, false);
  free_files (&s);
}

static void
test_crash (void)
{
  for (int kind = 0; kind < NR_KINDS; kind++)
    crash ((enum kind) kind, NOTHING);
  printf ("  %" PRIu64 " states\n", states);
}

static void
test_crash_between (void)
{
  uint64_t before = states;

  for (int kind = 0; kind < NR_KINDS; kind++)
    for (int between = SHORT_OVER_LONG; between < NR_BETWEENS; between++)
      crash ((enum kind) kind, (enum between) between);
  printf ("  %" PRIu64 " states\n", states - before);
}

/* Devices aren't cut, nor is space reserved in them. */
static void
test_device (void)
{
  uint64_t before = states;

  device = true;
  test_commit ();
  test_keep ();
  test_no_holes ();
  for (int kind = RAW; kind < NR_KINDS; kind++)
    if (kind == RAW || kind >= QED) {
      for (int file = OVERLAY; file <= BASE; file++)
        fail_all ((enum kind) kind, NOTHING, file, true);
      crash ((enum kind) kind, NOTHING);
    }
  device = false;
  printf ("  %" PRIu64 " states\n", states - before);
}

/* The base's device is full: the disk reads as before, and when there is room
 * the same commit succeeds.
 */
static void
test_device_full (void)
{
  struct session s;

  make (&s, QED);
  mem_make_device (s.files[BASE], 3 * CS);
  CHECK_FAILS (commit (&s), ENOSPC, MEM_NAME, "no more clusters");
  check_disk (&s);
  mem_make_device (s.files[BASE], 50 * CS);
  CHECK_EQ (commit (&s), 0);
  check_committed (&s, true);
  free_files (&s);
}

/* ---- real files ---- */

/* The locked bytes of the file from 100 and 200 on: DESIGN.md, Locking. */
static unsigned
locks_of (const char *name)
{
  int fd = open (name, O_RDWR);
  unsigned r = 0;

  CHECK (fd >= 0);
  for (int i = 0; i < 8; i++) {
    struct flock fl = {
      .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1,
      .l_start = i < 4 ? 100 + i : 200 + i - 4,
    };

    CHECK (fcntl (fd, F_OFD_GETLK, &fl) == 0);
    r |= fl.l_type == F_UNLCK ? 0 : 1U << i;
  }
  close (fd);
  return r;
}

/* A commit to a raw backing file takes the locks of a writer; before that the
 * file has those of a reader.
 */
static void
test_locks (void)
{
  const unsigned reader = 0xa1, raw_reader = 0x01, writer = 0xab;
  char dir[] = "test-commit.XXXXXX";
  const struct qed_create_options create = {
    .image_size = 1 << 20, .backing = "base.raw", .backing_raw = true,
  };
  struct qed_chain_options opts = {
    .lock = true, .cache_size = QED_MIN_CACHE_SIZE,
  };
  struct qed_pair pair;
  int fd;

  CHECK (mkdtemp (dir) != NULL);
  CHECK (chdir (dir) == 0);
  fd = open ("base.raw", O_WRONLY | O_CREAT, 0666);
  CHECK (fd >= 0 && ftruncate (fd, 1 << 20) == 0);
  close (fd);
  CHECK_EQ (qed_create ("x.qed", &create), 0);

  CHECK_EQ (qed_open_pair ("x.qed", NULL, &opts, &pair), 0);
  CHECK (pair.img && pair.raw && !pair.base);
  if (locks_of ("x.qed") == 0)
    printf ("no locks on this filesystem\n");
  else {
    CHECK_EQ (locks_of ("x.qed"), reader);
    CHECK_EQ (locks_of ("base.raw"), raw_reader);
    CHECK_EQ (pair.raw->ops->make_writable (pair.raw), 0);
    CHECK_EQ (locks_of ("base.raw"), writer);
    pair.raw->ops->make_readonly (pair.raw);
    CHECK_EQ (locks_of ("base.raw"), raw_reader);
  }
  qed_close_pair (&pair);
  CHECK_EQ (locks_of ("base.raw"), 0);

  CHECK_EQ (qed_commit ("x.qed", NULL, &opts, false, NULL), 0);
  CHECK (unlink ("base.raw") == 0 && unlink ("x.qed") == 0);
  CHECK (chdir ("..") == 0 && rmdir (dir) == 0);
}

HARNESS_MAIN (
  TEST (test_commit),
  TEST (test_between_total),
  TEST (test_keep),
  TEST (test_no_holes),
  TEST (test_reserve_without_holes),
  TEST (test_holes),
  TEST (test_work_between),
  TEST (test_shared_tables),
  TEST (test_unsound),
  TEST (test_unsound_between),
  TEST (test_too_large),
  TEST (test_faults),
  TEST (test_crash),
  TEST (test_crash_between),
  TEST (test_device),
  TEST (test_device_full),
  TEST (test_locks),
)
