/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* An image as the backing file of another: the operations of struct qed_backing
 * as calls of the library.
 *
 * No locks: the image has its own.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>

#include "error.h"
#include "image.h"

struct image_backing {
  struct qed_backing b;
  struct qed_image *img;        /* owned; never made writable (I10) */
};

static struct qed_image *
image_of (struct qed_backing *b)
{
  return ((struct image_backing *) b)->img;
}

static int
image_pread (struct qed_backing *b, void *buf, size_t count, uint64_t offset)
{
  return qed_pread (image_of (b), buf, count, offset);
}

static int
image_extents (struct qed_backing *b, uint64_t offset, uint64_t length,
               qed_extent_fn *fn, void *opaque)
{
  return qed_extents (image_of (b), offset, length, fn, opaque);
}

static int
image_prefetch (struct qed_backing *b, uint64_t offset, uint64_t length)
{
  return qed_prefetch (image_of (b), offset, length);
}

static void
image_interrupt (struct qed_backing *b)
{
  qed_interrupt (image_of (b));
}

static void
image_close (struct qed_backing *b)
{
  (void) qed_close (image_of (b)); /* nothing to be written */
  free (b);
}

static const struct qed_backing_ops image_ops = {
  .pread = image_pread,
  .extents = image_extents,
  .prefetch = image_prefetch,
  .interrupt = image_interrupt,
  .close = image_close,
};

struct qed_backing *
qed_backing_image (struct qed_image *img)
{
  struct image_backing *n = calloc (1, sizeof *n);

  if (n == NULL) {
    qed_error (errno, "%s: %m", qed_get_name (img));
    return NULL;
  }
  n->b = (struct qed_backing) {
    .ops = &image_ops, .name = qed_get_name (img),
    .size = qed_get_header (img)->image_size,
    .rotational = qed_is_rotational (img), .image = img,
    .device = img->st->device, .inode = img->st->inode,
  };
  n->img = img;
  return &n->b;
}
