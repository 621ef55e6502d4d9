/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* salvage=true: reporting what can't be read.
 *
 * An image can be damaged in millions of places.  Only the first ranges are
 * reported one by one; totals stand for the rest.
 */

#include <config.h>

#include <inttypes.h>

#include "plugin.h"

#define MAX_REPORTED 1000

struct damages {
  const char *name;             /* of the image */
  uint64_t ranges, bytes;       /* of all damage */
  uint64_t reported_bytes;      /* in the ranges reported one by one */
  uint64_t shared_bytes;        /* mapped by an L2 table seen before */
};

static int
report_damage (void *opaque, const struct qed_map_entry *e)
{
  struct damages *d = opaque;

  if (e->shared && !e->has_offset)
    d->shared_bytes += e->length;
  if (!e->unsound)
    return 0;
  d->bytes += e->length;
  if (d->ranges++ < MAX_REPORTED) {
    complain ("%s: offset %#" PRIx64 ", length %#" PRIx64 " of the disk "
              "read as zeros: %s is corrupt there", d->name, e->offset,
              e->length, e->filename);
    d->reported_bytes = d->bytes;
  }
  return 0;
}

int
report_all_damage (struct qed_image *img)
{
  struct damages d = { .name = qed_get_name (img) };

  if (qed_map_layers (img, 0, qed_get_header (img)->image_size,
                      report_damage, &d) == -1)
    return library_error ();
  if (d.ranges > MAX_REPORTED)
    complain ("%s: %" PRIu64 " bytes in %" PRIu64 " more ranges read as "
              "zeros: qed-img map lists them", d.name,
              d.bytes - d.reported_bytes, d.ranges - MAX_REPORTED);
  if (d.shared_bytes > 0)
    complain ("%s: %" PRIu64 " bytes of the disk share their L2 table with "
              "another range: damage in them is reported only once", d.name,
              d.shared_bytes);
  if (d.ranges > 0)
    complain ("%s: %" PRIu64 " bytes in %" PRIu64 " ranges read as zeros "
              "in total: see qed-img check", d.name, d.bytes, d.ranges);
  return 0;
}
