/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Changes of an open image as a whole, while nothing else uses it: its size
 * (resize.c), its backing file (rebase.c), emptying it (empty.c).
 *
 * The header decides what the image is, and one write inside a sector replaces
 * it.  So whatever the new header needs is durable before that write, and
 * doesn't change the disk.  What only the old header needed is removed after
 * the new one is durable.  An interruption leaves the old disk or the new one,
 * marked NEED_CHECK, and the same call can be made again:
 *
 *     grow      zero what is mapped beyond the old end; header
 *     shrink    header; clear the entries beyond the new end; reclaim
 *     rebase    copy what would read differently; name; header; old name
 *     empty     clear L1; move it down; cut the file
 *
 * Only emptying has states in between: any part of the disk may be unallocated
 * then.  The header is written while a claim on everything is in force
 * (writer.c), so the image is marked at that time and stays so.
 */

#include <config.h>

#include <errno.h>
#include <string.h>

#include "image.h"
#include "offline.h"
#include "storage.h"

/* ---- the header and the file ---- */

int
qed_claim_all (struct qed_image *img, struct qed_claim *claim)
{
  return qed_sync_all (img) == -1 ? -1 :
    qed_claim (img, claim, 0, UINT64_MAX);
}

int
qed_replace_header (struct qed_image *img, const struct qed_header *h,
                    uint8_t sector[QED_SECTOR_SIZE])
{
  struct qed_header marked = *h;

  marked.features |= QED_F_NEED_CHECK;
  qed_header_encode (&marked, sector);
  if (qed_storage_write (img->st, sector, QED_SECTOR_SIZE, 0) == -1)
    return qed_writer_fail (img, errno);
  qed_mark_unsynced (img);
  if (qed_sync_all (img) == -1)
    return -1;
  img->writer->h = img->h = *h;
  return 0;
}

int
qed_zero_file (struct qed_image *img, uint64_t offset, uint64_t length)
{
  int r = qed_storage_clear (img->st, offset, length);

  qed_mark_unsynced (img);
  return r;
}

/* ---- the backing file ---- */

static int
note_data (void *opaque, uint64_t offset, uint64_t length, bool zero)
{
  struct qed_ahead *a = opaque;

  if (zero)
    return 0;
  a->start = offset;
  a->end = offset + length;
  return 1;
}

int
qed_look_ahead (struct qed_ahead *a, uint64_t offset, uint64_t limit)
{
  uint64_t size = a->b && a->b->size < limit ? a->b->size : limit;

  if (offset < a->end)
    return 0;
  a->start = a->end = limit;
  if (a->b == NULL || offset >= size ||
      a->b->ops->extents (a->b, offset, size - offset, note_data, a) == 0)
    return 0;
  a->start = a->end = 0;        /* nothing is known */
  return -1;
}

int
qed_read_ahead (const struct qed_ahead *a, uint8_t *buf, uint64_t count,
                uint64_t offset)
{
  uint64_t n = 0;

  if (a->start < offset + count && a->b && a->b->size > offset)
    n = a->b->size - offset < count ? a->b->size - offset : count;
  memset (buf + n, 0, count - n);
  return n == 0 ? 0 : a->b->ops->pread (a->b, buf, n, offset);
}
