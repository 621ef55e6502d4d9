/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Changing the size of the disk.  offline.c explains the order of the writes.
 *
 * Corrupt entries may make ranges on both sides of the old or new end share an
 * L2 table or a cluster.  Zeroing it beyond the end, or reclaiming it, would
 * destroy the data before the end.  So a corrupt image keeps its size.
 *
 * What growing adds reads as zeros, so there are zero clusters where the
 * backing file has data beyond the old end.  Shrinking gives the clusters
 * beyond the new end back, and the file becomes shorter.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>

#include "check.h"
#include "error.h"
#include "format.h"
#include "image.h"
#include "offline.h"
#include "storage.h"
#include "table.h"
#include "writer.h"

/* ---- both ---- */

/* Write SIZE to the header, durably.  The caller has claimed everything. */
static int
write_size (struct qed_image *img, uint64_t size)
{
  struct qed_header h = img->writer->h;
  uint8_t sector[QED_SECTOR_SIZE];

  h.image_size = size;
  return qed_storage_read (img->st, sector, sizeof sector, 0) == -1 ? -1 :
    qed_replace_header (img, &h, sector);
}

/* ---- grow ---- */

/* Turn the unallocated clusters of a range into zero clusters where the
 * backing file may have data.
 */
static int
cover_backing (struct qed_image *img, uint64_t offset, uint64_t length)
{
  const uint64_t end = offset + length, in_cluster = img->g.cluster_size - 1;
  struct qed_ahead a = { .b = img->backing };

  if (img->overlay && img->backing == NULL)
    return qed_zero (img, length, offset, 0);
  while (offset < end) {
    uint64_t from, to;

    if (qed_look_ahead (&a, offset, end) == -1)
      return -1;
    if (a.start == end)
      break;
    from = a.start & ~in_cluster;
    to = ((a.end - 1) | in_cluster) + 1;
    if (from < offset)
      from = offset;
    if (to > end)
      to = end;
    if (qed_zero (img, to - from, from, 0) == -1)
      return -1;
    offset = to;
  }
  return 0;
}

/* Make the disk read as zeros from OFFSET on. */
static int
zero_beyond (struct qed_image *img, uint64_t offset,
             const struct qed_progress *progress)
{
  const uint64_t start = offset, end = img->g.image_size;

  while (offset < end) {
    struct qed_run run;
    int r = 0;

    qed_report (progress, offset - start, end - start);
    if (qed_map (img, offset, end - offset, &run) == -1)
      return -1;
    if (run.type == QED_RUN_DATA)
      r = qed_zero (img, run.length, offset, QED_MAY_TRIM);
    else if (run.type == QED_RUN_UNALLOCATED)
      r = cover_backing (img, offset, run.length);
    else if (run.type == QED_RUN_UNSOUND)
      r = qed_unsound_error (img, offset);
    if (r == -1)
      return -1;
    offset += run.length;
  }
  qed_report (progress, end - start, end - start);
  return 0;
}

static int
grow (struct qed_image *img, uint64_t size,
      const struct qed_progress *progress)
{
  const uint64_t old = img->g.image_size;
  struct qed_claim claim;
  int r;

  if (qed_refuse_corrupt (img, "its size isn't changed") == -1)
    return -1;
  img->g.image_size = size; /* so that qed_map and qed_zero accept the range */
  r = zero_beyond (img, old, progress);
  if (r == 0)
    r = qed_claim_all (img, &claim);
  if (r == 0) {
    r = write_size (img, size);
    qed_unclaim (img, &claim);
  }
  if (r == -1)
    img->g.image_size = old;
  return r;
}

/* ---- shrink ---- */

/* Zero the rest of the last cluster.  Another program that grows the image
 * later may rely on it: QEMU does.
 */
static int
zero_rest_of_cluster (struct qed_image *img)
{
  const uint64_t end = img->g.image_size;
  uint64_t rest = -end & (img->g.cluster_size - 1);
  struct qed_run run = { .type = QED_RUN_UNALLOCATED };
  int r = 0;

  if (rest == 0)
    return 0;
  img->g.image_size += rest;
  r = qed_map (img, end, rest, &run);
  if (r == 0 && run.type == QED_RUN_DATA)
    r = qed_zero (img, rest, end, QED_MAY_TRIM);
  img->g.image_size = end;
  return r;
}

/* Clear all entries beyond the end of the disk. */
static int
clear_entries (struct qed_image *img)
{
  const uint64_t first = qed_clusters (&img->g);
  uint64_t l1 = qed_l1_entries (&img->g) * sizeof (uint64_t);
  uint64_t l2 = qed_l2_index (&img->g, first) * sizeof (uint64_t);
  struct qed_view view = { .locked = false };

  if (qed_zero_file (img, img->g.l1_offset + l1,
                     img->g.table_bytes - l1) == -1)
    return -1;
  if (l2 == 0)
    return 0;
  do
    if (qed_table_find (img->table, first - 1, &view) == -1)
      return -1;
  while (!qed_table_end (img->table, &view));
  return view.type != QED_VIEW_ENTRIES ? 0 :
    qed_zero_file (img, view.l2_offset + l2, img->g.table_bytes - l2);
}

/* Reclaim the clusters that nothing refers to.  Tables may move, and the table
 * cache doesn't follow: only qed_close may come after this.
 */
static int
reclaim (struct qed_image *img, const struct qed_progress *progress)
{
  struct qed_writer *w = img->writer;
  struct qed_header h = w->h;
  uint64_t size = w->space.file_size;

  h.features |= QED_F_NEED_CHECK;
  qed_expect_cut (img, 0);
  if (qed_reclaim (img->st, &h, &size, progress, NULL) == -1)
    return qed_writer_fail (img, errno);
  qed_mark_unsynced (img);
  qed_set_space (img, size);
  w->h.l1_table_offset = img->h.l1_table_offset = h.l1_table_offset;
  return 0;
}

/* The disk has SIZE already if an earlier shrink was interrupted. */
static int
shrink_to (struct qed_image *img, uint64_t size,
           const struct qed_progress *progress)
{
  struct qed_claim claim;
  int r;

  if (qed_refuse_corrupt (img, "its size isn't changed") == -1 ||
      qed_claim_all (img, &claim) == -1)
    return -1;
  r = size < img->g.image_size ? write_size (img, size) : 0;
  if (r == 0) {
    img->g.image_size = size;
    r = zero_rest_of_cluster (img) == -1 || clear_entries (img) == -1 ||
      qed_sync_all (img) == -1 || reclaim (img, progress) == -1 ? -1 : 0;
  }
  qed_unclaim (img, &claim);
  return r;
}

/* ---- the call ---- */

/* MAX: the largest disk that the geometry can map. */
static int
too_large (const struct qed_image *img, uint64_t size, uint64_t max)
{
  char buf[QED_ADVICE_BYTES];
  const char *advice = qed_advise_geometry (&img->h, size, buf);

  return qed_error (EINVAL, "%s: size %" PRIu64 ": must be at most %" PRIu64
                    " with the image's cluster_size %" PRIu32
                    " and table_size %" PRIu32 "%s%s%s", img->st->name, size,
                    max, img->h.cluster_size, img->h.table_size,
                    advice ? ", which can't be changed: make a larger image "
                    "with qed-img create " : "", advice ? advice : "",
                    advice ? " and copy the disk" : "");
}

int
qed_resize (struct qed_image *img, uint64_t size, bool shrink,
            const struct qed_progress *progress)
{
  const char *name = img->st->name;
  uint64_t max = qed_max_image_size (&img->g);

  if (qed_check_writable (img) == -1)
    return -1;
  if (size % QED_SECTOR_SIZE != 0)
    return qed_error (EINVAL, "%s: size %" PRIu64 ": must be a multiple of %"
                      PRIu32, name, size, QED_SECTOR_SIZE);
  if (size > max)
    return too_large (img, size, max);
  if (size > img->g.image_size)
    return grow (img, size, progress);
  if (!shrink && size < img->g.image_size)
    return qed_error (EINVAL, "%s: size %" PRIu64 ": the disk has %" PRIu64
                      " bytes, and what is beyond the new end would be lost: "
                      "if that is wanted add --shrink",
                      name, size, img->g.image_size);
  return shrink ? shrink_to (img, size, progress) : 0;
}
