/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* An image as the backing file of another. */

#include <config.h>

#include <errno.h>
#include <stdlib.h>

#include "error.h"
#include "qed.h"

struct below {
  struct qed_backing b;
  struct qed_image *img;        /* owned; never made writable (I10) */
};

static int
image_pread (struct qed_backing *b, void *buf, size_t count, uint64_t offset)
{
  return qed_pread (((struct below *) b)->img, buf, count, offset);
}

static int
image_extents (struct qed_backing *b, uint64_t offset, uint64_t length,
               qed_extent_fn *fn, void *opaque)
{
  return qed_extents (((struct below *) b)->img, offset, length, fn, opaque);
}

static int
image_prefetch (struct qed_backing *b, uint64_t offset, uint64_t length)
{
  return qed_prefetch (((struct below *) b)->img, offset, length);
}

static void
image_close (struct qed_backing *b)
{
  (void) qed_close (((struct below *) b)->img); /* nothing to be written */
  free (b);
}

static const struct qed_backing_ops image_ops = {
  .pread = image_pread,
  .extents = image_extents,
  .prefetch = image_prefetch,
  .close = image_close,
};

struct qed_backing *
qed_backing_image (struct qed_image *img)
{
  struct below *below = calloc (1, sizeof *below);

  if (below == NULL) {
    qed_error (errno, "%s: %m", qed_get_name (img));
    return NULL;
  }
  below->b = (struct qed_backing) {
    .ops = &image_ops, .name = qed_get_name (img),
    .size = qed_get_header (img)->image_size,
    .rotational = qed_is_rotational (img), .image = img,
  };
  below->img = img;
  return &below->b;
}
