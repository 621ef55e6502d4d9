/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Write the seeds of the fuzz targets, small images of every kind, to the
 * directory that the argument names.
 */

#include <config.h>

#include "damage.h"
#include "harness.h"
#include "input.h"
#include "model.h"

#define MAX_SEED 40000          /* bytes; a fuzzer is slow with more */

static const char *directory;

static void
save (struct mem_file *f, const char *name)
{
  char path[4096];
  bool sparse = mem_size (f) > MAX_SEED;

  snprintf (path, sizeof path, "%s/%s%s", directory, name,
            sparse ? ".sparse" : ".qed");
  input_save (f, sparse, path);
}

/* A data cluster of which a few bytes at both ends are written. */
static uint64_t
data (struct model *m, uint64_t cluster)
{
  uint64_t offset;

  model_set (m, cluster, 0);    /* the table first */
  offset = model_append (m, 1);
  model_pattern (m, offset, 16);
  model_pattern (m, offset + m->h.cluster_size - 16, 16);
  model_set (m, cluster, offset);
  return offset;
}

/* One of each type of entry, on both sides of a slice's and a table's end. */
static void
some_of_all (struct model *m)
{
  uint64_t n = model_entries (m), last = model_clusters (m) - 1, a;

  data (m, 0);
  data (m, 1);
  a = data (m, 2);
  model_set (m, 3, 1);
  model_set (m, 5, a);
  model_set (m, 6, a - m->h.cluster_size);
  if (n - 1 < last) {
    data (m, n - 1);
    data (m, n);
  }
  if (last >= 511)
    model_set (m, 511, 1);
  model_set (m, last, 1);
}

static void
geometries (struct mem_file *f)
{
  FOR_ALL_GEOMETRIES (cs, ts) {
    uint64_t n = cs * ts / 8;
    char name[100];
    struct model m;

    if (ts != 1 && ts != 4 && ts != 16)
      continue;
    model_create (&m, f, (uint32_t) cs, (uint32_t) ts, 3 * n * cs - 512);
    some_of_all (&m);
    snprintf (name, sizeof name, "geometry-%" PRIu64 "k-%" PRIu64,
              cs / 1024, ts);
    save (f, name);
  }
}

/* The largest disks of some. */
static void
largest (struct mem_file *f)
{
  static const struct { uint32_t cs, ts; uint64_t size; } disks[] = {
    { 1 << 12, 1, UINT64_C (1) << 30 },
    { 1 << 12, 16, UINT64_C (1) << 38 },
    { 1 << 16, 4, UINT64_C (1) << 46 },
    { 1 << 26, 16, QED_MAX_IMAGE_SIZE },
  };

  for (size_t i = 0; i < sizeof disks / sizeof disks[0]; i++) {
    char name[100];
    struct model m;

    model_create (&m, f, disks[i].cs, disks[i].ts, disks[i].size);
    some_of_all (&m);
    snprintf (name, sizeof name, "largest-%zu", i);
    save (f, name);
  }
}

/* Every kind of unsound entry, in L2 and in L1. */
static void
unsound (struct mem_file *f)
{
  for (int level = 1; level <= 2; level++)
    for (int i = 0; i < 11; i++) {
      char name[100];
      struct model m;
      uint64_t own, end, entry[11];

      model_create (&m, f, 4096, 1, 1 << 21);
      data (&m, 0);
      own = model_get_l1 (&m, 0);
      end = mem_size (f);
      memcpy (entry, (const uint64_t[]) {
          2, 4096 - 8, 0, 4096, own, end, end + 4096, end - 4096 + 1,
          0 - UINT64_C (4096), UINT64_MAX, UINT64_C (1) << 62 }, sizeof entry);
      if (level == 2)
        model_set (&m, 1, i == 2 ? 4097 : entry[i]);
      else
        model_set_l1 (&m, 0, entry[i]);
      snprintf (name, sizeof name, "unsound-l%d-%d", level, i);
      save (f, name);
    }
}

/* Files that end in the header, in L1, in L2, in data. */
static void
cut (struct mem_file *f)
{
  static const uint64_t sizes[] = {
    0, 3, 4, 12, 63, 64, 4095, 4096, 8191, 8192, 8193, 12287, 12288, 16383,
    16385,
  };

  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    char name[100];
    struct model m;

    model_create (&m, f, 4096, 1, 10 * 4096 + 512);
    some_of_all (&m);
    mem_truncate (f, sizes[i]);
    snprintf (name, sizeof name, "cut-%" PRIu64, sizes[i]);
    save (f, name);
  }
}

/* Headers: the fields at their limits. */
static void
headers (struct mem_file *f)
{
  for (int i = 0; i < 20; i++) {
    char name[100];
    struct model m;

    model_create (&m, f, 4096, 1, 10 * 4096 + 512);
    m.h.header_size = 2;
    m.h.l1_table_offset = 3 * 4096;
    mem_truncate (f, 4 * 4096);
    model_write_header (&m);
    some_of_all (&m);
    switch (i) {
    case 0: m.h.cluster_size = 2048; break;
    case 1: m.h.cluster_size = 1 << 27; break;
    case 2: m.h.table_size = 0; break;
    case 3: m.h.table_size = 3; break;
    case 4: m.h.table_size = 2; break;
    case 5: m.h.header_size = 0; break;
    case 6: m.h.header_size = 1 << 20; break;
    case 7: m.h.features = QED_F_NEED_CHECK; break;
    case 8: m.h.features = 8; break;
    case 9: m.h.compat_features = m.h.autoclear_features = UINT64_MAX; break;
    case 10: m.h.l1_table_offset = 4096; break;
    case 11: m.h.l1_table_offset++; break;
    case 12: m.h.l1_table_offset = 0 - UINT64_C (4096); break;
    case 13: m.h.image_size = 0; break;
    case 14: m.h.image_size = 1 << 30; break;
    case 15: m.h.image_size = (1 << 30) + 512; break;
    case 16: m.h.image_size = 511; break;
    case 17: m.h.image_size = UINT64_C (1) << 63; break;
    case 18:
    case 19:
      m.h.features = QED_F_BACKING_FILE | QED_F_BACKING_FORMAT_NO_PROBE;
      m.h.backing_filename_offset = i == 18 ? 64 : 8190;
      m.h.backing_filename_size = 8;
      mem_write (f, "base.raw", 8, 64);
      break;
    }
    model_write_header (&m);
    snprintf (name, sizeof name, "header-%d", i);
    save (f, name);
  }
}

/* Random images as in the unit tests, if they are small. */
static void
random_images (struct mem_file *f)
{
  for (uint64_t seed = 0; seed < 12; seed++) {
    struct rng rng = { seed };
    char name[100];
    struct model m;

    model_random (&m, f, &rng, 4096, 1, true, NULL, 0);
    if (mem_size (f) > MAX_SEED)
      continue;
    snprintf (name, sizeof name, "random-%" PRIu64, seed);
    save (f, name);
  }
}

/* Leaks and damage, one kind at a time, and all. */
static void
damaged (struct mem_file *f)
{
  for (unsigned seed = 0; seed < 24; seed++) {
    struct rng rng = { seed };
    char name[100];
    struct model m;

    damage_random (&m, f, &rng, 4096, 1 << seed % 2,
                   seed % 6 < 5 ? 1U << seed % 6 : ALL_DAMAGES, 6);
    snprintf (name, sizeof name, "damaged-%u", seed);
    save (f, name);
  }
}

int
main (int argc, char *argv[])
{
  struct mem_file *f = mem_file_new ();

  if (argc != 2) {
    fprintf (stderr, "usage: %s DIRECTORY\n", argv[0]);
    return EXIT_FAILURE;
  }
  directory = argv[1];
  geometries (f);
  largest (f);
  unsound (f);
  cut (f);
  headers (f);
  random_images (f);
  damaged (f);
  mem_file_free (f);
  return EXIT_SUCCESS;
}
