/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The map of a disk: which layer each range comes from.
 *
 * The layers are asked from the top down: the runs of the image (mapping.c),
 * for unallocated runs those of its backing file within that range, and at the
 * bottom the extents of a raw file or a server.  Each answer is merged with
 * the entry before it.  So memory doesn't depend on the disk, but for the sets
 * of a check (bitmap.h).
 *
 * A range that no layer has anything for gets the depth of the last image that
 * was asked: its backing file ends there, or it has none.
 *
 * First all tables of each image are read once, to know what is shared.  An L2
 * table of several ranges is looked at for the first of them only, and the
 * other ranges are told in one piece each.  Otherwise a few tables of a
 * hostile image would be read as often as its L1 table likes (I9).
 */

#include <config.h>

#include <errno.h>

#include "check.h"
#include "error.h"
#include "format.h"
#include "image.h"
#include "storage.h"

/* ---- shared tables and clusters ---- */

/* Of one image.  All zeros: nothing. */
struct shared {
  uint8_t *tables;              /* bitmap of the L1 entries whose table is that
                                   of an earlier one too; or NULL: none */
  uint64_t l1_entries;          /* its bits */
  struct qed_set clusters;      /* of the file, with two owners or more */
  bool any_clusters;
};

static void
shared_destroy (struct shared *s)
{
  qed_bitmap_free (s->tables, s->l1_entries);
  qed_set_destroy (&s->clusters);
}

static int
begin_walk (struct qed_walk *w, const struct qed_image *img)
{
  int64_t size = qed_storage_size (img->st);

  return size == -1 ? -1 :
    qed_walk_init (w, img->st, &img->h, (uint64_t) size);
}

static int
find_tables (struct shared *s, struct qed_walk *w)
{
  int r;

  s->l1_entries = UINT64_C (1) << w->g.table_bits;
  r = qed_find_shared_tables (w, &s->tables);
  if (r == 0) {
    qed_bitmap_free (s->tables, s->l1_entries);
    s->tables = NULL;
  }
  return r;
}

struct finder {
  struct shared *s;
  unsigned cluster_bits;
};

static int
note_cluster (void *opaque, uint64_t index __attribute__ ((unused)),
              uint64_t *entry)
{
  const struct finder *f = opaque;

  f->s->any_clusters = true;
  return qed_set_add (&f->s->clusters, *entry >> f->cluster_bits);
}

/* Fill S, which is all zeros, and is to be destroyed also after a failure. */
static int
find_shared (struct shared *s, const struct qed_image *img)
{
  struct finder f = { s, img->g.cluster_bits };
  struct qed_walk w;
  int r = -1;

  if (begin_walk (&w, img) == -1)
    return -1;
  if (qed_set_init (&s->clusters, w.file_end >> img->g.cluster_bits,
                    img->st->name) == 0 &&
      find_tables (s, &w) != -1)
    r = qed_find_shared (&w, false, note_cluster, &f);
  qed_walk_free (&w);
  return r;
}

static struct qed_image *
image_below (const struct qed_image *img)
{
  return img->backing ? img->backing->image : NULL;
}

int
qed_refuse_shared_tables (const struct qed_image *img)
{
  for (; img; img = image_below (img)) {
    struct shared s = { .tables = NULL };
    struct qed_walk w;
    int r;

    if (begin_walk (&w, img) == -1)
      return -1;
    r = find_tables (&s, &w);
    qed_walk_free (&w);
    shared_destroy (&s);
    if (r != 0)
      return r == -1 ? -1 :
        qed_error (EIO, "%s: some of its L2 tables overlap: the image is "
                   "corrupt: run qed-img check -r all", img->st->name);
  }
  return 0;
}

/* ---- entries ---- */

struct mapper {
  qed_map_fn *fn;
  void *opaque;
  struct qed_map_entry e;       /* not told yet, unless its length is 0 */
  int r;                        /* what FN returned last */

  struct shared shared[QED_MAX_CHAIN]; /* of the image of each depth */
};

static bool
continues (const struct qed_map_entry *e, const struct qed_map_entry *next)
{
  return e->depth == next->depth && e->present == next->present &&
    e->zero == next->zero && e->data == next->data &&
    e->unsound == next->unsound && e->shared == next->shared &&
    e->has_offset == next->has_offset &&
    (!e->has_offset || e->file_offset + e->length == next->file_offset);
}

static void
tell (struct mapper *m)
{
  if (m->r == 0 && m->e.length > 0)
    m->r = m->fn (m->opaque, &m->e);
}

/* Append an entry, which begins where the last one ends. */
static int
add (struct mapper *m, struct qed_map_entry next)
{
  if (m->e.length > 0 && continues (&m->e, &next))
    m->e.length += next.length;
  else {
    tell (m);
    m->e = next;
  }
  return m->r;
}

/* ---- raw files and servers ---- */

struct bottom {
  struct mapper *m;
  const struct qed_backing *b;
  unsigned depth;
};

static int
add_extent (void *opaque, uint64_t offset, uint64_t length, bool zero)
{
  const struct bottom *bottom = opaque;

  return add (bottom->m, (struct qed_map_entry) {
      .offset = offset, .length = length, .depth = bottom->depth,
      .present = true, .zero = zero, .data = !zero,
      .has_offset = bottom->b->raw, .file_offset = offset,
      .filename = bottom->b->name,
    });
}

static int
map_bottom (struct mapper *m, struct qed_backing *b, unsigned depth,
            uint64_t offset, uint64_t length)
{
  struct bottom bottom = { .m = m, .b = b, .depth = depth };
  uint64_t n = offset >= b->size ? 0 :
    b->size - offset < length ? b->size - offset : length;

  if (n > 0 && b->ops->extents (b, offset, n, add_extent, &bottom) == -1)
    return -1;
  /* The rest of a file's last sector. */
  if (n < length)
    add_extent (&bottom, offset + n, length - n, true);
  return 0;
}

/* ---- images ---- */

static int map_image (struct mapper *m, struct qed_image *img, unsigned depth,
                      uint64_t offset, uint64_t length);

/* A range of IMG that isn't allocated there. */
static int
map_below (struct mapper *m, struct qed_image *img, unsigned depth,
           uint64_t offset, uint64_t length)
{
  struct qed_backing *b = img->backing;
  const uint64_t sector = QED_SECTOR_SIZE - 1;
  uint64_t size = b ? (b->size + sector) & ~sector : 0;
  uint64_t n = offset >= size ? 0 :
    size - offset < length ? size - offset : length;

  if (n > 0 &&
      (b->image ? map_image (m, b->image, depth + 1, offset, n) :
       map_bottom (m, b, depth + 1, offset, n)) == -1)
    return -1;
  if (n < length)
    add (m, (struct qed_map_entry) {
        .offset = offset + n, .length = length - n, .depth = depth,
        .zero = true,
      });
  return 0;
}

/* Is OFFSET mapped by a table that isn't looked at?  *LENGTH is cut to the
 * range of which that is true, or false.
 */
static bool
in_shared_table (const struct shared *s, const struct qed_image *img,
                 uint64_t offset, uint64_t *length)
{
  const unsigned shift = img->g.cluster_bits + img->g.table_bits;
  const uint64_t index = offset >> shift;
  uint64_t end = (index + 1) << shift;

  if (s->tables == NULL)
    return false;
  if (*length > end - offset)
    *length = end - offset;
  return qed_bit (s->tables, index);
}

/* Is the first cluster of RUN, which is data, shared?  The run is cut to the
 * clusters of which that is true, or false.
 */
static bool
is_shared (const struct shared *s, const struct qed_image *img,
           struct qed_run *run)
{
  const unsigned bits = img->g.cluster_bits;
  const uint64_t end = run->file_offset + run->length;
  uint64_t cluster = run->file_offset >> bits;
  bool shared;

  if (!s->any_clusters)
    return false;
  shared = qed_set_has (&s->clusters, cluster);
  do
    cluster++;
  while (cluster << bits < end &&
         qed_set_has (&s->clusters, cluster) == shared);
  if (cluster << bits < end)
    run->length = (cluster << bits) - run->file_offset;
  return shared;
}

/* A run of IMG that isn't unallocated. */
static int
add_run (struct mapper *m, struct qed_image *img, unsigned depth,
         uint64_t offset, const struct qed_run *run, bool shared,
         bool has_offset)
{
  return add (m, (struct qed_map_entry) {
      .offset = offset, .length = run->length, .depth = depth,
      .present = true, .zero = run->type == QED_RUN_ZERO,
      .data = run->type != QED_RUN_ZERO,
      .unsound = run->type == QED_RUN_UNSOUND, .shared = shared,
      .has_offset = has_offset, .file_offset = run->file_offset,
      .filename = img->st->name,
    });
}

static int
map_image (struct mapper *m, struct qed_image *img, unsigned depth,
           uint64_t offset, uint64_t length)
{
  const struct shared *s = &m->shared[depth];

  while (m->r == 0 && length > 0) {
    struct qed_run run = { .type = QED_RUN_DATA, .length = length };

    if (in_shared_table (s, img, offset, &run.length))
      add_run (m, img, depth, offset, &run, true, false);
    else if (qed_map (img, offset, run.length, &run) == -1)
      return -1;
    else if (run.type == QED_RUN_DATA) {
      bool shared = is_shared (s, img, &run);

      add_run (m, img, depth, offset, &run, shared, true);
    }
    else if (run.type != QED_RUN_UNALLOCATED)
      add_run (m, img, depth, offset, &run, false, false);
    else if (map_below (m, img, depth, offset, run.length) == -1)
      return -1;
    offset += run.length;
    length -= run.length;
  }
  return 0;
}

/* For IMG and all images below it. */
static int
find_all_shared (struct mapper *m, const struct qed_image *img)
{
  for (unsigned i = 0; img; ++i, img = image_below (img))
    if (find_shared (&m->shared[i], img) == -1)
      return -1;
  return 0;
}

int
qed_map_layers (struct qed_image *img, uint64_t offset, uint64_t length,
                qed_map_fn *fn, void *opaque)
{
  struct mapper m = { .fn = fn, .opaque = opaque };
  int r = qed_check_range (img, offset, length);

  if (r == 0)
    r = find_all_shared (&m, img);
  if (r == 0)
    r = map_image (&m, img, 0, offset, length);
  for (unsigned i = 0; i < QED_MAX_CHAIN; ++i)
    shared_destroy (&m.shared[i]);
  if (r == -1)
    return -1;
  tell (&m);
  return m.r == -1 ? -1 : 0;
}

int
qed_map_disk (struct qed_backing *b, uint64_t offset, uint64_t length,
              qed_map_fn *fn, void *opaque)
{
  struct mapper m = { .fn = fn, .opaque = opaque };

  if ((b->image ? map_image (&m, b->image, 0, offset, length) :
       map_bottom (&m, b, 0, offset, length)) == -1)
    return -1;
  tell (&m);
  return m.r == -1 ? -1 : 0;
}
