/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Images in a device, which has a size of its own and old content behind the
 * image.  New clusters come from behind what is in use, which is found in the
 * tables.  They read as zeros (I2), since the space is zeroed in large steps.
 * A full device refuses what needs new clusters and nothing else.  And an image
 * is created in a device so that a crash leaves the old one, none, or the new
 * one.
 *
 * test-crash, test-fault, test-concurrent and those of offline operations have
 * tests with devices, too.
 */

#include <config.h>

#include <unistd.h>

#include "damage.h"
#include "recorder.h"

#define CS UINT64_C (4096)
#define DISK (UINT64_C (1) << 24)

static const struct qed_write_options no_thread;

static struct qed_image *
open_writable (struct mem_file *f, const struct qed_write_options *opts)
{
  struct qed_image *img = qed_open (mem_open (f), QED_MIN_CACHE_SIZE);

  CHECK (img != NULL);
  CHECK_EQ (qed_make_writable (img, opts), 0);
  return img;
}

/* A new image with the smallest clusters in a device with as many more. */
static struct qed_image *
new_image (struct mem_file *f, uint64_t clusters,
           const struct qed_write_options *opts)
{
  struct model m;

  model_create (&m, f, CS, 1, DISK);
  mem_make_device (f, clusters * CS);
  return open_writable (f, opts);
}

static uint8_t *
filled (size_t count, int c)
{
  static uint8_t buf[1 << 20];

  CHECK_OP (count, <=, sizeof buf);
  return memset (buf, c, count);
}

static void
check_content (struct qed_image *img, uint64_t offset, size_t count, int c)
{
  static uint8_t buf[1 << 23];

  CHECK_OP (count, <=, sizeof buf);
  CHECK_EQ (qed_pread (img, buf, count, offset), 0);
  for (size_t i = 0; i < count; i++)
    if (buf[i] != c)
      harness_fail (__FILE__, __LINE__, "byte %#" PRIx64 " is %d, not %d",
                    offset + i, buf[i], c);
}

static uint64_t
features (struct mem_file *f)
{
  struct model m;

  CHECK (model_open (&m, f));
  return m.h.features;
}

static void
wait_until_clean (struct mem_file *f)
{
  while (features (f) != 0)
    usleep (1000);
}

/* The image closes clean; END clusters are in use, and none is leaked. */
static void
close_clean (struct qed_image *img, struct mem_file *f, uint64_t end)
{
  struct audit a;

  CHECK_EQ (qed_close (img), 0);
  CHECK_STR (audit_closed (f, false) ? audit_closed (f, false) : "", "");
  CHECK (audit_image (f, &a));
  CHECK_EQ (a.leaked, 0);
  if (end > 0)
    CHECK_EQ (a.end, end * CS);
}

/* ---- steps ---- */

/* With these clusters a step is 16 of them, and what an allocation needs. */
#define LARGE (UINT64_C (1) << 22)
#define DEVICE_CLUSTERS UINT64_C (50)

static void
make_large (struct mem_file *f)
{
  struct model m;

  model_create (&m, f, LARGE, 1, 100 * LARGE);
  mem_truncate (f, DEVICE_CLUSTERS * LARGE);
  for (uint64_t c = 2; c < DEVICE_CLUSTERS; c++) {
    model_pattern (&m, c * LARGE, 5000);
    model_pattern (&m, (c + 1) * LARGE - 5000, 5000);
  }
  mem_make_device (f, 0);
}

/* What was zeroed and synced since the counters were reset, which this does. */
static void
check_zeroed (int line, struct mem_file *f, uint64_t clusters, uint64_t syncs)
{
  CONTEXT ("from line %d", line);
  CHECK_EQ (mem_bytes (f, MEM_PUNCH), clusters * LARGE);
  CHECK_EQ (mem_calls (f, MEM_SYNC), syncs);
  mem_reset_counters (f);
}
#define CHECK_ZEROED(...) check_zeroed (__LINE__, __VA_ARGS__)

static void
test_steps (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_image *img;
  uint64_t used = 2;            /* the header and the L1 table */

  make_large (f);
  img = open_writable (f, &no_thread);
  mem_reset_counters (f);

  /* A table, and 16 clusters; NEED_CHECK is synced before. */
  CHECK_EQ (qed_pwrite (img, "x", 1, 100, 0), 0);
  CHECK_ZEROED (f, 17, 2);
  check_content (img, 101, LARGE - 101, 0);
  for (uint64_t c = 1; c < 16; c++)
    CHECK_EQ (qed_pwrite (img, "x", 1, c * LARGE + c, 0), 0);
  CHECK_ZEROED (f, 0, 0);
  used += 17;

  /* The second step, and the third, which is what is left. */
  CHECK_EQ (qed_pwrite (img, "x", 1, 16 * LARGE, 0), 0);
  CHECK_ZEROED (f, 17, 1);
  used++;
  while (used < 2 + 17 + 17)
    CHECK_EQ (qed_pwrite (img, "x", 1, used++ * LARGE, 0), 0);
  CHECK_ZEROED (f, 0, 0);
  CHECK_EQ (qed_pwrite (img, "x", 1, used++ * LARGE, 0), 0);
  CHECK_ZEROED (f, DEVICE_CLUSTERS - 2 - 2 * 17, 1);
  while (used < DEVICE_CLUSTERS)
    CHECK_EQ (qed_pwrite (img, "x", 1, used++ * LARGE, 0), 0);
  CHECK_FAILS (qed_pwrite (img, "x", 1, used * LARGE, 0), ENOSPC, MEM_NAME,
               "of the 209715200 bytes", " 0 are left");
  CHECK_ZEROED (f, 0, 0);
  check_content (img, 20 * LARGE + 1, LARGE - 1, 0);
  close_clean (img, f, DEVICE_CLUSTERS * LARGE / CS);
  mem_file_free (f);
}

/* What was zeroed is known to be zeros as long as the image is open, also when
 * it was marked as clean meanwhile.
 */
static void
test_idle_keeps_zeros (void)
{
  const struct qed_write_options opts = { .idle_ms = 5 };
  struct mem_file *f = mem_file_new ();
  struct qed_image *img;

  make_large (f);
  img = open_writable (f, &opts);
  CHECK_EQ (qed_pwrite (img, "x", 1, 0, 0), 0);
  mem_reset_counters (f);
  for (uint64_t c = 1; c < 16; c++) {
    wait_until_clean (f);
    CHECK_EQ (qed_pwrite (img, "x", 1, c * LARGE, 0), 0);
  }
  CHECK_EQ (mem_bytes (f, MEM_PUNCH), 0);
  check_content (img, 15 * LARGE + 1, LARGE - 1, 0);
  close_clean (img, f, 19 * LARGE / CS);

  /* The next session doesn't know it, nor needs space that it could take. */
  img = open_writable (f, &no_thread);
  mem_reset_counters (f);
  CHECK_EQ (qed_pwrite (img, "y", 1, 0, 0), 0);
  CHECK_EQ (mem_calls (f, MEM_ANY), 1 + 2); /* and an entry of each table */
  CHECK_EQ (qed_pwrite (img, "y", 1, 16 * LARGE, 0), 0);
  CHECK_ZEROED (f, 17, 2);
  close_clean (img, f, 20 * LARGE / CS);
  mem_file_free (f);
}

/* ---- a full device ---- */

/* A write that needs more clusters than there are changes nothing. */
static void
is_refused (struct qed_image *img, struct mem_file *f, uint64_t offset,
            size_t count)
{
  uint64_t hash = mem_hash (f);

  CHECK_FAILS (qed_pwrite (img, filled (count, 9), count, offset, QED_FUA),
               ENOSPC, MEM_NAME, "no more clusters", "make it larger");
  CHECK_EQ (mem_hash (f), hash);
}

static void
test_full (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_image *img = new_image (f, 10, &no_thread);

  /* The first request of the session is refused when it's known to be too
   * large.
   */
  is_refused (img, f, 0, 10 * CS);
  CHECK_EQ (features (f), 0);
  CHECK_EQ (qed_pwrite (img, filled (9 * CS, 1), 9 * CS, 0, 0), 0);
  for (uint64_t i = 0; i < 3; i++) {
    mem_reset_counters (f);
    is_refused (img, f, (9 + i) * CS, CS);
    CHECK_EQ (mem_calls (f, MEM_PWRITE) + mem_calls (f, MEM_PUNCH), 0);
    is_refused (img, f, 7 * CS + 5, 3 * CS);
    CHECK_EQ (qed_pwrite (img, filled (2 * CS, 2), 2 * CS, i * CS, QED_FUA),
              0);
    CHECK_EQ (qed_zero (img, CS, 5 * CS, i ? QED_MAY_TRIM : 0), 0);
    CHECK_EQ (qed_zero (img, 100 * CS, 100 * CS, 0), 0); /* are zeros */
  }
  CHECK_EQ (qed_flush (img), 0);
  close_clean (img, f, 12);

  img = open_writable (f, &no_thread);
  is_refused (img, f, 9 * CS, 1);
  check_content (img, 0, 4 * CS, 2);
  check_content (img, 4 * CS, CS, 1);
  CHECK_EQ (qed_pwrite (img, filled (CS, 3), CS, 4 * CS, 0), 0);
  close_clean (img, f, 12);

  /* It is made larger. */
  mem_make_device (f, CS);
  img = open_writable (f, &no_thread);
  CHECK_EQ (qed_pwrite (img, "x", 1, 9 * CS, 0), 0);
  check_content (img, 9 * CS + 1, CS - 1, 0);
  is_refused (img, f, 10 * CS, 1);
  close_clean (img, f, 13);
  mem_file_free (f);
}

/* A device whose size isn't a whole number of clusters. */
static void
test_partial_cluster (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_image *img;
  struct model m;
  uint8_t before[1024], after[1024];

  model_create (&m, f, CS, 1, DISK);
  mem_make_device (f, 2 * CS + sizeof before);
  mem_read (f, before, sizeof before, 4 * CS);
  img = open_writable (f, &no_thread);
  is_refused (img, f, 0, 2 * CS);
  CHECK_EQ (qed_pwrite (img, "x", 1, 0, 0), 0);
  is_refused (img, f, CS, 1);
  CHECK_EQ (qed_close (img), 0);
  mem_read (f, after, sizeof after, 4 * CS);
  CHECK (memcmp (before, after, sizeof before) == 0);
  mem_file_free (f);
}

/* ---- requests that fail ---- */

/* While *OPAQUE is 1 a write of data is cut short after one sector, and the
 * next one fails.  Table entries are shorter, and written zeros are longer.
 */
static ssize_t
fail_data_half_way (void *opaque, enum mem_op op, uint64_t offset,
                    size_t count)
{
  atomic_int *armed = opaque;
  int expected = 1;

  if (op != MEM_PWRITE || offset < 3 * CS || count < 512 || count > 2 * CS)
    return (ssize_t) count;
  if (atomic_compare_exchange_strong (armed, &expected, 2))
    return 512;
  if (expected == 2) {
    atomic_store (armed, 0);
    errno = EIO;
    return -1;
  }
  return (ssize_t) count;
}

/* A write to N unallocated clusters from C on fails after one sector. */
static void
fail_half_way (struct qed_image *img, uint64_t c, uint64_t n,
               atomic_int *armed)
{
  atomic_store (armed, 1);
  CHECK_FAILS (qed_pwrite (img, filled (n * CS, 0xee), n * CS, c * CS, 0),
               EIO, MEM_NAME);
}

/* Their clusters are zeroed before others get them, and none is lost. */
static void
failed_requests (const struct mem_faults *faults)
{
  const struct qed_write_options opts = { .idle_ms = 5 };
  struct mem_file *f = mem_file_new ();
  struct qed_image *img;
  atomic_int armed;

  atomic_init (&armed, 0);
  mem_set_faults (f, faults);
  mem_set_hook (f, fail_data_half_way, &armed);
  img = new_image (f, 100, &opts);
  CHECK_EQ (qed_pwrite (img, "x", 1, 0, 0), 0);
  for (uint64_t c = 1; c < 20; c += 4) {
    /* At the end, where the next one may be after a pause. */
    fail_half_way (img, c, 2, &armed);
    if (c == 1)
      wait_until_clean (f);
    CHECK_EQ (qed_pwrite (img, "x", 1, c * CS + 1000, 0), 0);
    check_content (img, c * CS, 1000, 0);
    check_content (img, c * CS + 1001, CS - 1001, 0);
    /* And inside. */
    fail_half_way (img, c + 1, 1, &armed);
    CHECK_EQ (qed_pwrite (img, "x", 1, (c + 2) * CS, 0), 0);
    check_content (img, (c + 2) * CS + 1, CS - 1, 0);
  }
  close_clean (img, f, 3 + 1 + 5 * 2);
  mem_set_faults (f, NULL);
  mem_set_hook (f, NULL, NULL);
  img = open_writable (f, &no_thread);
  for (uint64_t c = 1; c < 20; c += 4) {
    check_content (img, c * CS + 1001, CS - 1001, 0);
    check_content (img, (c + 1) * CS, CS, 0);
    check_content (img, (c + 2) * CS + 1, CS - 1, 0);
  }
  CHECK_EQ (qed_close (img), 0);
  mem_file_free (f);
}

static void
test_failed_requests (void)
{
  for (unsigned i = 0; i < 8; i++) {
    const struct mem_faults faults = {
      .no_punch = i & 1, .no_zero = i & 2, .no_holes = i & 4,
    };

    CONTEXT ("%u", i);
    failed_requests (&faults);
  }
}

/* A request that fails doesn't use up the last clusters of a device, even if
 * they can be given away only after a sync.
 */
static void
test_failed_at_end (void)
{
  const struct mem_faults no_holes = { .no_holes = true };

  for (uint64_t n = 1; n <= 2; n++) {
    struct mem_file *f = mem_file_new ();
    struct qed_image *img;
    atomic_int armed;

    atomic_init (&armed, 0);
    mem_set_faults (f, &no_holes);
    mem_set_hook (f, fail_data_half_way, &armed);
    img = new_image (f, 4, &no_thread);
    CHECK_EQ (qed_pwrite (img, "x", 1, 0, 0), 0);
    fail_half_way (img, 1, n, &armed);
    CHECK_EQ (qed_pwrite (img, filled (CS + 1, 5), CS + 1, CS, 0), 0);
    check_content (img, CS, CS + 1, 5);
    check_content (img, 2 * CS + 1, CS - 1, 0);
    mem_set_hook (f, NULL, NULL);
    mem_set_faults (f, NULL);
    close_clean (img, f, 6);
    mem_file_free (f);
  }
}

/* Where nothing can be zeroed fast, zeros are written. */
static void
test_zeros_are_written (void)
{
  const struct mem_faults slow = { .no_punch = true, .no_zero = true };
  struct mem_file *f = mem_file_new ();
  struct qed_image *img = new_image (f, 100, &no_thread);

  mem_set_faults (f, &slow);
  mem_reset_counters (f);
  CHECK_EQ (qed_pwrite (img, "x", 1, 0, 0), 0);
  CHECK_OP (mem_bytes (f, MEM_PWRITE), >=, 100 * CS);
  CHECK_OP (mem_bytes (f, MEM_PWRITE), <, 102 * CS);
  check_content (img, 1, CS - 1, 0);
  mem_set_faults (f, NULL);
  close_clean (img, f, 4);
  mem_file_free (f);
}

static bool ending;

static bool
is_ending (void)
{
  return ending;
}

/* A program that terminates doesn't wait for that. */
static void
test_interrupted (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_image *img = new_image (f, 100, &no_thread);

  CHECK_EQ (qed_zero (img, 1, 0, 0), 0);
  qed_interrupted = is_ending;
  ending = true;
  CHECK_FAILS (qed_pwrite (img, "x", 1, 0, 0), ESHUTDOWN, MEM_NAME,
               "terminating");
  ending = false;
  CHECK_EQ (qed_pwrite (img, "x", 1, 0, 0), 0);
  qed_interrupted = NULL;
  close_clean (img, f, 4);
  mem_file_free (f);
}

/* ---- the end of what is in use ---- */

/* Has AFTER, which may have more clusters, what BEFORE has?  Not in tables,
 * which have changed.
 */
static void
has_kept (const struct snapshot *before, const struct snapshot *after)
{
  size_t j = 0;

  for (size_t i = 0; i < before->n; i++) {
    const struct guest_cluster *b = &before->c[i], *a;

    while (j < after->n && after->c[j].cluster < b->cluster)
      j++;
    CHECK (j < after->n);
    a = &after->c[j];
    CHECK_EQ (a->cluster, b->cluster);
    CHECK_EQ (a->type, b->type);
    CHECK_EQ (a->file_offset, b->file_offset);
    if (!b->in_table)
      CHECK_EQ (a->hash, b->hash);
  }
}

/* Nothing that any entry points to is given away, sound image or not. */
static void
test_end_is_found (void)
{
  struct mem_file *f = mem_file_new ();
  uint64_t written = 0;

  for (uint64_t seed = 0; seed < 300; seed++) {
    struct snapshot before, after;
    struct rng rng = { seed };
    struct qed_image *img;
    struct model m;

    CONTEXT ("seed %" PRIu64, seed);
    damage_random (&m, f, &rng, 4096 << seed / 5 % 2, 1 << seed % 5,
                   seed % 2 ? ALL_DAMAGES : 0, 20);
    m.h.features = 0;
    model_write_header (&m);
    mem_truncate (f, (mem_size (f) + CS - 1) / CS * CS);
    mem_make_device (f, 200 * CS);
    snapshot_take (&before, f);
    img = open_writable (f, &no_thread);
    for (size_t i = 0; i < before.n && i < 20; i++) {
      uint64_t cs = m.h.cluster_size, offset;
      struct qed_run run;

      offset = (before.c[i].cluster + 1 + rng_below (&rng, 3)) * cs;
      if (offset >= m.h.image_size ||
          qed_map (img, offset, 1, &run) == -1 ||
          run.type != QED_RUN_UNALLOCATED)
        continue;
      if (qed_pwrite (img, "x", 1, offset, 0) == -1)
        CHECK (errno == EIO || errno == ENOSPC);
      else
        written++;
    }
    CHECK_EQ (qed_close (img), 0);
    snapshot_take (&after, f);
    has_kept (&before, &after);
    snapshot_free (&before);
    snapshot_free (&after);
  }
  CHECK_OP (written, >, 500);
  mem_file_free (f);
}

/* A table, of two clusters, may be what comes last. */
static void
test_end_is_table (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_image *img;
  struct model m;

  model_create (&m, f, CS, 2, 64 * DISK);
  model_data (&m, 0);
  model_set (&m, 1024, model_append (&m, 1));
  for (uint64_t c = 1; c < 1024; c++)
    model_set (&m, 1024 + c, 1);
  CHECK_EQ (model_get_l1 (&m, 1), mem_size (f) - 2 * CS);
  mem_make_device (f, 10 * CS);
  img = open_writable (f, &no_thread);
  CHECK_EQ (qed_pwrite (img, filled (2 * CS, 7), 2 * CS, CS, 0), 0);
  CHECK_EQ (qed_close (img), 0);
  for (uint64_t c = 1; c < 1024; c++) {
    uint64_t entry;

    CHECK_EQ (model_lookup (&m, 1024 + c, &entry), QED_RUN_ZERO);
  }
  mem_file_free (f);
}

/* After a repair at open it is known, and after moves inside the image when it
 * is closed it is found again.
 */
static void
test_end_after_repair (void)
{
  struct mem_file *f = mem_file_new ();
  struct qed_image *img;
  struct model m;

  model_create (&m, f, CS, 1, DISK);
  model_data (&m, 0);
  model_data (&m, 1);
  model_set (&m, 1, 0);         /* leaked */
  model_set (&m, 2, mem_size (f) + 200 * CS);
  m.h.features = QED_F_NEED_CHECK;
  model_write_header (&m);
  mem_make_device (f, 100 * CS);
  img = open_writable (f, &no_thread);
  mem_reset_counters (f);
  CHECK_EQ (qed_pwrite (img, "x", 1, 2 * CS, 0), 0);
  CHECK_EQ (mem_calls (f, MEM_NEXT_EXTENT), 0); /* no second walk */
  CHECK_EQ (model_get64 (&m, 2 * CS + 2 * 8), 4 * CS);
  check_content (img, 2 * CS + 1, CS - 1, 0);
  close_clean (img, f, 5);
  mem_file_free (f);
}

/* ---- creating ---- */

static char long_names[2][1200];

static const struct qed_create_options old_options = {
  .image_size = DISK, .cluster_size = CS, .table_size = 2,
  .backing = long_names[0],
};
static const struct qed_create_options new_options = {
  .image_size = 1 << 30, .cluster_size = 2 * CS, .table_size = 1,
  .backing = long_names[1],
};
#define NEW_END (2 * 2 * CS)
#define NEW_NAME_END (QED_HEADER_BYTES + sizeof long_names[0])

/* F becomes a device with the old image in it. */
static void
make_old (struct mem_file *f)
{
  struct qed_storage *st = mem_open (f);
  struct model m;

  memset (long_names[0], 'o', sizeof long_names[0] - 1);
  memset (long_names[1], 'n', sizeof long_names[1] - 1);
  CHECK_EQ (qed_create_in (st, &old_options), 0);
  qed_storage_close (st);
  CHECK (model_open (&m, f));
  model_data (&m, 5);
  model_pattern (&m, QED_HEADER_BYTES + sizeof long_names[0], 1000);
  mem_make_device (f, 20 * CS);
}

static bool
is_zero (struct mem_file *f, uint64_t offset, uint64_t length)
{
  uint8_t buf[NEW_END];

  mem_read (f, buf, length, offset);
  for (uint64_t i = 0; i < length; i++)
    if (buf[i] != 0)
      return false;
  return true;
}

/* NULL, or what is wrong with what a creation has left of OLD in F. */
static const char *
check_created (struct mem_file *old, struct mem_file *f)
{
  struct qed_storage *st = mem_open (f);
  char *name = NULL;
  struct qed_header h;
  const char *why = NULL;

  if (qed_read_header (st, &h, &name) == -1) {
    if (errno != EINVAL)
      why = "another error";
  }
  else if (h.image_size == DISK)
    why = mem_hash (f) == mem_hash (old) ? NULL : "a part of the old image";
  else if (h.image_size != new_options.image_size || !name ||
           strcmp (name, new_options.backing) != 0)
    why = "a part of the new image";
  else if (!is_zero (f, NEW_END / 2, NEW_END / 2) ||
           !is_zero (f, NEW_NAME_END, NEW_END / 2 - NEW_NAME_END))
    why = "not an empty image";
  free (name);
  qed_storage_close (st);
  return why;
}

static bool
is_new (struct mem_file *f)
{
  struct model m;

  return model_open (&m, f) && m.h.image_size == new_options.image_size;
}

/* What is behind the new header and L1 table isn't touched. */
static void
check_rest (struct mem_file *old, struct mem_file *f)
{
  uint8_t want[CS], got[CS];

  CHECK_EQ (mem_size (old), mem_size (f));
  for (uint64_t o = NEW_END; o < mem_size (f); o += CS) {
    mem_read (old, want, CS, o);
    mem_read (f, got, CS, o);
    CHECK (memcmp (want, got, CS) == 0);
  }
}

static const char *
crash_of_create (enum recorder_lie lie, const struct mem_faults *faults)
{
  struct mem_file *f = mem_file_new (), *old = mem_file_new ();
  struct rng rng = { 1 };
  struct recorder *r;
  struct qed_storage *st;
  const char *why = NULL;

  make_old (f);
  make_old (old);
  mem_set_faults (f, faults);
  r = recorder_new (f, lie);
  st = recorder_open (r);
  CHECK_EQ (qed_create_in (st, &new_options), 0);
  qed_storage_close (st);
  CHECK (is_new (f) && check_created (old, f) == NULL);
  check_rest (old, f);
  for (size_t cut = 0; !why && cut <= recorder_length (r); cut++)
    for (int i = 0; !why && i < 50; i++) {
      struct mem_file *state = mem_file_new ();

      recorder_rebuild (r, cut, i == 0 ? KEEP_NOTHING : i == 1 ? KEEP_ALL :
                        KEEP_SOME, &rng, state);
      why = check_created (old, state);
      if (cut == recorder_length (r))
        CHECK (lie != LIE_NONE || is_new (state));
      mem_file_free (state);
    }
  recorder_free (r);
  mem_file_free (f);
  mem_file_free (old);
  return why;
}

static void
test_create (void)
{
  for (unsigned i = 0; i < 4; i++) {
    const struct mem_faults faults = { .no_punch = i & 1, .no_zero = i & 2 };
    const char *why = crash_of_create (LIE_NONE, &faults);

    CHECK_STR (why ? why : "", "");
    why = crash_of_create (LIE_SYNC, &faults);
    CHECK (why != NULL);
    printf ("  lie: %s\n", why);
  }
}

static void
test_create_fails (void)
{
  bool failed = true;

  for (uint64_t k = 1; failed; k++) {
    const struct mem_faults faults = {
      .op = MEM_ANY, .first = k, .count = 1, .err = EIO,
    };
    struct mem_file *f = mem_file_new (), *old = mem_file_new ();
    struct qed_storage *st;
    const char *why;
    int r;

    CONTEXT ("operation %" PRIu64, k);
    make_old (f);
    make_old (old);
    st = mem_open (f);
    mem_set_faults (f, &faults);
    r = qed_create_in (st, &new_options);
    failed = r == -1;
    if (failed)
      CHECK (errno == EIO && strstr (qed_get_error (), MEM_NAME));
    mem_set_faults (f, NULL);
    why = check_created (old, f);
    CHECK_STR (why ? why : "", "");
    CHECK_EQ (qed_create_in (st, &new_options), 0);
    CHECK (is_new (f));
    check_rest (old, f);
    qed_storage_close (st);
    mem_file_free (f);
    mem_file_free (old);
  }
}

/* Nothing is written to a device that is too small, nor with bad options. */
static void
test_create_refused (void)
{
  const struct qed_create_options large = { .image_size = 1 << 20 };
  const struct qed_create_options bad = { .cluster_size = 1234 };
  struct mem_file *f = mem_file_new ();
  struct qed_storage *st;
  uint64_t hash;

  mem_make_device (f, 5 * 65536 - 512);
  hash = mem_hash (f);
  st = mem_open (f);
  CHECK_FAILS (qed_create_in (st, &large), ENOSPC, MEM_NAME,
               "has 327168 bytes", "need 327680");
  CHECK_FAILS (qed_create_in (st, &bad), EINVAL, MEM_NAME, "1234");
  CHECK_EQ (mem_hash (f), hash);
  mem_make_device (f, 512);
  qed_storage_close (st);
  st = mem_open (f);
  CHECK_EQ (qed_create_in (st, &large), 0);
  qed_storage_close (st);
  mem_file_free (f);
}

HARNESS_MAIN (
  TEST (test_steps),
  TEST (test_idle_keeps_zeros),
  TEST (test_full),
  TEST (test_partial_cluster),
  TEST (test_failed_requests),
  TEST (test_failed_at_end),
  TEST (test_zeros_are_written),
  TEST (test_interrupted),
  TEST (test_end_is_found),
  TEST (test_end_is_table),
  TEST (test_end_after_repair),
  TEST (test_create),
  TEST (test_create_fails),
  TEST (test_create_refused),
)
