/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */


/* Telling a range's extents: neighbours are merged, and holes of files
 * found.  See extent.c.
 */

#ifndef QED_EXTENT_H
#define QED_EXTENT_H

#include <pthread.h>

#include "qed.h"

/* What is collected before it is told, so that neighbours differ.  Start with
 * FN, OPAQUE and OFFSET set and all else 0.  R stays what FN returned when it
 * had enough or failed.
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

/* A stretch of a file that was seen to hold data without a hole, so that not
 * each request has to ask; and how often that was forgotten.  LOCK guards
 * the rest.
 */
struct qed_stretch {
  pthread_mutex_t lock;
  uint64_t start, end, forgotten;
};

extern void qed_stretch_init (struct qed_stretch *s);
extern void qed_stretch_destroy (struct qed_stretch *s);

/* Look at the stretch that the file in ST begins with.  Most raw disks are
 * one, and some filesystems take milliseconds to find its end: whoever
 * asks from anywhere then knows.
 */
extern void qed_stretch_begin (struct qed_stretch *s, struct qed_storage *st);

/* Holes have come into the file where there was data. */
extern void qed_forget_data (struct qed_stretch *s);

/* Append extents for a range of the file in ST, which S is about, as it has
 * data or holes there.  A file that can't tell has data.  Returns c->r.
 */
extern int qed_collect_file (struct qed_collector *c, struct qed_storage *st,
                             struct qed_stretch *s, uint64_t offset,
                             uint64_t length);

#endif /* QED_EXTENT_H */
