/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* What convert --salvage couldn't read: ranges of the disk.
 *
 * Those that damaged entries map are found by a walk of the tables.  The others
 * are told by the threads that copy, in any order, one at a time.
 */

#include <config.h>

#include <inttypes.h>

#include "qed-img.h"

void
salvage_add (void *opaque, uint64_t offset, uint64_t length)
{
  struct salvage *s = opaque;
  struct qed_file_range *last = s->n > 0 ? &s->ranges[s->n - 1] : NULL;

  if (last && last->offset + last->length == offset) {
    last->length += length;
    return;
  }
  if ((s->n & (s->n - 1)) == 0) { /* double it */
    s->ranges = realloc (s->ranges, (s->n ? 2 * s->n : 1) * sizeof *s->ranges);
    if (s->ranges == NULL)
      out_of_memory ();
  }
  s->ranges[s->n++] = (struct qed_file_range) { offset, length };
}

static int
add_unsound (void *opaque, const struct qed_map_entry *e)
{
  struct salvage *s = opaque;

  if (e->depth > 0 && s->own_only)
    return 0;
  if (e->unsound)
    salvage_add (s, e->offset, e->length);
  else if (e->shared && !e->has_offset) {
    complain ("%s: %" PRIu64 " bytes at %" PRIu64 " of the disk have the L2 "
              "table of another range: one of the two is wrong", e->filename,
              e->length, e->offset);
    s->shared += e->length;
  }
  return 0;
}

int
salvage_find_unsound (struct salvage *s, struct qed_image *img)
{
  return qed_map_layers (img, 0, qed_get_header (img)->image_size,
                         add_unsound, s);
}

static int
compare_ranges (const void *a, const void *b)
{
  const struct qed_file_range *x = a, *y = b;

  return x->offset < y->offset ? -1 : x->offset > y->offset;
}

void
salvage_print (const struct salvage *s, const char *file)
{
  uint64_t total = 0;

  if (s->shared > 0)
    complain ("%s: %" PRIu64 " bytes in total may be wrong, and damage in them "
              "isn't listed", file, s->shared);

  if (s->n > 0)
    qsort (s->ranges, s->n, sizeof *s->ranges, compare_ranges);
  for (size_t i = 0, next; i < s->n; i = next) {
    const uint64_t start = s->ranges[i].offset;
    uint64_t end = start + s->ranges[i].length;

    for (next = i + 1; next < s->n && s->ranges[next].offset <= end; ++next)
      if (s->ranges[next].offset + s->ranges[next].length > end)
        end = s->ranges[next].offset + s->ranges[next].length;
    complain ("%s: %" PRIu64 " bytes at %" PRIu64 " of the disk can't be "
              "read: zeros are written instead", file, end - start, start);
    total += end - start;
  }
  if (total > 0)
    complain ("%s: %" PRIu64 " bytes in total couldn't be read", file, total);
}
