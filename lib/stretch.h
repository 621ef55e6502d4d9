/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Where a file is known to hold data: see stretch.c. */

#ifndef QED_STRETCH_H
#define QED_STRETCH_H

#include <pthread.h>

#include "qed.h"

/* A stretch of a file that was seen to hold data without a hole, so that not
 * each request has to ask; and how often it was forgotten.  LOCK guards the
 * rest.
 */
struct qed_stretch {
  pthread_mutex_t lock;
  uint64_t start, end, forgotten;
};

extern void qed_stretch_init (struct qed_stretch *s);
extern void qed_stretch_destroy (struct qed_stretch *s);

/* Look at the stretch that the file in ST begins with.  Most raw disks are one
 * stretch, and some filesystems take milliseconds to find its end.  Later
 * requests then know it, wherever they begin.  Called before S is shared.
 */
extern void qed_stretch_begin (struct qed_stretch *s, struct qed_storage *st);

/* Holes have come into the file where there was data. */
extern void qed_forget_data (struct qed_stretch *s);

/* How many bytes of the file in ST, from OFFSET on and at most LENGTH, are data
 * or (*HOLE) a hole?  A file that can't tell has data.
 */
extern uint64_t qed_file_extent (struct qed_storage *st, struct qed_stretch *s,
                                 uint64_t offset, uint64_t length, bool *hole);

#endif /* QED_STRETCH_H */
