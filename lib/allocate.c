/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Allocation: what is written to, or zeroed in, unallocated clusters.
 *
 * An allocation reaches over as many clusters as the request has in one slice
 * of an L2 table.  They are contiguous in the file, so it takes one write of
 * data and one of entries.  Of a cluster that the request covers in part only
 * that part is written, because the rest of fresh space is zeros (I2).  In an
 * overlay the rest is copied up (copyup.c).
 *
 * The link comes last (I4).  A failure before it leaves the old content, and
 * costs at most clusters that nothing refers to.  In overlays links are
 * pending until a commit (I3).
 *
 * The steps of an allocating write, and the locks they take: writer.c.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>

#include "allocate.h"
#include "error.h"
#include "format.h"
#include "image.h"
#include "storage.h"
#include "table.h"
#include "writer.h"

/* The link of COUNT clusters at OFFSET has failed. */
static int
link_failed (struct qed_image *img, enum qed_link_failure how, uint64_t count,
             uint64_t offset)
{
  if (how == QED_LINK_LOST)
    return qed_writer_fail (img, errno);
  if (count > 0)
    qed_alloc_undo (img, count, offset, how == QED_LINK_RESTORED);
  return -1;
}

/* May entries of CLUSTER's slice be linked?  *ABSENT: it has no L2 table.  EIO
 * as qed_table_prepare; the image is then known to be corrupt.
 */
static int
look_before_link (struct qed_image *img, uint64_t cluster, bool *absent)
{
  bool unsound;
  int r = qed_table_prepare (img->table, cluster, absent, &unsound);

  if (unsound)
    atomic_store (&img->corrupt, true);
  return r;
}

/* Make an L2 table for CLUSTER, which had none.  A new table needs no writing
 * (I2).
 */
static int
make_l2_table (struct qed_image *img, uint64_t cluster)
{
  uint64_t key = QED_CLAIM_L1 | qed_l1_index (&img->g, cluster), offset;
  struct qed_claim claim;
  enum qed_link_failure how;
  bool absent;
  int r;

  if (qed_claim (img, &claim, key, key) == -1)
    return -1;
  r = look_before_link (img, cluster, &absent);
  if (r == 0 && absent) {
    r = qed_alloc (img, img->h.table_size, &offset);
    if (r == 0 && qed_table_link_l2 (img->table, cluster, offset, &how) == -1)
      r = link_failed (img, how, img->h.table_size, offset);
  }
  qed_unclaim (img, &claim);
  return r;
}

/* Write P's data into the fresh clusters at FILE_OFFSET. */
static int
write_data (struct qed_image *img, const struct qed_piece *p,
            uint64_t file_offset)
{
  if (p->backed && p->head + p->tail > 0)
    return qed_write_with_copies (img, p, file_offset);
  if (p->sparse)
    return qed_storage_write_sparse (img->st, p->buf, p->count, file_offset);
  return qed_storage_write (img->st, p->buf, p->count, file_offset + p->head);
}

/* Write P into fresh clusters and link these. */
static int
write_fresh (struct qed_image *img, const struct qed_piece *p)
{
  enum qed_link_failure how;
  uint64_t file_offset;

  if ((p->absent && make_l2_table (img, p->cluster) == -1) ||
      (img->overlay && qed_table_reserve (img->table, p->cluster) == -1) ||
      qed_alloc (img, p->n, &file_offset) == -1)
    return -1;
  if (write_data (img, p, file_offset) == -1) {
    qed_alloc_undo (img, p->n, file_offset, false);
    return -1;
  }
  /* The next commit, and the next thread to clear NEED_CHECK, must see it. */
  qed_mark_unsynced (img);
  if (img->overlay)
    return qed_link_later (img, p->cluster, p->n, file_offset) == -1 ?
      link_failed (img, QED_LINK_UNTOUCHED, p->n, file_offset) : 0;
  return qed_table_link (img->table, p->cluster, p->n, file_offset, &how)
    == -1 ? link_failed (img, how, p->n, file_offset) : 0;
}

static int
any_data (void *opaque, uint64_t offset __attribute__ ((unused)),
          uint64_t length __attribute__ ((unused)), bool zero)
{
  *(bool *) opaque |= !zero;
  return !zero;
}

int
qed_data_in_backing (struct qed_image *img, uint64_t count, uint64_t offset,
                     bool *data)
{
  *data = false;
  return count == 0 ? 0 :
    qed_extents_backing (img, offset, count, any_data, data);
}

int
qed_look_at_backing (struct qed_image *img, const struct qed_piece *p,
                     unsigned flags, bool *zeros, bool *copy)
{
  bool inside, before, after;

  if (qed_data_in_backing (img, p->count, p->offset, &inside) == -1 ||
      qed_data_in_backing (img, p->head, p->offset - p->head, &before) == -1 ||
      qed_data_in_backing (img, p->tail, p->offset + p->count, &after) == -1)
    return -1;
  /* Unless the backing file that the header names isn't open now. */
  *zeros = !inside && img->backing;
  *copy = !*zeros && (before || after);
  if (*copy && flags & QED_FAST_ZERO)
    return qed_error (ENOTSUP, "%s: zero of %" PRIu64 " bytes at %" PRIu64
                      ": a part of a cluster, the rest of which would have "
                      "to be copied", img->st->name, p->count, p->offset);
  return 0;
}

/* Make zero clusters of unallocated ones, or at least zero P in its cluster.
 */
static int
zero_fresh (struct qed_image *img, const struct qed_piece *p, unsigned flags)
{
  bool zeros = false, copy = false;
  enum qed_link_failure how;

  if (p->head + p->tail > 0 &&
      qed_look_at_backing (img, p, flags, &zeros, &copy) == -1)
    return -1;
  if (zeros)
    return 0;
  if (copy)
    return write_fresh (img, p);
  if (p->absent && make_l2_table (img, p->cluster) == -1)
    return -1;
  return qed_table_link (img->table, p->cluster, p->n, QED_ENTRY_ZERO, &how)
    == -1 ? link_failed (img, how, 0, 0) : 0;
}

void
qed_cut_piece (const struct qed_image *img, struct qed_piece *p,
               const void *buf, uint64_t count, uint64_t offset)
{
  const uint64_t size = img->g.cluster_size;
  const unsigned bits = img->g.cluster_bits;
  uint64_t cluster = offset >> bits, end = offset + count, last_end;

  last_end = ((cluster | (QED_SLICE_ENTRIES - 1)) + 1) << bits;
  if (end > last_end)
    end = last_end;
  if (buf == NULL && end < img->g.image_size && end & (size - 1) &&
      end >> bits > cluster)
    end &= ~(size - 1);
  if (buf == NULL && offset & (size - 1) && end > (cluster + 1) << bits)
    end = (cluster + 1) << bits;

  last_end = ((end - 1) | (size - 1)) + 1;
  if (last_end > img->g.image_size)
    last_end = img->g.image_size;
  *p = (struct qed_piece) {
    .buf = buf, .offset = offset, .count = end - offset,
    .cluster = cluster, .n = ((end - 1) >> bits) - cluster + 1,
    .head = offset & (size - 1), .tail = last_end - end,
  };
}

/* P is claimed, and not allocated: do that. */
static int
allocate_piece (struct qed_image *img, struct qed_piece *p, unsigned flags)
{
  struct qed_piece copy = *p;

  p->sparse = flags & QED_KEEP;
  if (!(flags & QED_KEEP_COPY))
    return p->buf ? write_fresh (img, p) : zero_fresh (img, p, flags);
  /* Nothing is written: the whole cluster is copied up, as what is before that.
   */
  copy.offset += p->count;
  copy.head = p->count;
  copy.count = 0;
  return write_fresh (img, &copy);
}

ssize_t
qed_allocate (struct qed_image *img, const void *buf, uint64_t count,
              uint64_t offset, unsigned flags)
{
  const bool keep = flags & (QED_KEEP | QED_KEEP_COPY);
  struct qed_claim claim;
  struct qed_run run;
  struct qed_piece p;
  bool absent;
  ssize_t r;

  qed_cut_piece (img, &p, buf, count, offset);
  if (look_before_link (img, p.cluster, &absent) == -1)
    return -1;
  r = (keep ? qed_try_claim : qed_claim) (img, &claim, p.cluster,
                                          p.cluster + p.n - 1);
  if (r != 0)
    return r == 1 ? 0 : -1;
  r = qed_map (img, offset, p.count, &run);
  if (r == 0 && (run.type == QED_RUN_UNALLOCATED ||
                 (run.type == QED_RUN_ZERO && buf && !keep))) {
    qed_cut_piece (img, &p, buf, run.length, offset);
    p.absent = absent;
    p.backed = run.type == QED_RUN_UNALLOCATED && img->overlay;
    r = allocate_piece (img, &p, flags);
    if (r == 0)
      r = (ssize_t) p.count;
  }
  /* The next thread to clear NEED_CHECK must see this link. */
  qed_mark_unsynced (img);
  qed_unclaim (img, &claim);
  return r;
}

int
qed_add_tables (struct qed_image *img, uint64_t count, uint64_t offset,
                uint64_t *clusters)
{
  const unsigned bits = img->g.table_bits;
  uint64_t cluster = offset >> img->g.cluster_bits;
  uint64_t last = (offset + count - 1) >> img->g.cluster_bits;

  for (; cluster <= last; cluster = ((cluster >> bits) + 1) << bits) {
    bool absent;

    if (look_before_link (img, cluster, &absent) == -1)
      return -1;
    if (absent)
      *clusters += img->h.table_size;
  }
  return 0;
}

int
qed_finish (struct qed_image *img, int r, unsigned flags)
{
  int err = errno;

  qed_mark_unsynced (img);
  errno = err;
  return r == 0 && flags & QED_FUA ? qed_flush (img) : r;
}
