/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Writing.
 *
 * A write goes along the runs of its range (mapping.c).  Data is written in
 * place (I1), with one system call and no lock.  Unallocated clusters and zero
 * clusters are allocated (allocate.c).
 *
 * A request that is refused for a reason that can be known in advance changes
 * nothing.  So where room may be short, the whole request is looked at first.
 */

#include <config.h>

#include "allocate.h"
#include "image.h"
#include "storage.h"
#include "writer.h"

/* Is there room for what a write allocates? */
static int
check_room_to_write (struct qed_image *img, uint64_t count, uint64_t offset)
{
  const unsigned bits = img->g.cluster_bits;
  uint64_t clusters = 0;

  while (count > 0) {
    struct qed_run run;

    if (qed_map (img, offset, count, &run) == -1)
      return -1;
    if (run.type == QED_RUN_UNSOUND)
      return qed_unsound_error (img, offset);
    if (run.type != QED_RUN_DATA) {
      clusters += ((offset + run.length - 1) >> bits) - (offset >> bits) + 1;
      if (qed_add_tables (img, run.length, offset, &clusters) == -1)
        return -1;
    }
    count -= run.length;
    offset += run.length;
  }
  return clusters == 0 ? 0 : qed_check_room (img, clusters);
}

/* Only a write to the last cluster of the file may hide that another process
 * has cut it, by making it as long as it was.
 */
static ssize_t
write_in_place (struct qed_image *img, const void *buf, uint64_t count,
                uint64_t file_offset)
{
  if (file_offset + count > atomic_load (&img->writer->space.last_cluster) &&
      qed_check_length (img) == -1)
    return -1;
  return qed_storage_write (img->st, buf, count, file_offset) == -1 ?
    -1 : (ssize_t) count;
}

int
qed_pwrite (struct qed_image *img, const void *buf, size_t count,
            uint64_t offset, unsigned flags)
{
  ssize_t n = 0;

  if (qed_check_range (img, offset, count) == -1 ||
      qed_check_writable (img) == -1 ||
      (qed_room_is_limited (img) &&
       check_room_to_write (img, count, offset) == -1))
    return -1;

  while (n != -1 && count > 0) {
    struct qed_run run;

    if (qed_map (img, offset, count, &run) == -1)
      return qed_finish (img, -1, flags);
    switch (run.type) {
    case QED_RUN_UNALLOCATED:
    case QED_RUN_ZERO:
      n = qed_allocate (img, buf, run.length, offset, flags);
      break;
    case QED_RUN_DATA:
      n = write_in_place (img, buf, run.length, run.file_offset);
      break;
    case QED_RUN_UNSOUND:
      n = qed_unsound_error (img, offset);
      break;
    }
    if (n > 0) {
      buf = (const char *) buf + n;
      count -= (size_t) n;
      offset += (uint64_t) n;
    }
  }
  return qed_finish (img, n == -1 ? -1 : 0, flags);
}
