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

#include "copy-disk.h"
#include "create.h"
#include "error.h"

/* Units, of 1 << BITS bytes of the disk, that were touched. */
struct counter {
  unsigned bits;
  uint64_t count;
  uint64_t next;                /* the first that can still be counted */
};

struct meter {
  struct qed_sink sink;
  struct counter clusters, tables;
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

/* An entry of an overlay says so. */
static int
measure_zero (struct qed_sink *s, uint64_t offset, uint64_t length)
{
  touch (&((struct meter *) s)->tables, offset, length);
  return 0;
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
    .zero = opts->create->backing ? measure_zero : NULL,
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
  if (b && qed_copy_disk (b, g.image_size, &m.sink, opts) == -1)
    return -1;
  measure->required = file_length (&g, m.clusters.count, m.tables.count);
  measure->fully_allocated =
    file_length (&g, units (g.image_size, m.clusters.bits),
                 units (g.image_size, m.tables.bits));
  return 0;
}
