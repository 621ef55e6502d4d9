/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Merging the extents of a range: see collector.c. */

#ifndef QED_COLLECTOR_H
#define QED_COLLECTOR_H

#include "qed.h"
#include "stretch.h"

/* The extent that was collected and not told yet, so that neighbours differ.
 * Start with FN, OPAQUE and OFFSET set and all else 0.  R stays what FN
 * returned when it had enough or failed.  One thread at a time.
 */
struct qed_collector {
  qed_extent_fn *fn;
  void *opaque;
  uint64_t offset, length;
  bool zero;
  int r;
};

/* Append an extent, the start of which is known: the end of the last one.
 * Returns c->r.
 */
extern int qed_collect (struct qed_collector *c, uint64_t length, bool zero);

/* The same as a qed_extent_fn, with the collector as OPAQUE. */
extern qed_extent_fn qed_collect_extent;

/* Tell what is left.  Returns 0, or -1 if FN failed. */
extern int qed_collect_end (struct qed_collector *c);

/* Append extents for a range of the file in ST, which S is about, as it has
 * data or holes there.  A file that can't tell has data.  Returns c->r.
 */
extern int qed_collect_file (struct qed_collector *c, struct qed_storage *st,
                             struct qed_stretch *s, uint64_t offset,
                             uint64_t length);

#endif /* QED_COLLECTOR_H */
