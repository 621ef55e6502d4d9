/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Keeping in an overlay what its backing file has: the step that copy-on-read
 * and streaming consist of.
 *
 * A range of whole clusters has been read from the backing file, without any
 * claim, because that may take long.  Clusters that are still unallocated then
 * are allocated (allocate.c), under a claim that is only taken if it is free: a
 * client's write to the cluster comes first.  So content never changes by this.
 * What reads as zeros becomes zero clusters, and holes inside a cluster stay
 * holes.  Links are pending, as all links of an overlay (I3).
 *
 * Where the storage is slow that takes long.  So little is allocated in one
 * step, and between two steps *STOP may end it.
 */

#include <config.h>

#include <stdatomic.h>

#include "allocate.h"
#include "image.h"
#include "storage.h"
#include "writer.h"

/* Allocated in one step, unless it is one cluster. */
#define MAX_STEP (UINT64_C (256) << 10)

/* Does the cluster that has LENGTH bytes at I read as zeros? */
static bool
is_zero_cluster (const struct qed_image *img, const uint8_t *bytes,
                 uint64_t i, uint64_t length)
{
  uint64_t n = length - i;

  return qed_is_zero (bytes + i, n < img->g.cluster_size ? n :
                      img->g.cluster_size);
}

/* The start of a range that isn't allocated: returns as qed_allocate. */
static ssize_t
keep_start (struct qed_image *img, const uint8_t *bytes, uint64_t count,
            uint64_t offset)
{
  uint64_t n = img->g.cluster_size;
  bool zero;

  if (bytes == NULL)
    return qed_allocate (img, NULL, count, offset, QED_KEEP);
  zero = is_zero_cluster (img, bytes, 0, count);
  while (n < count && n < MAX_STEP &&
         is_zero_cluster (img, bytes, n, count) == zero)
    n += img->g.cluster_size;
  return qed_allocate (img, zero ? NULL : bytes, n < count ? n : count, offset,
                       QED_KEEP);
}

int
qed_keep (struct qed_image *img, const uint8_t *bytes, uint64_t count,
          uint64_t offset, const atomic_bool *stop)
{
  if (qed_check_writable (img) == -1)
    return -1;
  while (count > 0 && !atomic_load (stop)) {
    struct qed_run run;
    uint64_t n;

    if (qed_map (img, offset, count, &run) == -1)
      return -1;
    n = run.length;
    if (run.type == QED_RUN_UNSOUND)
      return qed_unsound_error (img, offset);
    if (run.type == QED_RUN_UNALLOCATED) {
      ssize_t done = keep_start (img, bytes, run.length, offset);

      if (done == -1)
        return -1;
      if (done > 0)
        n = (uint64_t) done;
      else if (n > img->g.cluster_size) /* another thread's */
        n = img->g.cluster_size;
    }
    if (bytes)
      bytes += n;
    count -= n;
    offset += n;
  }
  return 0;
}

int
qed_keep_copy (struct qed_image *img, uint64_t offset)
{
  uint64_t count = img->g.image_size - offset;
  bool data = false;

  if (count > img->g.cluster_size)
    count = img->g.cluster_size;
  if (qed_check_writable (img) == -1 ||
      qed_data_in_backing (img, count, offset, &data) == -1)
    return -1;
  return qed_allocate (img, NULL, count, offset,
                       data ? QED_KEEP_COPY : QED_KEEP) == -1 ? -1 : 0;
}
