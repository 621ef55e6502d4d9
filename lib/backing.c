/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Backing files: what unallocated clusters are read from.  Raw files are here;
 * NBD servers are in backing-nbd.c, images in backing-image.c.  The choice
 * between them is made in layers.c.
 *
 * The size is taken once, at open.  A raw file that grows later shows no more
 * than it had.  Reads of one that is cut fail with EIO.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "collector.h"
#include "error.h"
#include "storage.h"

struct raw {
  struct qed_backing b;
  struct qed_storage *st;       /* owned */
  struct qed_stretch data;
};

static int
raw_pread (struct qed_backing *b, void *buf, size_t count, uint64_t offset)
{
  return qed_storage_read (((struct raw *) b)->st, buf, count, offset);
}

static int
raw_extents (struct qed_backing *b, uint64_t offset, uint64_t length,
             qed_extent_fn *fn, void *opaque)
{
  struct raw *raw = (struct raw *) b;
  struct qed_collector c = { .fn = fn, .opaque = opaque, .offset = offset };

  qed_collect_file (&c, raw->st, &raw->data, offset, length);
  return qed_collect_end (&c);
}

static int
raw_prefetch (struct qed_backing *b, uint64_t offset, uint64_t length)
{
  return qed_storage_prefetch (((struct raw *) b)->st, offset, length);
}

static void
raw_close (struct qed_backing *b)
{
  struct raw *raw = (struct raw *) b;

  qed_stretch_destroy (&raw->data);
  qed_storage_close (raw->st);
  free (raw);
}

static const struct qed_backing_ops raw_ops = {
  .pread = raw_pread,
  .extents = raw_extents,
  .prefetch = raw_prefetch,
  .close = raw_close,
};

struct qed_backing *
qed_backing_raw (struct qed_storage *st)
{
  int64_t size = qed_storage_size (st);
  struct raw *raw;

  if (size == -1)
    return NULL;
  raw = calloc (1, sizeof *raw);
  if (raw == NULL) {
    qed_error (errno, "%s: %m", st->name);
    return NULL;
  }
  raw->b = (struct qed_backing) {
    .ops = &raw_ops, .name = st->name, .size = (uint64_t) size,
    .rotational = st->rotational, .raw = true,
    .device = st->device, .inode = st->inode,
  };
  raw->st = st;
  qed_stretch_init (&raw->data);
  if (size > 0)
    qed_stretch_begin (&raw->data, st);
  return &raw->b;
}

void
qed_backing_interrupt (struct qed_backing *b)
{
  if (b != NULL && b->ops->interrupt)
    b->ops->interrupt (b);
}

void
qed_backing_close (struct qed_backing *b)
{
  if (b != NULL)
    b->ops->close (b);
}
