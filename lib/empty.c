/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Making all of an image's disk unallocated, and the file as short as that is.
 * offline.c explains the order of the writes.
 */

#include <config.h>

#include <errno.h>
#include <stdatomic.h>

#include "image.h"
#include "offline.h"
#include "storage.h"
#include "writer.h"

/* All L1 entries are 0: move the L1 table to the end of the header clusters.
 * All is durable before and after.
 */
static int
move_l1_down (struct qed_image *img)
{
  struct qed_header h = img->writer->h;
  uint8_t sector[QED_SECTOR_SIZE];

  h.l1_table_offset = img->g.header_bytes;
  if (qed_zero_file (img, h.l1_table_offset, img->g.table_bytes) == -1 ||
      qed_sync_all (img) == -1 ||
      qed_storage_read (img->st, sector, sizeof sector, 0) == -1 ||
      qed_replace_header (img, &h, sector) == -1)
    return -1;
  img->g.l1_offset = h.l1_table_offset;
  return 0;
}

/* Nothing behind the L1 table is in use: cut the file there. */
static int
cut_to_tables (struct qed_image *img)
{
  uint64_t end = img->g.l1_offset + img->g.table_bytes;

  atomic_store (&img->corrupt, false);
  if (img->st->fixed_size) {
    qed_set_space (img, img->writer->space.file_size);
    return 0;
  }
  qed_expect_cut (img, end);
  if (qed_storage_resize (img->st, end) == -1)
    return qed_writer_fail (img, errno);
  qed_mark_unsynced (img);
  qed_set_space (img, end);
  return 0;
}

int
qed_empty (struct qed_image *img)
{
  struct qed_claim claim;
  int r;

  if (qed_check_writable (img) == -1 || qed_claim_all (img, &claim) == -1)
    return -1;
  r = qed_zero_file (img, img->g.l1_offset, img->g.table_bytes);
  if (r == 0)
    r = qed_sync_all (img);
  if (r == 0 && img->g.l1_offset > img->g.header_bytes)
    r = move_l1_down (img);
  if (r == 0)
    r = cut_to_tables (img);
  qed_unclaim (img, &claim);
  return r;
}
