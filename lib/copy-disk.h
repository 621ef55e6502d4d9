/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Copying a disk in parallel.  See copy-disk.c. */

#ifndef QED_COPY_DISK_H
#define QED_COPY_DISK_H

#include "qed.h"

/* Where a disk is copied to.  Calls get ranges that don't overlap, each byte
 * of the disk in one call at most.  What no call got is to read as zeros: it
 * did before the first one, unless ZERO isn't NULL.
 */
struct qed_sink {
  const struct qed_sink_ops *ops;
  const char *name;             /* for messages; borrowed */
};
struct qed_sink_ops {
  /* Write COUNT bytes at OFFSET.  From several threads at once; or, if ORDERED,
   * from one at a time, in the order of the disk.
   */
  int (*write) (struct qed_sink *s, const void *buf, size_t count,
                uint64_t offset);

  /* Make a range read as zeros.  NULL: all of the sink does.  If ORDERED ranges
   * are as long as possible, up to a GiB or so.
   */
  int (*zero) (struct qed_sink *s, uint64_t offset, uint64_t length);

  bool ordered;                 /* zero is too, then */
};

/* Copy the SIZE bytes of the disk B to S; where B is shorter it reads as zeros.
 * Nothing is durable.  ESHUTDOWN: qed_interrupted.
 */
extern int qed_copy_disk (struct qed_backing *b, uint64_t size,
                          struct qed_sink *s,
                          const struct qed_convert_options *opts);

#endif /* QED_COPY_DISK_H */
