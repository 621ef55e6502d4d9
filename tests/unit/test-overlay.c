/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Writes to an overlay copy up only the data that they need, cost a bounded
 * number of operations on the image and the backing file, and put a link into
 * the file only in a commit after its data is durable (I3).  Zeros and trims
 * never let the backing file show through.  test-crash and test-fault show
 * that nothing is lost.
 */

#include <config.h>

#include <pthread.h>
#include <stdatomic.h>

#include "alloc.h"
#include "backing-files.h"
#include "harness.h"
#include "memory-storage.h"
#include "model.h"

#define CS UINT64_C (4096)      /* clusters, with tables of 512 entries */
#define CLUSTERS UINT64_C (1100)
#define DISK (CLUSTERS * CS + 512)
#define SHORT_SIZE (30 * CS + 1300)

static const struct qed_write_options no_thread;

struct overlay {
  struct mem_file *f, *raw;     /* RAW: the lowest backing file, or NULL */
  struct backing backing;
  struct qed_image *img;
  struct model m;
  uint8_t *want;                /* the disk's content */
  unsigned requests;
};

static void
open_overlay (struct overlay *o, const struct qed_write_options *opts)
{
  o->img = qed_open_overlay (mem_open (o->f), backing_open (&o->backing),
                             QED_MIN_CACHE_SIZE);
  CHECK (o->img != NULL);
  CHECK_EQ (qed_make_writable (o->img, opts), 0);
}

static void
new_overlay (struct overlay *o, enum backing_kind kind)
{
  memset (o, 0, sizeof *o);
  o->f = mem_file_new ();
  backing_init (&o->backing, kind, DISK, SHORT_SIZE);
  backing_fill (&o->backing, 0, UINT64_MAX); /* also past the disk's end */
  o->raw = o->backing.n ? o->backing.files[0] : NULL;
  model_create (&o->m, o->f, CS, 1, DISK);
  backing_name (&o->backing, &o->m);
  o->want = malloc (DISK);
  CHECK (o->want != NULL);
  CHECK_EQ (model_pread (&o->m, o->want, DISK, 0), 0);
  open_overlay (o, &no_thread);
}

static void
reset_counters (struct overlay *o)
{
  mem_reset_counters (o->f);
  if (o->raw)
    mem_reset_counters (o->raw);
}

static void
write_at (struct overlay *o, uint64_t offset, size_t count, unsigned flags)
{
  memset (o->want + offset, (int) (++o->requests % 255) + 1, count);
  CHECK_EQ (qed_pwrite (o->img, o->want + offset, count, offset, flags), 0);
}

static void
zero_at (struct overlay *o, uint64_t offset, uint64_t count, unsigned flags)
{
  memset (o->want + offset, 0, count);
  CHECK_EQ (qed_zero (o->img, count, offset, flags), 0);
}

static void
compare (const uint8_t *got, const uint8_t *want, uint64_t count)
{
  for (uint64_t i = 0; memcmp (got, want, count) != 0 && i < count; i++)
    if (got[i] != want[i])
      harness_fail (__FILE__, __LINE__, "byte %#" PRIx64 " is %02x, not %02x",
                    i, got[i], want[i]);
}

static void
check_content (struct overlay *o)
{
  static uint8_t got[DISK];

  CHECK_EQ (qed_pread (o->img, got, DISK, 0), 0);
  compare (got, o->want, DISK);
}

/* Close the image and check the file's content. */
static void
close_overlay (struct overlay *o)
{
  static uint8_t got[DISK];

  check_content (o);
  CHECK_EQ (qed_close (o->img), 0);
  CHECK (model_open (&o->m, o->f));
  o->m.backing = backing_model (&o->backing);
  CHECK_EQ (o->m.h.features & QED_F_NEED_CHECK, 0);
  CHECK_EQ (model_pread (&o->m, got, DISK, 0), 0);
  compare (got, o->want, DISK);
}

static void
free_overlay (struct overlay *o)
{
  backing_check (&o->backing);
  backing_free (&o->backing);
  mem_file_free (o->f);
  free (o->want);
}

/* The type of a cluster in the file, whatever the library has in memory. */
static enum qed_run_type
in_file (struct overlay *o, uint64_t cluster)
{
  uint64_t entry;

  o->m.file_size = mem_size (o->f);
  return model_lookup (&o->m, cluster, &entry);
}

/* ---- what a request costs ---- */

/* The operations since the counters were reset, which this does again: calls
 * and bytes written for the image file, bytes read for the backing file.
 */
static void
check_cost (int line, struct overlay *o, uint64_t pwrites, uint64_t written,
            uint64_t syncs, uint64_t read_backing)
{
  CONTEXT ("from line %d", line);
  CHECK_EQ (mem_calls (o->f, MEM_PWRITE), pwrites);
  CHECK_EQ (mem_bytes (o->f, MEM_PWRITE), written);
  CHECK_EQ (mem_calls (o->f, MEM_SYNC), syncs);
  CHECK_EQ (mem_calls (o->f, MEM_ANY) - mem_calls (o->f, MEM_GET_SIZE),
            pwrites + syncs); /* a flush looks at the length */
  CHECK_EQ (mem_bytes (o->raw, MEM_PREAD), read_backing);
  reset_counters (o);
}
#define CHECK_COST(...) check_cost (__LINE__, __VA_ARGS__)

static void
test_cost_of_writes (void)
{
  struct overlay o;

  new_overlay (&o, BACKING_FULL);
  /* The first write makes NEED_CHECK durable, extends the file and allocates a
   * table.  Then it reserves the space that a commit needs in that table, so
   * that the commit can't run out of space.
   */
  reset_counters (&o);
  write_at (&o, 50, 100, 0);
  CHECK_EQ (mem_calls (o.f, MEM_PWRITE), 4);
  CHECK_EQ (mem_bytes (o.f, MEM_PWRITE),
            QED_HEADER_BYTES + 8 + 512 * 8 + CS);
  CHECK_EQ (mem_calls (o.raw, MEM_PREAD), 2);
  CHECK_EQ (mem_bytes (o.raw, MEM_PREAD), CS - 100);
  CHECK_EQ (in_file (&o, 0), QED_RUN_UNALLOCATED);
  reset_counters (&o);

  write_at (&o, 2 * CS - 1, 1, 0);              /* copied up */
  CHECK_COST (&o, 1, CS, 0, CS - 1);
  write_at (&o, 2 * CS, CS, 0);                 /* a whole cluster */
  CHECK_COST (&o, 1, CS, 0, 0);
  write_at (&o, 10 * CS + 7, 9 * CS, 0);        /* several */
  CHECK_COST (&o, 1, 10 * CS, 0, 7 + CS - 7);
  write_at (&o, 11 * CS + 5, CS, 0);            /* in place, though pending */
  CHECK_COST (&o, 1, CS, 0, 0);
  write_at (&o, 12 * CS + 5, 10 * CS, 0);       /* both */
  CHECK_COST (&o, 2, 7 * CS + CS - 5 + 3 * CS, 0, CS - 5);
  CHECK_EQ (in_file (&o, 2), QED_RUN_UNALLOCATED);

  /* A commit writes one slice, from its first to its last changed entry.  The
   * next one has nothing to do.
   */
  CHECK_EQ (qed_flush (o.img), 0);
  CHECK_COST (&o, 1, 23 * 8, 2, 0);
  CHECK_EQ (in_file (&o, 0), QED_RUN_DATA);
  CHECK_EQ (in_file (&o, 3), QED_RUN_UNALLOCATED);
  CHECK_EQ (in_file (&o, 22), QED_RUN_DATA);
  CHECK_EQ (qed_flush (o.img), 0);
  CHECK_COST (&o, 0, 0, 0, 0);

  write_at (&o, 11 * CS, 10, QED_FUA);          /* in place */
  CHECK_COST (&o, 1, 10, 1, 0);
  write_at (&o, 30 * CS, CS, QED_FUA);
  CHECK_COST (&o, 2, CS + 8, 2, 0);
  CHECK_EQ (in_file (&o, 30), QED_RUN_DATA);
  close_overlay (&o);
  CHECK_EQ (mem_size (o.f), (2 + 1 + 3 + 10 + 3 + 1) * CS);
  free_overlay (&o);
}

/* A flush writes as many times as there are slices with links. */
static void
test_cost_of_slices (void)
{
  struct overlay o;

  new_overlay (&o, BACKING_FULL);
  for (uint64_t i = 0; i < 2; i++) {
    write_at (&o, 500 * CS + i * 100 * CS, 30 * CS, 0);
    write_at (&o, 1050 * CS + i * CS, CS, 0);
  }
  reset_counters (&o);
  CHECK_EQ (qed_flush (o.img), 0);
  CHECK_COST (&o, 3, (12 + (630 - 512) + 2) * 8, 2, 0);
  close_overlay (&o);
  free_overlay (&o);
}

/* A copy-up reads the data of the backing file that isn't overwritten, and no
 * holes.  It writes one range without gaps, which begins and ends with such
 * data or with the guest's.
 */
static bool
hole_in_backing (struct overlay *o, uint64_t offset)
{
  bool hole;

  if (offset >= mem_size (o->raw))
    return true;
  mem_next_extent (o->raw, offset, &hole);
  return hole;
}

static void
test_cost_of_holes (enum backing_kind kind)
{
  struct rng rng = { kind };
  struct overlay o;

  new_overlay (&o, kind);
  write_at (&o, 0, 1, 0);                       /* makes the table */
  for (uint64_t c = 1; c < 200; c++) {
    uint64_t from = c * CS + rng_below (&rng, CS);
    uint64_t to = from + 1 + rng_below (&rng, (c + 1) * CS - from);
    uint64_t first = from, last = to, read_backing = 0;

    for (uint64_t i = c * CS; i < (c + 1) * CS; i++)
      if ((i < from || i >= to) && !hole_in_backing (&o, i)) {
        read_backing++;
        first = i < first ? i : first;
        last = i < to ? last : i + 1;
      }
    reset_counters (&o);
    write_at (&o, from, to - from, 0);
    CONTEXT ("cluster %" PRIu64 ", %" PRIu64 " .. %" PRIu64, c, from % CS,
             (to - 1) % CS);
    CHECK_EQ (mem_calls (o.f, MEM_ANY), 1);
    CHECK_EQ (mem_bytes (o.f, MEM_PWRITE), last - first);
    CHECK_EQ (mem_bytes (o.raw, MEM_PREAD), read_backing);
  }
  close_overlay (&o);
  free_overlay (&o);
}

static void
test_holes_in_backing (void)
{
  test_cost_of_holes (BACKING_HOLES);
}

/* Nothing is read past the backing file's end, where it is zeros. */
static void
test_short_backing (void)
{
  test_cost_of_holes (BACKING_SHORT);
}

/* The disk ends within a cluster; the backing file is longer. */
static void
test_last_cluster (void)
{
  struct overlay o;

  for (int i = 0; i < 4; i++) {
    new_overlay (&o, BACKING_FULL);
    write_at (&o, (CLUSTERS - 1) * CS, 1, 0);
    reset_counters (&o);
    switch (i) {
    case 0:
      write_at (&o, DISK - 100, 100, 0);
      CHECK_COST (&o, 1, 512, 0, 412);
      break;
    case 1:
      write_at (&o, DISK - 200, 100, 0);
      CHECK_COST (&o, 1, 512, 0, 412);
      break;
    case 2:
      zero_at (&o, DISK - 512, 512, QED_FAST_ZERO);
      CHECK_COST (&o, 1, 8, 0, 0);
      CHECK_EQ (in_file (&o, CLUSTERS), QED_RUN_ZERO);
      break;
    default:
      zero_at (&o, DISK - 100, 100, 0);
      CHECK_EQ (mem_bytes (o.raw, MEM_PREAD), 412);
    }
    close_overlay (&o);
    free_overlay (&o);
  }
}

/* ---- zero and trim ---- */

static void
test_zero_whole_clusters (void)
{
  struct overlay o;

  new_overlay (&o, BACKING_FULL);
  write_at (&o, 5 * CS, CS, QED_FUA);
  reset_counters (&o);

  /* Before and after the cluster with data, which stays what it is. */
  zero_at (&o, 2 * CS, 8 * CS, QED_FAST_ZERO | QED_MAY_TRIM);
  CHECK_EQ (mem_calls (o.f, MEM_PUNCH), 1);
  CHECK_EQ (mem_calls (o.f, MEM_PWRITE), 2);
  CHECK_EQ (mem_bytes (o.f, MEM_PWRITE), 7 * 8);
  CHECK_EQ (mem_calls (o.f, MEM_SYNC), 0);
  CHECK_EQ (mem_calls (o.raw, MEM_ANY), 0);
  CHECK_EQ (in_file (&o, 2), QED_RUN_ZERO);
  CHECK_EQ (in_file (&o, 5), QED_RUN_DATA);
  CHECK_EQ (in_file (&o, 9), QED_RUN_ZERO);
  CHECK_EQ (in_file (&o, 10), QED_RUN_UNALLOCATED);
  check_content (&o);
  reset_counters (&o);
  zero_at (&o, 2 * CS, 3 * CS, 0);              /* they are already */
  CHECK_COST (&o, 0, 0, 0, 0);
  CHECK_EQ (qed_flush (o.img), 0);
  CHECK_COST (&o, 0, 0, 1, 0);

  /* All of the disk, in tables that aren't there yet. */
  zero_at (&o, 0, DISK, 0);
  for (uint64_t c = 0; c <= CLUSTERS; c++)
    CHECK_EQ (in_file (&o, c), c == 5 ? QED_RUN_DATA : QED_RUN_ZERO);
  close_overlay (&o);
  free_overlay (&o);
}

/* A huge range: many tables of many slices. */
static void
test_zero_huge (void)
{
  const uint64_t cluster = 65536, disk = UINT64_C (1) << 34;
  struct mem_file *f = mem_file_new (), *raw = mem_file_new ();
  struct qed_image *img;
  struct model m;
  uint64_t entry;
  uint8_t buf[2], wrong[] = { 1, 2 };

  mem_write (raw, wrong, 2, 777 * cluster);
  mem_write (raw, wrong, 2, disk - 2);
  model_create (&m, f, cluster, 4, disk);
  img = qed_open_overlay (mem_open (f), qed_backing_raw (mem_open (raw)),
                          QED_MIN_CACHE_SIZE);
  CHECK (img != NULL);
  CHECK_EQ (qed_make_writable (img, &no_thread), 0);
  CHECK_EQ (qed_pread (img, buf, 2, disk - 2), 0);
  CHECK_EQ (buf[1], 2);
  CHECK_EQ (qed_zero (img, disk - cluster, cluster, QED_FAST_ZERO), 0);
  CHECK_EQ (qed_pread (img, buf, 2, disk - 2), 0);
  CHECK_EQ (buf[0] + buf[1], 0);
  CHECK_EQ (qed_close (img), 0);
  CHECK (model_open (&m, f));
  for (uint64_t c = 0; c < disk / cluster; c++)
    CHECK_EQ (model_lookup (&m, c, &entry),
              c ? QED_RUN_ZERO : QED_RUN_UNALLOCATED);
  mem_file_free (f);
  mem_file_free (raw);
}

static void
test_zero_part (void)
{
  struct overlay o;
  uint64_t hash;

  new_overlay (&o, BACKING_FULL);
  write_at (&o, 0, 1, 0);
  hash = mem_hash (o.f);
  CHECK_FAILS (qed_zero (o.img, 100, 2 * CS + 9, QED_FAST_ZERO), ENOTSUP,
               MEM_NAME, "100 bytes at 8201");
  CHECK_EQ (mem_hash (o.f), hash);
  check_content (&o);

  reset_counters (&o);
  zero_at (&o, 2 * CS + 9, 100, QED_MAY_TRIM);
  CHECK_EQ (mem_bytes (o.f, MEM_PWRITE), CS - 100);
  CHECK_EQ (mem_bytes (o.raw, MEM_PREAD), CS - 100);
  CHECK_EQ (in_file (&o, 2), QED_RUN_UNALLOCATED);
  check_content (&o);
  CHECK_EQ (qed_flush (o.img), 0);
  CHECK_EQ (in_file (&o, 2), QED_RUN_DATA);

  /* Parts at both ends, and whole clusters between them. */
  zero_at (&o, 10 * CS + 1, 5 * CS, 0);
  CHECK_EQ (qed_flush (o.img), 0);
  CHECK_EQ (in_file (&o, 10), QED_RUN_DATA);
  for (uint64_t c = 11; c < 15; c++)
    CHECK_EQ (in_file (&o, c), QED_RUN_ZERO);
  CHECK_EQ (in_file (&o, 15), QED_RUN_DATA);
  zero_at (&o, 20 * CS, CS + 1, 0);
  zero_at (&o, 511 * CS + 3, 2 * CS, 0);        /* two tables */
  close_overlay (&o);
  free_overlay (&o);
}

/* A fast zero that fails with ENOTSUP has changed nothing, in the file or in
 * memory, wherever in its range the obstacle is.  One that succeeds has zeroed
 * all of its range.
 */
static void
fast_zeros (enum backing_kind kind, const struct mem_faults *faults)
{
  const unsigned flags = QED_FAST_ZERO | QED_MAY_TRIM;
  struct rng rng = { kind };
  struct overlay o;
  unsigned failed = 0, done = 0;

  CONTEXT ("kind %d", kind);
  new_overlay (&o, kind);
  for (uint64_t c = 0; c + 20 < CLUSTERS; c += 1 + rng_below (&rng, 20))
    write_at (&o, c * CS + rng_below (&rng, CS), 1 + rng_below (&rng, 3 * CS),
              0);
  CHECK_EQ (qed_flush (o.img), 0);
  mem_set_faults (o.f, faults);
  for (int i = 0; i < 200; i++) {
    uint64_t offset = rng_below (&rng, DISK - 1);
    uint64_t count = 1 + rng_below (&rng, 12 * CS);
    uint64_t hash = mem_hash (o.f);

    if (rng_below (&rng, 2))
      offset &= ~(CS - 1);
    if (rng_below (&rng, 2))
      count = (count & ~(CS - 1)) + CS;
    if (count > DISK - offset)
      count = DISK - offset;
    CONTEXT ("zero %" PRIu64 " %" PRIu64, offset, count);
    if (qed_zero (o.img, count, offset, flags) == 0) {
      memset (o.want + offset, 0, count);
      done++;
    }
    else {
      CHECK_EQ (errno, ENOTSUP);
      CHECK_EQ (mem_hash (o.f), hash);
      failed++;
    }
    if (i % 8 == 0)
      check_content (&o);
    else {
      static uint8_t got[13 * CS];

      CHECK_EQ (qed_pread (o.img, got, count, offset), 0);
      compare (got, o.want + offset, count);
    }
  }
  CHECK_OP (failed, >, 2);
  CHECK_OP (done, >, 2);
  mem_set_faults (o.f, NULL);
  close_overlay (&o);
  free_overlay (&o);
}

static void
test_fast_zero_all_or_nothing (void)
{
  static const struct mem_faults neither = { .no_punch = true,
                                             .no_zero = true };

  for (int kind = BACKING_FULL; kind < NR_BACKING; kind++) {
    fast_zeros (kind, NULL);
    fast_zeros (kind, &neither);
  }
}

/* The same for a request that needs clusters which can't be allocated. */
static void
test_zero_without_room (void)
{
  struct overlay o;
  struct qed_storage *st;
  uint64_t hash;

  new_overlay (&o, BACKING_FULL);
  write_at (&o, 3 * CS, CS, 0);
  CHECK_EQ (qed_close (o.img), 0);
  st = mem_open (o.f);
  st->fixed_size = true;
  o.img = qed_open_overlay (st, backing_open (&o.backing), QED_MIN_CACHE_SIZE);
  CHECK (o.img != NULL);
  CHECK_EQ (qed_make_writable (o.img, &no_thread), 0);

  hash = mem_hash (o.f);
  CHECK_FAILS (qed_zero (o.img, 4 * CS, CS + 1, 0), ENOSPC, "no more");
  CHECK_FAILS (qed_zero (o.img, 600 * CS, 0, QED_FAST_ZERO), ENOSPC,
               "no more"); /* a table */
  CHECK_EQ (mem_hash (o.f), hash);
  check_content (&o);
  zero_at (&o, 2 * CS, 4 * CS, QED_FAST_ZERO);  /* entries only */
  CHECK_EQ (in_file (&o, 4), QED_RUN_ZERO);
  zero_at (&o, 3 * CS + 5, 50, 0);
  close_overlay (&o);
  free_overlay (&o);
}

/* Zeroing a part of an unallocated cluster: if the backing file has zeros in
 * the rest of it, it becomes a zero cluster.  If the backing file has zeros in
 * the range already, there is nothing to do.
 */
static void
test_zero_part_of_hole (void)
{
  struct overlay o;

  new_overlay (&o, BACKING_SHORT);        /* ends 1300 bytes into cluster 30 */
  write_at (&o, 0, 1, 0);
  reset_counters (&o);
  zero_at (&o, 40 * CS + 5, 3 * CS, QED_FAST_ZERO);
  CHECK_EQ (in_file (&o, 40), QED_RUN_UNALLOCATED);
  zero_at (&o, 30 * CS + 1300, 100, QED_FAST_ZERO);
  CHECK_EQ (in_file (&o, 30), QED_RUN_UNALLOCATED);
  CHECK_EQ (mem_bytes (o.f, MEM_PWRITE), 2 * 8); /* clusters 41 and 42 */
  reset_counters (&o);
  zero_at (&o, 30 * CS, 1400, QED_FAST_ZERO);
  CHECK_COST (&o, 1, 8, 0, 0);
  CHECK_EQ (in_file (&o, 30), QED_RUN_ZERO);
  close_overlay (&o);
  free_overlay (&o);
}

/* A partial write to a zero cluster doesn't write the zeros around it.  The
 * cluster must not become unallocated, even if the file's new length is lost,
 * so its link is pending too.
 */
static void
test_write_to_zero (void)
{
  struct overlay o;

  new_overlay (&o, BACKING_FULL);
  write_at (&o, 0, 1, 0);
  zero_at (&o, 5 * CS, 3 * CS, 0);
  reset_counters (&o);
  write_at (&o, 6 * CS + 100, 10, 0);
  CHECK_COST (&o, 1, 10, 0, 0);
  CHECK_EQ (in_file (&o, 6), QED_RUN_ZERO);
  check_content (&o);
  CHECK_EQ (qed_flush (o.img), 0);
  CHECK_EQ (in_file (&o, 6), QED_RUN_DATA);

  /* Unallocated and zero clusters in one request. */
  write_at (&o, 3 * CS + 100, 2 * CS, 0);
  write_at (&o, 7 * CS + 100, CS, 0);
  check_content (&o);
  close_overlay (&o);
  free_overlay (&o);
}

/* Trims and zeros in place never let the backing file show through. */
static void
test_trim (void)
{
  static const struct mem_faults no_punch = {
    .no_punch = true, .no_zero = true
  };
  struct overlay o;

  new_overlay (&o, BACKING_FULL);
  write_at (&o, 2 * CS + 100, 2 * CS, 0);
  CHECK_EQ (qed_trim (o.img, DISK - 5, 5, 0), 0);
  memset (o.want + 2 * CS, 0, 3 * CS);
  check_content (&o);
  write_at (&o, 3 * CS, CS, 0);
  zero_at (&o, 3 * CS + 10, 100, QED_MAY_TRIM);
  check_content (&o);
  mem_set_faults (o.f, &no_punch);
  CHECK_EQ (qed_trim (o.img, DISK, 0, QED_FUA), 0);
  check_content (&o);
  CHECK_FAILS (qed_zero (o.img, 10, 3 * CS, QED_FAST_ZERO), ENOTSUP, MEM_NAME);
  zero_at (&o, 3 * CS, 10, 0);
  mem_set_faults (o.f, NULL);
  close_overlay (&o);
  for (uint64_t c = 0; c < 10; c++)
    CHECK_EQ (in_file (&o, c),
              c >= 2 && c < 5 ? QED_RUN_DATA : QED_RUN_UNALLOCATED);
  free_overlay (&o);
}

/* The image is opened without the backing file that its header names, and
 * unallocated clusters read as zeros.  The next open may have the backing
 * file, which must not show through in clusters that were written or zeroed.
 */
static void
test_no_backing (void)
{
  struct overlay o;
  struct model m;

  new_overlay (&o, BACKING_LOST);
  write_at (&o, 100, 10, 0);
  mem_reset_counters (o.f);
  write_at (&o, CS + 100, 10, 0);
  CHECK_EQ (mem_bytes (o.f, MEM_PWRITE), 10);
  CHECK_EQ (in_file (&o, 1), QED_RUN_UNALLOCATED);
  zero_at (&o, 4 * CS, 2 * CS, 0);
  zero_at (&o, 9 * CS + 1, 1, 0);
  close_overlay (&o);

  /* The clusters that were written have the content that was read. */
  {
    struct mem_file *raw = mem_file_new ();
    uint8_t got[CS];
    struct model r;

    mem_truncate (raw, DISK);
    model_raw (&r, raw);
    model_pattern (&r, 0, DISK);
    CHECK (model_open (&m, o.f));
    m.backing = &r;
    for (uint64_t c = 0; c < 6; c++)
      if (c < 2 || c > 3) {
        CHECK_EQ (model_pread (&m, got, CS, c * CS), 0);
        compare (got, o.want + c * CS, CS);
      }
    mem_file_free (raw);
  }
  free_overlay (&o);
}

/* ---- large clusters ---- */

/* The copied range may have any number of holes. */
static void
test_many_holes (void)
{
  static uint8_t got[65536], want[65536];
  struct mem_file *f = mem_file_new (), *raw = mem_file_new ();
  struct qed_image *img;
  struct model m, r;

  mem_truncate (raw, 3 * sizeof want);
  model_raw (&r, raw);
  for (uint64_t at = 0; at < 3 * sizeof want; at += 2 * MEM_CHUNK)
    model_pattern (&r, at, MEM_CHUNK);
  mem_read (raw, want, sizeof want, sizeof want);
  memcpy (want + 40000, "data", 4);

  model_create (&m, f, sizeof want, 1, 3 * sizeof want);
  img = qed_open_overlay (mem_open (f), qed_backing_raw (mem_open (raw)),
                          QED_MIN_CACHE_SIZE);
  CHECK (img != NULL);
  CHECK_EQ (qed_make_writable (img, &no_thread), 0);
  CHECK_EQ (qed_pwrite (img, "data", 4, sizeof want + 40000, 0), 0);
  CHECK_EQ (qed_pread (img, got, sizeof got, sizeof want), 0);
  compare (got, want, sizeof want);
  CHECK_EQ (qed_close (img), 0);
  mem_file_free (f);
  mem_file_free (raw);
}

/* A copy-up goes in parts: its memory is bounded. */
static void
large_cluster (uint64_t cluster, uint64_t filled)
{
  struct mem_file *f = mem_file_new (), *raw = mem_file_new ();
  uint8_t *got = malloc (filled), *want = malloc (filled);
  const uint64_t at = cluster + filled / 2 + 777;
  struct qed_image *img;
  struct model m, r;
  int64_t before;

  CHECK (got && want);
  mem_truncate (raw, 2 * cluster - 5000);
  model_raw (&r, raw);
  model_pattern (&r, cluster, filled);
  model_pattern (&r, 2 * cluster - 20000, 15000);
  model_create (&m, f, (uint32_t) cluster, 1, 4 * cluster);
  img = qed_open_overlay (mem_open (f), qed_backing_raw (mem_open (raw)),
                          QED_MIN_CACHE_SIZE);
  CHECK (img != NULL);
  CHECK_EQ (qed_make_writable (img, &no_thread), 0);
  before = alloc_bytes ();
  alloc_reset_peak ();
  CHECK_EQ (qed_pwrite (img, "data", 4, at, 0), 0);
  CHECK_OP (mem_bytes (raw, MEM_PREAD), <=, filled + 15000 + 4 * MEM_CHUNK);
  CHECK_OP (mem_largest (f, MEM_PWRITE), <=, 512 << 10);
  CHECK_OP (mem_largest (raw, MEM_PREAD), <=, 512 << 10);
  /* The file in memory, the copies of mem_pwritev, and ours. */
  CHECK_OP (alloc_peak () - before, <=, 3 * filled + (4 << 20));

  for (int pass = 0; pass < 2; pass++) {
    mem_read (raw, want, filled, cluster);
    memcpy (want + (at - cluster), "data", 4);
    CHECK_EQ (qed_pread (img, got, filled, cluster), 0);
    CHECK (memcmp (got, want, filled) == 0);
    mem_read (raw, want, 20000, 2 * cluster - 20000);
    CHECK_EQ (qed_pread (img, got, 20000, 2 * cluster - 20000), 0);
    CHECK (memcmp (got, want, 20000) == 0);
    CHECK_EQ (qed_flush (img), 0);
  }
  /* A copy-up at the end of the backing file. */
  CHECK_EQ (qed_zero (img, 10, 3 * cluster - 10, QED_FAST_ZERO), 0);
  CHECK_EQ (qed_pwrite (img, "data", 4, 4 * cluster - 4, QED_FUA), 0);
  CHECK_EQ (qed_close (img), 0);
  CHECK (model_open (&m, f));
  m.backing = &r;
  mem_read (raw, want, filled, cluster);
  memcpy (want + (at - cluster), "data", 4);
  CHECK_EQ (model_pread (&m, got, filled, cluster), 0);
  CHECK (memcmp (got, want, filled) == 0);
  free (got);
  free (want);
  mem_file_free (f);
  mem_file_free (raw);
}

static void
test_large_clusters (void)
{
  large_cluster (UINT64_C (1) << 18, UINT64_C (200000));
  large_cluster (UINT64_C (1) << 20, UINT64_C (1) << 20);
  large_cluster (QED_MAX_CLUSTER_SIZE, UINT64_C (3) << 20);
}

/* ---- pending links ---- */

/* Lookups see pending links also in slices that are holes in the file: some
 * filesystems turn written zeros into holes.
 */
static int
find_data (void *opaque, uint64_t offset, uint64_t length, bool zero)
{
  uint64_t *at = opaque;

  (void) length;
  if (!zero) {
    CHECK_EQ (*at, UINT64_MAX);
    *at = offset;
  }
  return 0;
}

static void
check_only_data (struct qed_image *img, uint64_t cluster)
{
  const uint64_t size = qed_get_header (img)->image_size;
  struct qed_run run;
  uint64_t at = UINT64_MAX;

  for (uint64_t from = 0; from <= cluster; from += 512) {
    CHECK_EQ (qed_map (img, from * CS, size - from * CS, &run), 0);
    CHECK_EQ (run.type, from == cluster ? QED_RUN_DATA : QED_RUN_UNALLOCATED);
    CHECK_EQ (run.length, from == cluster ? CS : (cluster - from) * CS);
  }
  CHECK_EQ (qed_extents (img, 0, size, find_data, &at), 0);
  CHECK_EQ (at, cluster * CS);
}

static void
test_pending_in_hole (void)
{
  /* Tables of 16 slices.  Without a backing file, all else is holes. */
  static const uint64_t clusters[] = {
    7 * 512, 5 * 512 + 3, 8191, 8192 + 600
  };

  for (size_t i = 0; i < sizeof clusters / sizeof clusters[0]; i++) {
    const uint64_t cluster = clusters[i];
    struct mem_file *f = mem_file_new ();
    struct qed_image *img;
    uint8_t buf[CS];
    uint64_t entry;
    struct model m;

    model_create (&m, f, CS, 16, 4 * 8192 * CS);
    model_set (&m, 0, 0);
    model_set (&m, 8192, 0);
    model_name_backing (&m);
    img = qed_open_overlay (mem_open (f), NULL, QED_MIN_CACHE_SIZE);
    CHECK (img != NULL);
    CHECK_EQ (qed_make_writable (img, &no_thread), 0);
    memset (buf, 7, CS);
    CHECK_EQ (qed_pwrite (img, buf, CS, cluster * CS, 0), 0);
    entry = model_get_l1 (&m, cluster / 8192) + cluster % 8192 * 8;
    CHECK_EQ (model_get64 (&m, entry), 0);
    mem_punch (f, entry / CS * CS, CS);
    check_only_data (img, cluster);
    CHECK_EQ (qed_flush (img), 0);
    check_only_data (img, cluster);
    CHECK_EQ (qed_close (img), 0);
    mem_file_free (f);
  }
}

/* A link that is made while a commit makes data durable is not in that commit,
 * even if it lies between others in the slice: the commit writes the old
 * entry.
 */
struct meanwhile {
  struct overlay *o;
  unsigned syncs;
};

static ssize_t
write_meanwhile (void *opaque, enum mem_op op, uint64_t offset, size_t count)
{
  struct meanwhile *w = opaque;

  (void) offset;
  if (op == MEM_SYNC && w->syncs++ == 0)
    write_at (w->o, 4 * CS + 10, 10, 0);
  return (ssize_t) count;
}

static void
link_during_commit (enum qed_run_type old)
{
  struct overlay o;
  struct meanwhile w = { .o = &o };

  new_overlay (&o, BACKING_FULL);
  if (old == QED_RUN_ZERO)
    zero_at (&o, 4 * CS, CS, 0);
  write_at (&o, 3 * CS, CS, 0);
  write_at (&o, 5 * CS + 20, 20, 0);
  mem_set_hook (o.f, write_meanwhile, &w);
  CHECK_EQ (qed_flush (o.img), 0);
  mem_set_hook (o.f, NULL, NULL);
  CHECK_EQ (in_file (&o, 3), QED_RUN_DATA);
  CHECK_EQ (in_file (&o, 4), old);
  CHECK_EQ (in_file (&o, 5), QED_RUN_DATA);
  check_content (&o);
  reset_counters (&o);
  CHECK_EQ (qed_flush (o.img), 0);
  CHECK_COST (&o, 1, 8, 1, 0);  /* its data was in the last one's other sync */
  CHECK_EQ (in_file (&o, 4), QED_RUN_DATA);
  close_overlay (&o);
  free_overlay (&o);
}

static void
test_link_during_commit (void)
{
  link_during_commit (QED_RUN_UNALLOCATED);
  link_during_commit (QED_RUN_ZERO);
}

/* A commit writes old entries beside the links.  So it must not run between
 * another thread's write of such an entry to the file and its update in
 * memory, nor the reverse.  The test starts each of the two while the other
 * one writes.  The one that has to wait makes the test's own wait time out.
 */
struct race {
  struct overlay *o;
  bool zero_first;
  pthread_t other;
  atomic_bool committing, zeroed;
};

static void
wait_a_little_for (atomic_bool *b)
{
  for (int ms = 0; ms < 20 && !atomic_load (b); ms++)
    usleep (1000);
}

static void *
flush_thread (void *opaque)
{
  struct race *race = opaque;

  CHECK_EQ (qed_flush (race->o->img), 0);
  return NULL;
}

static void *
zero_thread (void *opaque)
{
  struct race *race = opaque;

  zero_at (race->o, 4 * CS, CS, 0);
  atomic_store (&race->zeroed, true);
  return NULL;
}

static ssize_t
race_writes (void *opaque, enum mem_op op, uint64_t offset, size_t count)
{
  struct race *race = opaque;
  bool entry = op == MEM_PWRITE && count == 8;          /* a zero cluster */
  bool entries = op == MEM_PWRITE && count == 3 * 8;    /* the commit */

  (void) offset;
  if (entry && race->zero_first) {
    CHECK (pthread_create (&race->other, NULL, flush_thread, race) == 0);
    wait_a_little_for (&race->committing);
  }
  else if (entries) {
    atomic_store (&race->committing, true);
    if (!race->zero_first)
      CHECK (pthread_create (&race->other, NULL, zero_thread, race) == 0);
    wait_a_little_for (&race->zeroed);
  }
  return (ssize_t) count;
}

static void
test_zero_during_commit (void)
{
  for (int i = 0; i < 2; i++) {
    struct overlay o;
    struct race race = { .o = &o, .zero_first = i };

    new_overlay (&o, BACKING_FULL);
    write_at (&o, 3 * CS, CS, 0);
    write_at (&o, 5 * CS, CS, 0);
    mem_set_hook (o.f, race_writes, &race);
    if (race.zero_first)
      zero_thread (&race);
    else
      flush_thread (&race);
    CHECK (pthread_join (race.other, NULL) == 0);
    mem_set_hook (o.f, NULL, NULL);
    CHECK_EQ (in_file (&o, 4), QED_RUN_ZERO);
    CHECK_EQ (in_file (&o, 5), QED_RUN_DATA);
    close_overlay (&o);
    free_overlay (&o);
  }
}

/* A link must survive another thread's reserving of space in its slice, even
 * if the slice was evicted and read again meanwhile.  The test stops the first
 * writer before it writes its data, evicts its slice, and stops the second
 * writer before it reserves the same space.
 */
#define FIRST 1
#define SECOND 2
static __thread unsigned writer;

struct stops {
  struct qed_image *img;
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool stopped[3], go[3];
};

struct writer {
  pthread_t thread;
  unsigned number;
  struct stops *stops;
};

static ssize_t
stop_writers (void *opaque, enum mem_op op, uint64_t offset, size_t count)
{
  struct stops *s = opaque;

  (void) offset;
  if (op == MEM_PWRITE && ((writer == FIRST && count > CS) ||
                           (writer == SECOND && count == CS))) {
    pthread_mutex_lock (&s->lock);
    s->stopped[writer] = true;
    pthread_cond_broadcast (&s->changed);
    while (!s->go[writer])
      pthread_cond_wait (&s->changed, &s->lock);
    pthread_mutex_unlock (&s->lock);
  }
  return (ssize_t) count;
}

static void *
writer_thread (void *opaque)
{
  static uint8_t buf[CS + 1000];
  struct writer *w = opaque;

  memset (buf, 'x', sizeof buf);
  writer = w->number;
  CHECK_EQ (qed_pwrite (w->stops->img, buf, sizeof buf,
                        w->number * 100 * CS, 0), 0);
  return NULL;
}

static void
start_writer (struct writer *w, unsigned number, struct stops *s)
{
  *w = (struct writer) { .number = number, .stops = s };
  CHECK (pthread_create (&w->thread, NULL, writer_thread, w) == 0);
  pthread_mutex_lock (&s->lock);
  while (!s->stopped[number])
    pthread_cond_wait (&s->changed, &s->lock);
  pthread_mutex_unlock (&s->lock);
}

static void
let_go (struct stops *s, unsigned number)
{
  pthread_mutex_lock (&s->lock);
  s->go[number] = true;
  pthread_cond_broadcast (&s->changed);
  pthread_mutex_unlock (&s->lock);
}

static void *
flush_image (void *img)
{
  CHECK_EQ (qed_flush (img), 0);
  return NULL;
}

static void
test_reserve_during_commit (void)
{
  struct stops s = {
    .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER,
  };
  struct mem_file *f = mem_file_new ();
  struct writer first, second;
  pthread_t flush;
  struct model m;
  uint8_t got;

  /* Two tables of 16 slices. */
  model_create (&m, f, CS, 16, 2 * 8192 * CS);
  model_name_backing (&m);
  model_set (&m, 0, 0);
  model_set (&m, 8192, 0);
  s.img = qed_open_overlay (mem_open (f), NULL, QED_MIN_CACHE_SIZE);
  CHECK (s.img != NULL);
  CHECK_EQ (qed_make_writable (s.img, &no_thread), 0);
  mem_set_hook (f, stop_writers, &s);

  start_writer (&first, FIRST, &s);
  for (uint64_t slice = 1; slice < 3 * 31; slice++)
    CHECK_EQ (qed_pread (s.img, &got, 1, (1 + slice % 31) * 512 * CS), 0);
  start_writer (&second, SECOND, &s);
  let_go (&s, FIRST);
  CHECK (pthread_join (first.thread, NULL) == 0);
  CHECK (pthread_create (&flush, NULL, flush_image, s.img) == 0);
  usleep (10000);               /* it gets as far as it can */
  let_go (&s, SECOND);
  CHECK (pthread_join (second.thread, NULL) == 0);
  CHECK (pthread_join (flush, NULL) == 0);
  CHECK_EQ (qed_close (s.img), 0);
  mem_set_hook (f, NULL, NULL);

  CHECK (model_open (&m, f));
  for (unsigned i = FIRST; i <= SECOND; i++) {
    CHECK_EQ (model_pread (&m, &got, 1, i * 100 * CS), 0);
    CHECK_EQ (got, 'x');
  }
  mem_file_free (f);
}

static void
test_commit_at_close (void)
{
  struct overlay o;

  for (int kind = BACKING_LOST; kind < NR_BACKING; kind++) {
    new_overlay (&o, (enum backing_kind) kind);
    write_at (&o, 3 * CS + 5, 10 * CS, 0);
    write_at (&o, 511 * CS + 5, 2 * CS, 0);
    close_overlay (&o);
    CHECK_EQ (in_file (&o, 3), QED_RUN_DATA);
    CHECK_EQ (mem_size (o.f), (2 + 2 + 11 + 3) * CS);
    open_overlay (&o, &no_thread);
    close_overlay (&o);
    free_overlay (&o);
  }
}

/* No flush. */
static void
test_commit_by_thread (void)
{
  const struct qed_write_options opts = {
    .commit_ms = 5, .idle_ms = 1 << 30
  };
  struct overlay o;

  new_overlay (&o, BACKING_FULL);
  CHECK_EQ (qed_close (o.img), 0);
  open_overlay (&o, &opts);
  for (uint64_t i = 0; i < 3; i++) {
    write_at (&o, i * 300 * CS + 5, 10, 0);
    while (in_file (&o, i * 300) != QED_RUN_DATA)
      usleep (1000);
  }
  close_overlay (&o);
  free_overlay (&o);
}

/* I6: the image isn't marked as clean before its links are durable. */
static void
test_clean_is_committed (void)
{
  const struct qed_write_options opts = { .idle_ms = 5 };
  struct overlay o;
  struct model m;

  new_overlay (&o, BACKING_FULL);
  CHECK_EQ (qed_close (o.img), 0);
  open_overlay (&o, &opts);
  for (uint64_t i = 0; i < 3; i++) {
    write_at (&o, i * 300 * CS + 5, 10, 0);
    do {
      usleep (1000);
      CHECK (model_open (&m, o.f));
    } while (m.h.features & QED_F_NEED_CHECK);
    CHECK_EQ (in_file (&o, i * 300), QED_RUN_DATA);
  }
  close_overlay (&o);
  free_overlay (&o);
}

/* Pending links leave room in the cache: the library commits before there are
 * too many, and nothing hangs.
 */
static void
test_pending_limit (void)
{
  const uint64_t slices = 300, disk = slices * 512 * CS;
  struct mem_file *f = mem_file_new ();
  struct qed_image *img;
  struct model m;
  uint64_t pending = 0;

  model_create (&m, f, CS, 16, disk);
  model_name_backing (&m);
  img = qed_open_overlay (mem_open (f), NULL, QED_MIN_CACHE_SIZE);
  CHECK (img != NULL);
  CHECK_EQ (qed_make_writable (img, &no_thread), 0);
  for (uint64_t i = 0; i < 3000; i++) {
    uint64_t slice = i * 7 % slices;

    CHECK_EQ (qed_pwrite (img, &i, 8, (slice * 512 + i / slices) * CS, 0), 0);
  }
  m.file_size = mem_size (f);
  for (uint64_t i = 0; i < 3000; i++) {
    uint64_t slice = i * 7 % slices, got, entry;

    CHECK_EQ (qed_pread (img, &got, 8, (slice * 512 + i / slices) * CS), 0);
    CHECK_EQ (got, i);
    pending += model_lookup (&m, slice * 512 + i / slices, &entry) ==
      QED_RUN_UNALLOCATED;
  }
  CHECK_OP (pending, <, 16);
  CHECK_OP (pending, >, 0);
  CHECK_EQ (qed_close (img), 0);
  mem_file_free (f);
}

/* ---- failures ---- */

/* I5: after a commit that can't write entries there is no other; the pending
 * clusters can still be read.
 */
static ssize_t
fail_entries (void *opaque, enum mem_op op, uint64_t offset, size_t count)
{
  struct overlay *o = opaque;
  const uint64_t table = model_get_l1 (&o->m, 0);

  if (op == MEM_PWRITE && offset - table < CS) {
    errno = ENOSPC;
    return -1;
  }
  return (ssize_t) count;
}

static void
test_commit_fails (void)
{
  struct overlay o;
  uint8_t *old;

  new_overlay (&o, BACKING_FULL);
  write_at (&o, 3 * CS, CS, QED_FUA);
  old = malloc (DISK);
  CHECK (old != NULL);
  memcpy (old, o.want, DISK);
  write_at (&o, 5 * CS + 100, CS, 0);
  mem_set_hook (o.f, fail_entries, &o);
  CHECK_FAILS (qed_flush (o.img), ENOSPC, MEM_NAME, "write");
  mem_set_hook (o.f, NULL, NULL);
  reset_counters (&o);
  CHECK_FAILS (qed_flush (o.img), ENOSPC, "nothing more is written");
  CHECK_FAILS (qed_pwrite (o.img, "", 1, 0, 0), ENOSPC, "nothing more");
  CHECK_FAILS (qed_zero (o.img, CS, 0, 0), ENOSPC, "nothing more");
  CHECK_FAILS (qed_trim (o.img, CS, 0, 0), ENOSPC, "nothing more");
  check_content (&o);
  CHECK_FAILS (qed_close (o.img), ENOSPC, "nothing more");
  CHECK_EQ (mem_calls (o.f, MEM_PWRITE) + mem_calls (o.f, MEM_RESIZE), 0);

  /* Only writes that weren't flushed are lost. */
  CHECK (model_open (&o.m, o.f));
  CHECK_EQ (o.m.h.features & QED_F_NEED_CHECK, QED_F_NEED_CHECK);
  open_overlay (&o, &no_thread);
  memcpy (o.want, old, DISK);
  free (old);
  check_content (&o);
  write_at (&o, 5 * CS, CS, 0);
  close_overlay (&o);
  free_overlay (&o);
}

/* A full filesystem has no block for a hole.  A commit doesn't need any, so
 * completed writes can be flushed.  A write that finds no space fails, but the
 * image doesn't fail for good.
 */
struct full { struct mem_file *f; bool full; };

static ssize_t
fill_holes (void *opaque, enum mem_op op, uint64_t offset, size_t count)
{
  struct full *full = opaque;
  bool hole;

  if (op != MEM_PWRITE || !full->full)
    return (ssize_t) count;
  mem_next_extent (full->f, offset, &hole);
  if (!hole)
    return (ssize_t) count;
  errno = ENOSPC;
  return -1;
}

static void
test_full (void)
{
  struct overlay o;
  struct full full;

  new_overlay (&o, BACKING_FULL);
  full = (struct full) { .f = o.f };
  mem_set_hook (o.f, fill_holes, &full);
  write_at (&o, CS + 5, CS, 0);
  write_at (&o, 600 * CS + 5, CS, 0);
  full.full = true;
  for (int i = 0; i < 100; i++) {
    CHECK_FAILS (qed_pwrite (o.img, "", 1, 50 * CS, 0), ENOSPC, MEM_NAME);
    CHECK_FAILS (qed_pwrite (o.img, "", 1, 1050 * CS, 0), ENOSPC, MEM_NAME);
    CHECK_FAILS (qed_zero (o.img, CS, 1050 * CS, 0), ENOSPC, MEM_NAME);
  }
  CHECK_EQ (qed_flush (o.img), 0);
  CHECK_EQ (in_file (&o, 1), QED_RUN_DATA);
  CHECK_EQ (in_file (&o, 600), QED_RUN_DATA);
  check_content (&o);
  full.full = false;
  write_at (&o, 1050 * CS, 1, 0);
  mem_set_hook (o.f, NULL, NULL);
  close_overlay (&o);
  CHECK_EQ (mem_size (o.f), (2 + 3 + 2 * 2 + 1) * CS);
  free_overlay (&o);
}

/* If the backing file can't be read, the copy-up fails: the cluster stays
 * unallocated, nothing leaks, and other requests succeed.
 */
static void
test_copy_fails (void)
{
  const struct mem_faults faults = {
    .op = MEM_PREAD, .first = 1, .count = UINT64_MAX, .err = ENXIO
  };
  struct overlay o;

  new_overlay (&o, BACKING_FULL);
  write_at (&o, 0, CS, 0);
  mem_set_faults (o.raw, &faults);
  for (int i = 0; i < 100; i++) {
    CHECK_FAILS (qed_pwrite (o.img, "data", 4, 2 * CS + 5, 0), ENXIO,
                 MEM_NAME);
    CHECK_FAILS (qed_zero (o.img, 5, 2 * CS + 5, 0), ENXIO, MEM_NAME);
  }
  write_at (&o, 3 * CS, CS, 0);
  zero_at (&o, 4 * CS, CS, 0);
  write_at (&o, 3 * CS + 5, 5, QED_FUA);
  mem_set_faults (o.raw, NULL);
  check_content (&o);
  write_at (&o, 2 * CS + 5, 5, 0);
  close_overlay (&o);
  CHECK_EQ (mem_size (o.f), (2 + 1 + 3) * CS);
  free_overlay (&o);
}

/* The same if there is no memory for the copy. */
static void
test_no_memory (void)
{
  struct overlay o;

  new_overlay (&o, BACKING_FULL);
  write_at (&o, 0, CS, 0);
  alloc_fail (1);
  CHECK_FAILS (qed_pwrite (o.img, "data", 4, 2 * CS + 5, 0), ENOMEM, MEM_NAME);
  alloc_fail (0);
  CHECK_EQ (in_file (&o, 2), QED_RUN_UNALLOCATED);
  write_at (&o, 2 * CS + 5, 5, 0);
  close_overlay (&o);
  free_overlay (&o);
}

HARNESS_MAIN (
  TEST (test_cost_of_writes),
  TEST (test_cost_of_slices),
  TEST (test_holes_in_backing),
  TEST (test_short_backing),
  TEST (test_last_cluster),
  TEST (test_zero_whole_clusters),
  TEST (test_zero_huge),
  TEST (test_zero_part),
  TEST (test_fast_zero_all_or_nothing),
  TEST (test_zero_without_room),
  TEST (test_zero_part_of_hole),
  TEST (test_write_to_zero),
  TEST (test_trim),
  TEST (test_no_backing),
  TEST (test_many_holes),
  TEST (test_large_clusters),
  TEST (test_pending_in_hole),
  TEST (test_link_during_commit),
  TEST (test_zero_during_commit),
  TEST (test_reserve_during_commit),
  TEST (test_commit_at_close),
  TEST (test_commit_by_thread),
  TEST (test_clean_is_committed),
  TEST (test_pending_limit),
  TEST (test_commit_fails),
  TEST (test_full),
  TEST (test_copy_fails),
  TEST (test_no_memory),
)
