/* nbdkit-qed
 * Copyright (C) 2026 nbdkit-qed authors
 *
 * Redistribution and use in source and binary forms, with or without
 * modification, are permitted provided that the following conditions are
 * met:
 *
 * * Redistributions of source code must retain the above copyright
 * notice, this list of conditions and the following disclaimer.
 *
 * * Redistributions in binary form must reproduce the above copyright
 * notice, this list of conditions and the following disclaimer in the
 * documentation and/or other materials provided with the distribution.
 *
 * * Neither the name of nbdkit-qed nor the names of its contributors may be
 * used to endorse or promote products derived from this software without
 * specific prior written permission.
 *
 * THIS SOFTWARE IS PROVIDED BY THE AUTHORS AND CONTRIBUTORS ''AS IS'' AND
 * ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO,
 * THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A
 * PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE AUTHORS OR
 * CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
 * SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT
 * LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF
 * USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND
 * ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY,
 * OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT
 * OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF
 * SUCH DAMAGE.
 */


/* What each range of the disk comes from, through all layers.
 *
 * The layers are asked from the top down: runs of the image (cluster.c), for
 * what isn't allocated there the runs of the image below, within that range,
 * and at the bottom the extents of a raw file or a server.  What they say is
 * merged with what went before, in one entry, so memory doesn't depend on
 * the disk.
 *
 * What nothing is stored for has the depth of the last image that was asked:
 * its backing file ends there, or it has none.
 */

#include <config.h>

#include "error.h"
#include "image.h"

struct mapper {
  qed_map_fn *fn;
  void *opaque;
  struct qed_map_entry e;       /* not told yet, unless its length is 0 */
  int r;                        /* what FN returned last */
};

static bool
continues (const struct qed_map_entry *e, const struct qed_map_entry *next)
{
  return e->depth == next->depth && e->present == next->present &&
    e->zero == next->zero && e->data == next->data &&
    e->unsound == next->unsound && e->has_offset == next->has_offset &&
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

/* ---- what isn't an image ---- */

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

static int
map_image (struct mapper *m, struct qed_image *img, unsigned depth,
           uint64_t offset, uint64_t length)
{
  while (m->r == 0 && length > 0) {
    struct qed_run run;

    if (qed_map (img, offset, length, &run) == -1)
      return -1;
    if (run.type == QED_RUN_UNALLOCATED) {
      if (map_below (m, img, depth, offset, run.length) == -1)
        return -1;
    }
    else
      add (m, (struct qed_map_entry) {
          .offset = offset, .length = run.length, .depth = depth,
          .present = true, .zero = run.type == QED_RUN_ZERO,
          .data = run.type != QED_RUN_ZERO,
          .unsound = run.type == QED_RUN_UNSOUND,
          .has_offset = run.type == QED_RUN_DATA,
          .file_offset = run.file_offset, .filename = img->st->name,
        });
    offset += run.length;
    length -= run.length;
  }
  return 0;
}

int
qed_map_layers (struct qed_image *img, uint64_t offset, uint64_t length,
                qed_map_fn *fn, void *opaque)
{
  struct mapper m = { .fn = fn, .opaque = opaque };

  if (qed_check_range (img, offset, length) == -1 ||
      map_image (&m, img, 0, offset, length) == -1)
    return -1;
  tell (&m);
  return m.r == -1 ? -1 : 0;
}
