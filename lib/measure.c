/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* How long a file will be that qed_convert makes: the disk is copied as it
 * would be, into a sink that only counts.
 *
 * A new image has no gaps.  So its length is that of the header clusters, the
 * L1 table, the L2 tables of all ranges that anything is written to, and all
 * clusters that get data.  The sink gets ranges in the order of the disk, so a
 * counter for each kind, with the last one that was counted, is enough.
 *
 * A raw file is as long as the disk.
 */

#include <config.h>

#include "check.h"
#include "copy-disk.h"
#include "create.h"
#include "error.h"
#include "offline.h"

/* Units, of 1 << BITS bytes of the disk, that were touched. */
struct counter {
  unsigned bits;
  uint64_t count;
  uint64_t next;                /* the first that can still be counted */
};

struct meter {
  struct qed_sink sink;
  struct counter clusters, tables;
  uint64_t size;                /* of the disk, bytes */
  struct qed_backing *backing;  /* of the new image, borrowed; or NULL */
};

static void
touch (struct counter *c, uint64_t offset, uint64_t length)
{
  const uint64_t end = ((offset + length - 1) >> c->bits) + 1;
  uint64_t first = offset >> c->bits;

  if (first < c->next)
    first = c->next;
  if (end > first) {
    c->count += end - first;
    c->next = end;
  }
}

static int
measure_write (struct qed_sink *s, const void *buf __attribute__ ((unused)),
               size_t count, uint64_t offset)
{
  struct meter *m = (struct meter *) s;

  touch (&m->clusters, offset, count);
  touch (&m->tables, offset, count);
  return 0;
}

/* Has the backing file data from OFFSET to before END? */
static int
has_data (const struct meter *m, uint64_t offset, uint64_t end, bool *data)
{
  struct qed_ahead a = { .b = m->backing };

  if (offset < end && qed_look_ahead (&a, offset, end) == -1)
    return -1;
  *data = offset < end && a.start < end;
  return 0;
}

/* Zero a part of a cluster, as allocate.c does it.  The cluster stays
 * unallocated if the backing file has zeros in that part.  If it has zeros in
 * the rest of it an entry says so, else the rest is copied.
 */
static int
measure_part (struct meter *m, uint64_t offset, uint64_t end)
{
  const uint64_t size = UINT64_C (1) << m->clusters.bits;
  const uint64_t start = offset & ~(size - 1);
  const uint64_t next = start + size < m->size ? start + size : m->size;
  bool inside, before, after;

  if (has_data (m, offset, end, &inside) == -1 ||
      has_data (m, start, offset, &before) == -1 ||
      has_data (m, end, next, &after) == -1)
    return -1;
  if (inside)
    touch (&m->tables, offset, end - offset);
  if (inside && (before || after))
    touch (&m->clusters, offset, end - offset);
  return 0;
}

/* Entries of an overlay say so of whole clusters. */
static int
measure_zero (struct qed_sink *s, uint64_t offset, uint64_t length)
{
  struct meter *m = (struct meter *) s;
  const uint64_t in_cluster = (UINT64_C (1) << m->clusters.bits) - 1;
  const uint64_t end = offset + length;
  uint64_t first = (offset + in_cluster) & ~in_cluster;
  uint64_t last = end == m->size ? end : end & ~in_cluster;

  if (first > last)             /* all of it is in one cluster */
    return measure_part (m, offset, end);
  if (offset < first && measure_part (m, offset, first) == -1)
    return -1;
  if (first < last)
    touch (&m->tables, first, last - first);
  return last < end ? measure_part (m, last, end) : 0;
}

static uint64_t
file_length (const struct qed_geometry *g, uint64_t clusters, uint64_t tables)
{
  return g->l1_offset + (tables + 1) * g->table_bytes +
    clusters * g->cluster_size;
}

static uint64_t
units (uint64_t size, unsigned bits)
{
  return (size >> bits) + ((size & ((UINT64_C (1) << bits) - 1)) != 0);
}

int
qed_measure (struct qed_backing *b, const struct qed_convert_options *opts,
             struct qed_measure *measure)
{
  const struct qed_sink_ops ops = {
    .write = measure_write, .ordered = true,
    .zero = opts->backing ? measure_zero : NULL,
  };
  struct qed_create_options create = *opts->create;
  struct qed_header h;
  struct qed_geometry g;
  struct meter m = { .sink = { .ops = &ops, .name = "measure" } };

  if (b)
    create.image_size = b->size;
  if (!opts->qed) {
    measure->required = measure->fully_allocated = create.image_size;
    return 0;
  }
  if (qed_make_header (&create, b ? b->name : "--size", &h) == -1)
    return -1;
  qed_geometry_init (&g, &h);
  m.clusters.bits = g.cluster_bits;
  m.tables.bits = g.cluster_bits + g.table_bits;
  m.size = g.image_size;
  m.backing = opts->backing;
  if (b && b->image && qed_refuse_shared_tables (b->image) == -1)
    return -1;
  if (b && qed_copy_disk (b, g.image_size, &m.sink, opts) == -1)
    return -1;
  measure->required = file_length (&g, m.clusters.count, m.tables.count);
  measure->fully_allocated =
    file_length (&g, units (g.image_size, m.clusters.bits),
                 units (g.image_size, m.tables.bits));
  return 0;
}
