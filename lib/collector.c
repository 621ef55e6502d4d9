/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Merging the extents of a range.
 *
 * Extents come from several places: runs of an image, holes of a file, a
 * server.  The collector merges neighbours that are alike before it tells them.
 */

#include <config.h>

#include "collector.h"

int
qed_collect (struct qed_collector *c, uint64_t length, bool zero)
{
  if (c->r == 0 && c->length > 0 && c->zero != zero) {
    c->r = c->fn (c->opaque, c->offset, c->length, c->zero);
    c->offset += c->length;
    c->length = 0;
  }
  c->zero = zero;
  c->length += length;
  return c->r;
}

int
qed_collect_extent (void *opaque,
                    uint64_t offset __attribute__ ((unused)),
                    uint64_t length, bool zero)
{
  return qed_collect (opaque, length, zero);
}

int
qed_collect_end (struct qed_collector *c)
{
  if (c->r == 0 && c->length > 0)
    c->r = c->fn (c->opaque, c->offset, c->length, c->zero);
  return c->r == -1 ? -1 : 0;
}

int
qed_collect_file (struct qed_collector *c, struct qed_storage *st,
                  struct qed_stretch *s, uint64_t offset, uint64_t length)
{
  while (c->r == 0 && length > 0) {
    bool hole;
    uint64_t n = qed_file_extent (st, s, offset, length, &hole);

    qed_collect (c, n, hole);
    offset += n;
    length -= n;
  }
  return c->r;
}
