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

/* How much of LENGTH bytes at OFFSET is there in the backing file B? */
static uint64_t
length_in_backing (const struct qed_backing *b, uint64_t offset,
                   uint64_t length)
{
  uint64_t size = b ? b->size : 0;

  return offset >= size ? 0 : size - offset < length ? size - offset : length;
}

static int
read_backing (struct qed_backing *b, void *buf, size_t count, uint64_t offset)
{
  size_t n = length_in_backing (b, offset, count);

  if (n > 0 && b->ops->pread (b, buf, n, offset) == -1)
    return -1;
  memset ((char *) buf + n, 0, count - n);
  return 0;
}

int
qed_pread_backing (struct qed_image *img, void *buf, size_t count,
                   uint64_t offset)
{
  struct qed_backing *b = qed_enter_backing (img);
  int r = read_backing (b, buf, count, offset);

  if (b)
    qed_leave_backing (img);
  return r;
}

/* A range that isn't allocated, as was found after it was known that there is a
 * backing file (BACKED) or none.  1: it has been dropped since: look again.
 */
static int
read_unallocated (struct qed_image *img, void *buf, size_t count,
                  uint64_t offset, bool backed)
{
  struct qed_backing *b = qed_enter_backing (img);
  int r = b || !backed ? read_backing (b, buf, count, offset) : 1;

  if (b)
    qed_leave_backing (img);
  return r;
}

int
qed_pread (struct qed_image *img, void *buf, size_t count, uint64_t offset)
{
  if (qed_check_range (img, offset, count) == -1)
    return -1;

  while (count > 0) {
    const bool backed = img->backing != NULL;
    struct qed_run run;
    int r = qed_map (img, offset, count, &run);

    if (r == -1)
      return -1;
    switch (run.type) {
    case QED_RUN_UNALLOCATED:
      r = read_unallocated (img, buf, run.length, offset, backed);
      if (r == 1)
        continue;
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
prefetch_backing (struct qed_image *img, uint64_t offset, uint64_t length)
{
  struct qed_backing *b = qed_enter_backing (img);
  uint64_t n = length_in_backing (b, offset, length);
  int r = n > 0 ? b->ops->prefetch (b, offset, n) : 0;

  if (b)
    qed_leave_backing (img);
  return r;
}

static int
prefetch_run (struct qed_image *img, const struct qed_run *run,
              uint64_t offset)
{
  switch (run->type) {
  case QED_RUN_DATA:
    return qed_storage_prefetch (img->st, run->file_offset, run->length);
  case QED_RUN_UNALLOCATED:
    return prefetch_backing (img, offset, run->length);
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

static int
extents_of (struct qed_backing *b, uint64_t offset, uint64_t length,
            qed_extent_fn *fn, void *opaque)
{
  struct qed_collector c = { .fn = fn, .opaque = opaque, .offset = offset };
  uint64_t n = length_in_backing (b, offset, length);

  if (n > 0 && b->ops->extents (b, offset, n, qed_collect_extent, &c) == -1)
    return -1;
  if (n < length)
    qed_collect (&c, length - n, true);
  return qed_collect_end (&c);
}

int
qed_extents_backing (struct qed_image *img, uint64_t offset, uint64_t length,
                     qed_extent_fn *fn, void *opaque)
{
  struct qed_backing *b = qed_enter_backing (img);
  int r = extents_of (b, offset, length, fn, opaque);

  if (b)
    qed_leave_backing (img);
  return r;
}

/* The extents of a range that isn't allocated.  BACKED: see read_unallocated,
 * also for 1.
 */
static int
collect_unallocated (struct qed_image *img, uint64_t offset, uint64_t length,
                     bool backed, struct qed_collector *c)
{
  struct qed_backing *b = qed_enter_backing (img);
  int r = b || !backed ?
    extents_of (b, offset, length, qed_collect_extent, c) : 1;

  if (b)
    qed_leave_backing (img);
  return r;
}

int
qed_extents (struct qed_image *img, uint64_t offset, uint64_t length,
             qed_extent_fn *fn, void *opaque)
{
  struct qed_collector c = { .fn = fn, .opaque = opaque, .offset = offset };

  if (qed_check_range (img, offset, length) == -1)
    return -1;

  while (c.r == 0 && length > 0) {
    const bool backed = img->backing != NULL;
    struct qed_run run;
    int r = 0;

    if (qed_map (img, offset, length, &run) == -1)
      return -1;
    if (run.type == QED_RUN_DATA)
      qed_collect_file (&c, img->st, &img->data, run.file_offset, run.length);
    else if (run.type == QED_RUN_UNALLOCATED)
      r = collect_unallocated (img, offset, run.length, backed, &c);
    else
      qed_collect (&c, run.length,
                   run.type != QED_RUN_UNSOUND || img->salvage);
    if (r == -1)
      return -1;
    if (r == 1)
      continue;
    offset += run.length;
    length -= run.length;
  }
  return qed_collect_end (&c);
}
