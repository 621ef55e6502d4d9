/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

#include <config.h>

#include "backing-files.h"

static struct mem_file *
new_raw (struct backing *b, uint64_t size)
{
  struct mem_file *f = mem_file_new ();

  mem_truncate (f, size);
  b->files[b->n] = f;
  model_raw (&b->models[b->n++], f);
  return f;
}

static void
new_image (struct backing *b, uint32_t cluster_size, uint64_t size)
{
  struct model *m = &b->models[b->n];

  b->files[b->n] = mem_file_new ();
  model_create (m, b->files[b->n], cluster_size, 4, size);
  model_name_backing (m);
  m->backing = &b->models[b->n - 1];
  b->n++;
}

void
backing_init (struct backing *b, enum backing_kind kind, uint64_t size,
              uint64_t short_size)
{
  *b = (struct backing) { .kind = kind };
  switch (kind) {
  case BACKING_FULL: new_raw (b, size + 5 * 4096 + 100); break;
  case BACKING_HOLES: new_raw (b, size); break;
  case BACKING_SHORT: new_raw (b, short_size); break;
  case BACKING_CHAIN:
    /* The image in the middle ends within a cluster too. */
    new_raw (b, short_size);
    new_image (b, 8192, (short_size + size) / 2 / 512 * 512);
    new_image (b, 4096, size);
    break;
  default: break;
  }
}

/* Clusters of 4 KiB that are holes, data, or a mix of both by sectors. */
static void
fill_with_holes (struct model *m, uint64_t offset, uint64_t length)
{
  for (uint64_t end = offset + length, next; offset < end; offset = next) {
    struct rng rng = { offset / 4096 };
    uint64_t kind = rng_below (&rng, 4);

    next = (offset / MEM_CHUNK + 1) * MEM_CHUNK;
    if (next > end)
      next = end;
    rng.state = offset / MEM_CHUNK;
    if (kind == 0 || (kind > 1 && rng_below (&rng, 2)))
      model_pattern (m, offset, next - offset);
  }
}

/* Data clusters, zero clusters, and unallocated ones. */
static void
fill_image (struct model *m, uint64_t offset, uint64_t length)
{
  uint64_t cs = m->h.cluster_size;

  for (uint64_t c = offset / cs; c <= (offset + length - 1) / cs; c++)
    switch (rng_below (&(struct rng) { c * 7 + cs }, 5)) {
    case 0: model_data (m, c); break;
    case 1: model_set (m, c, 1); break;
    default: break;
    }
}

void
backing_fill (struct backing *b, uint64_t offset, uint64_t length)
{
  for (size_t i = 0; i < b->n; i++) {
    struct model *m = &b->models[i];
    uint64_t size = m->h.image_size, n = length;

    if (offset >= size)
      continue;
    if (n > size - offset)
      n = size - offset;
    if (!m->raw)
      fill_image (m, offset, n);
    else if (b->kind == BACKING_HOLES)
      fill_with_holes (m, offset, n);
    else
      model_pattern (m, offset, n);
  }
}

void
backing_name (const struct backing *b, struct model *m)
{
  if (b->kind != BACKING_NONE && b->kind != BACKING_FULL)
    model_name_backing (m);
  m->backing = backing_model (b);
}

const struct model *
backing_model (const struct backing *b)
{
  return b->n ? &b->models[b->n - 1] : NULL;
}

struct qed_backing *
backing_open (struct backing *b)
{
  struct qed_backing *r = NULL;

  for (size_t i = 0; i < b->n; i++) {
    struct qed_storage *st = mem_open (b->files[i]);
    struct qed_image *img;

    if (!b->opened)
      b->hashes[i] = mem_hash (b->files[i]);
    if (i == 0)
      r = qed_backing_raw (st);
    else {
      img = qed_open_overlay (st, r, QED_MIN_CACHE_SIZE);
      CHECK (img != NULL);
      r = qed_backing_image (img);
    }
    CHECK (r != NULL);
  }
  b->opened = true;
  return r;
}

void
backing_check (struct backing *b)
{
  for (size_t i = 0; b->opened && i < b->n; i++) {
    struct mem_file *f = b->files[i];

    CHECK_EQ (mem_open_storages (f), 0);
    CHECK_EQ (mem_calls (f, MEM_PWRITE) + mem_calls (f, MEM_RESIZE) +
              mem_calls (f, MEM_PUNCH) + mem_calls (f, MEM_ZERO) +
              mem_calls (f, MEM_SYNC) + mem_calls (f, MEM_MAKE_WRITABLE), 0);
    CHECK_EQ (mem_hash (f), b->hashes[i]);
  }
}

void
backing_free (struct backing *b)
{
  for (size_t i = 0; i < b->n; i++)
    mem_file_free (b->files[i]);
}
