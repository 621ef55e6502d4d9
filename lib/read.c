/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Reading: qed_pread, extents, prefetching.
 *
 * A read asks for the run at the current offset (mapping.c).  It reads the run
 * with one system call, or from the backing file, or fills in zeros, until all
 * is there.  Nothing is allocated, no lock is held across I/O (I1), and a
 * request inside one run costs one system call in all layers together, and
 * none if it is zeros.
 */

#include <config.h>

#include <string.h>

#include "collector.h"
#include "image.h"
#include "storage.h"

/* How much of LENGTH bytes at OFFSET is there in the backing file? */
static uint64_t
length_in_backing (const struct qed_image *img, uint64_t offset,
                   uint64_t length)
{
  uint64_t size = img->backing ? img->backing->size : 0;

  return offset >= size ? 0 : size - offset < length ? size - offset : length;
}

int
qed_pread_backing (struct qed_image *img, void *buf, size_t count,
                   uint64_t offset)
{
  size_t n = length_in_backing (img, offset, count);

  if (n > 0 && img->backing->ops->pread (img->backing, buf, n, offset) == -1)
    return -1;
  memset ((char *) buf + n, 0, count - n);
  return 0;
}

int
qed_pread (struct qed_image *img, void *buf, size_t count, uint64_t offset)
{
  if (qed_check_range (img, offset, count) == -1)
    return -1;

  while (count > 0) {
    struct qed_run run;
    int r = qed_map (img, offset, count, &run);

    if (r == -1)
      return -1;
    switch (run.type) {
    case QED_RUN_UNALLOCATED:
      r = qed_pread_backing (img, buf, run.length, offset);
      break;
    case QED_RUN_ZERO:
      memset (buf, 0, run.length);
      break;
    case QED_RUN_DATA:
      r = qed_storage_read (img->st, buf, run.length, run.file_offset);
      break;
    case QED_RUN_UNSOUND:
      if (img->salvage)
        memset (buf, 0, run.length);
      else
        r = qed_unsound_error (img, offset);
      break;
    }
    if (r == -1)
      return -1;
    buf = (char *) buf + run.length;
    count -= run.length;
    offset += run.length;
  }
  return 0;
}

static int
prefetch_run (struct qed_image *img, const struct qed_run *run,
              uint64_t offset)
{
  uint64_t n;

  switch (run->type) {
  case QED_RUN_DATA:
    return qed_storage_prefetch (img->st, run->file_offset, run->length);
  case QED_RUN_UNALLOCATED:
    n = length_in_backing (img, offset, run->length);
    return n == 0 ? 0 :
      img->backing->ops->prefetch (img->backing, offset, n);
  default:
    return 0; /* reading unsound clusters fails, prefetching needn't */
  }
}

int
qed_prefetch (struct qed_image *img, uint64_t offset, uint64_t length)
{
  if (qed_check_range (img, offset, length) == -1)
    return -1;

  while (length > 0) {
    struct qed_run run;

    if (qed_map (img, offset, length, &run) == -1 ||
        prefetch_run (img, &run, offset) == -1)
      return -1;
    offset += run.length;
    length -= run.length;
  }
  return 0;
}

/* ---- extents ---- */

int
qed_extents_backing (struct qed_image *img, uint64_t offset, uint64_t length,
                     qed_extent_fn *fn, void *opaque)
{
  struct qed_collector c = { .fn = fn, .opaque = opaque, .offset = offset };
  uint64_t n = length_in_backing (img, offset, length);

  if (n > 0 && img->backing->ops->extents (img->backing, offset, n,
                                           qed_collect_extent, &c) == -1)
    return -1;
  if (n < length)
    qed_collect (&c, length - n, true);
  return qed_collect_end (&c);
}

int
qed_extents (struct qed_image *img, uint64_t offset, uint64_t length,
             qed_extent_fn *fn, void *opaque)
{
  struct qed_collector c = { .fn = fn, .opaque = opaque, .offset = offset };

  if (qed_check_range (img, offset, length) == -1)
    return -1;

  while (c.r == 0 && length > 0) {
    struct qed_run run;

    if (qed_map (img, offset, length, &run) == -1)
      return -1;
    if (run.type == QED_RUN_DATA)
      qed_collect_file (&c, img->st, &img->data, run.file_offset, run.length);
    else if (run.type == QED_RUN_UNALLOCATED && img->backing) {
      if (qed_extents_backing (img, offset, run.length, qed_collect_extent,
                               &c) == -1)
        return -1;
    }
    else
      qed_collect (&c, run.length,
                   run.type != QED_RUN_UNSOUND || img->salvage);
    offset += run.length;
    length -= run.length;
  }
  return qed_collect_end (&c);
}
