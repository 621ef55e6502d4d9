/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Changes of an open image as a whole, while nothing else uses it: its size
 * (resize.c), its backing file (rebase.c), emptying it (empty.c).  Only when
 * streaming removes a backing file that isn't needed any more other threads use
 * the image meanwhile.
 *
 * The header decides what the image is, and one write inside a sector replaces
 * it.  So whatever the new header needs is durable before that write, and
 * doesn't change the disk.  What only the old header needed is removed after
 * the new one is durable.  An interruption leaves the old disk or the new one,
 * marked NEED_CHECK, and the same call can be made again:
 *
 *     grow      zero what is mapped beyond the old end; header
 *     shrink    header; clear the entries beyond the new end; reclaim
 *     rebase    copy what would read differently; name; header; old name;
 *               headroom.c: before that move what is in the way of the name
 *     empty     clear L1; move it down; cut the file
 *
 * Only emptying has states in between: any part of the disk may be unallocated
 * then.  The header is written while a claim on everything is in force
 * (writer.c), so the image is marked at that time and stays so.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

#include "check.h"
#include "error.h"
#include "image.h"
#include "offline.h"
#include "storage.h"

/* ---- the header and the file ---- */

int
qed_claim_all (struct qed_image *img, struct qed_claim *claim)
{
  if (qed_sync_all (img) == -1 || qed_claim (img, claim, 0, UINT64_MAX) == -1)
    return -1;
  /* Other threads may have been at work until the claim was in force. */
  if (qed_sync_all (img) == -1) {
    qed_unclaim (img, claim);
    return -1;
  }
  return 0;
}

int
qed_refuse_corrupt (struct qed_image *img, const char *so)
{
  const struct qed_writer *w = img->writer;
  struct qed_check_result result;
  int64_t size = 0;

  if (w ? qed_sync_all (img) == -1 : (size = qed_storage_size (img->st)) == -1)
    return -1;
  if (qed_check_tables (img->st, w ? &w->h : &img->h,
                        w ? w->space.file_size : (uint64_t) size, NULL, 0,
                        &result) == -1)
    return -1;
  if (result.corruptions == 0)
    return 0;
  atomic_store (&img->corrupt, true);
  return qed_error (EIO, "%s: %" PRIu64 " entries of its tables are "
                    "corrupt, so %s: run qed-img check -r all", img->st->name,
                    result.corruptions, so);
}

/* Only fields that change are stored, since other threads may read the others:
 * streaming changes the name of the backing file of an image in use.
 */
static void
set_header (struct qed_header *to, const struct qed_header *h)
{
  to->features = h->features;
  to->backing_filename_offset = h->backing_filename_offset;
  to->backing_filename_size = h->backing_filename_size;
  if (to->header_size != h->header_size)
    to->header_size = h->header_size;
  if (to->l1_table_offset != h->l1_table_offset)
    to->l1_table_offset = h->l1_table_offset;
  if (to->image_size != h->image_size)
    to->image_size = h->image_size;
}

/* Write the first sector, NEW instead of OLD.  A full filesystem has mostly
 * written nothing.  If it isn't known what it has done the writer has failed.
 */
static int
write_sector (struct qed_image *img, const uint8_t new[QED_SECTOR_SIZE],
              const uint8_t old[QED_SECTOR_SIZE])
{
  uint8_t now[QED_SECTOR_SIZE];
  int err;

  if (qed_storage_write (img->st, new, QED_SECTOR_SIZE, 0) == 0)
    return 0;
  err = errno;
  if (img->st->ops->pread (img->st, now, sizeof now, 0) == sizeof now &&
      memcmp (now, old, sizeof now) == 0) {
    errno = err;
    return -1;
  }
  return qed_writer_fail (img, err);
}

int
qed_replace_header (struct qed_image *img, const struct qed_header *h,
                    uint8_t sector[QED_SECTOR_SIZE])
{
  struct qed_header marked = *h;
  uint8_t old[QED_SECTOR_SIZE];

  marked.features |= QED_F_NEED_CHECK;
  qed_header_encode (&marked, sector);
  if (qed_storage_read (img->st, old, sizeof old, 0) == -1 ||
      write_sector (img, sector, old) == -1)
    return -1;
  qed_mark_unsynced (img);
  if (qed_sync_all (img) == -1)
    return -1;
  img->writer->h = *h;
  set_header (&img->h, h);
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
