/* nbdkit-qed
 * Copyright (C) 2026 nbdkit-qed authors
 *
 * Redistribution and use in source and binary forms, with or without
 * modification, are permitted provided that the following conditions are
 * met:
 *
 * * Redistributions of source code must retain the above copyright
 * notice, this list of conditions and the following disclaimer.
 *
 * * Redistributions in binary form must reproduce the above copyright
 * notice, this list of conditions and the following disclaimer in the
 * documentation and/or other materials provided with the distribution.
 *
 * * Neither the name of nbdkit-qed nor the names of its contributors may be
 * used to endorse or promote products derived from this software without
 * specific prior written permission.
 *
 * THIS SOFTWARE IS PROVIDED BY THE AUTHORS AND CONTRIBUTORS ''AS IS'' AND
 * ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO,
 * THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A
 * PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE AUTHORS OR
 * CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
 * SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT
 * LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF
 * USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND
 * ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY,
 * OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT
 * OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF
 * SUCH DAMAGE.
 */


/* Writing: write, zero, trim.
 *
 * Each goes along the runs of its range (cluster.c).  Where there is data the
 * request is done in place (I1), with one system call and no lock; what isn't
 * allocated is zeros already, so only writes allocate.
 *
 * An allocation reaches over as many clusters as the request has in one slice
 * of an L2 table: they are contiguous in the file, so it takes one write of
 * data and one of entries.  Of a cluster that the request covers in part only
 * that part is written: the rest of the fresh space is zeros (I2).
 *
 * What fails in between costs clusters that nothing refers to, if anything,
 * and leaves old content: the link comes last (I4).
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>

#include "error.h"
#include "format.h"
#include "image.h"
#include "storage.h"
#include "table.h"
#include "writer.h"

/* Something was written; or in part, which is as good. */
static void
mark_unsynced (struct qed_image *img)
{
  atomic_bool *unsynced = &img->writer->unsynced;

  /* It's mostly set already, and then nothing need go to the other CPUs. */
  if (!atomic_load (unsynced))
    atomic_store (unsynced, true);
}

/* How each call ends. */
static int
finish (struct qed_image *img, int r, unsigned flags)
{
  int err = errno;

  mark_unsynced (img);
  errno = err;
  return r == 0 && flags & QED_FUA ? qed_flush (img) : r;
}

/* ---- allocation ---- */

/* COUNT clusters at OFFSET should have been linked.  They are still a hole
 * only if they are a table.
 */
static int
link_failed (struct qed_image *img, enum qed_link_failure how, uint64_t count,
             uint64_t offset)
{
  if (how == QED_LINK_LOST)
    return qed_writer_fail (img, errno);
  if (how == QED_LINK_UNTOUCHED)
    qed_alloc_undo (img, count, offset);
  return -1;
}

/* May entries of CLUSTER's slice be linked?  *ABSENT: it has no L2 table. */
static int
look_before_link (struct qed_image *img, uint64_t cluster, bool *absent)
{
  bool unsound;
  int r = qed_table_prepare (img->table, cluster, absent, &unsound);

  if (unsound)
    atomic_store (&img->corrupt, true);
  return r;
}

/* CLUSTER had no L2 table: make one.  It needs no writing (I2). */
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

/* Write COUNT bytes at OFFSET of the disk, none of which is allocated, into
 * fresh clusters and link these.  The caller has a claim on them.  ABSENT:
 * when last seen they had no L2 table.
 */
static int
write_fresh (struct qed_image *img, const void *buf, size_t count,
             uint64_t offset, bool absent)
{
  const unsigned bits = img->g.cluster_bits;
  uint64_t in_cluster = offset & (img->g.cluster_size - 1);
  uint64_t cluster = offset >> bits, file_offset;
  uint64_t n = ((offset + count - 1) >> bits) - cluster + 1;
  enum qed_link_failure how;

  if ((absent && make_l2_table (img, cluster) == -1) ||
      qed_alloc (img, n, &file_offset) == -1)
    return -1;
  if (qed_storage_write (img->st, buf, count,
                         file_offset + in_cluster) == -1) {
    qed_alloc_undo (img, n, file_offset);
    return -1;
  }
  return qed_table_link (img->table, cluster, n, file_offset, &how) == -1 ?
    link_failed (img, how, n, file_offset) : 0;
}

/* OFFSET isn't allocated: allocate it and what follows in the same slice, up
 * to COUNT bytes, as far as that isn't allocated either.  Returns the bytes
 * written: 0 if another writer was first (I8), or -1.
 */
static ssize_t
write_allocating (struct qed_image *img, const void *buf, size_t count,
                  uint64_t offset)
{
  const unsigned bits = img->g.cluster_bits;
  uint64_t cluster = offset >> bits;
  uint64_t slice_end = (cluster | (QED_SLICE_ENTRIES - 1)) + 1;
  uint64_t room = (slice_end << bits) - offset;
  struct qed_claim claim;
  struct qed_run run;
  bool absent;
  ssize_t r;

  if (count > room)
    count = room;
  if (look_before_link (img, cluster, &absent) == -1 ||
      qed_claim (img, &claim, cluster, (offset + count - 1) >> bits) == -1)
    return -1;
  r = qed_map (img, offset, count, &run);
  if (r == 0 && (run.type == QED_RUN_UNALLOCATED ||
                 run.type == QED_RUN_ZERO)) {
    r = write_fresh (img, buf, run.length, offset, absent);
    if (r == 0)
      r = (ssize_t) run.length;
  }
  /* Who clears NEED_CHECK next has to know of the link. */
  mark_unsynced (img);
  qed_unclaim (img, &claim);
  return r;
}

int
qed_pwrite (struct qed_image *img, const void *buf, size_t count,
            uint64_t offset, unsigned flags)
{
  ssize_t n = 0;

  if (qed_check_range (img, offset, count) == -1 ||
      qed_check_writable (img) == -1)
    return -1;

  while (n != -1 && count > 0) {
    struct qed_run run;

    if (qed_map (img, offset, count, &run) == -1)
      return finish (img, -1, flags);
    switch (run.type) {
    case QED_RUN_UNALLOCATED:
    case QED_RUN_ZERO:
      n = write_allocating (img, buf, run.length, offset);
      break;
    case QED_RUN_DATA:
      n = qed_storage_write (img->st, buf, run.length, run.file_offset) == -1 ?
        -1 : (ssize_t) run.length;
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
  return finish (img, n == -1 ? -1 : 0, flags);
}

/* ---- zero and trim ---- */

static int
write_zeros (struct qed_image *img, uint64_t count, uint64_t offset)
{
  static uint8_t zeros[1 << 18]; /* not const: so the plugin isn't as large */

  while (count > 0) {
    size_t n = count < sizeof zeros ? count : sizeof zeros;

    if (qed_storage_write (img->st, zeros, n, offset) == -1)
      return -1;
    count -= n;
    offset += n;
  }
  return 0;
}

/* Zero a range of the file in the best way there is (I1). */
static int
zero_data (struct qed_image *img, uint64_t count, uint64_t offset,
           unsigned flags)
{
  int r = -1;

  if (flags & QED_MAY_TRIM)
    r = qed_storage_punch (img->st, offset, count);
  else
    errno = EOPNOTSUPP;
  if (r == -1 && errno == EOPNOTSUPP)
    r = qed_storage_zero (img->st, offset, count);
  if (r == -1 && errno == EOPNOTSUPP && !(flags & QED_FAST_ZERO))
    r = write_zeros (img, count, offset);
  return r;
}

static int
trim_data (struct qed_image *img, uint64_t count, uint64_t offset,
           unsigned flags __attribute__ ((unused)))
{
  int r = qed_storage_punch (img->st, offset, count);

  return r == -1 && errno == EOPNOTSUPP ? 0 : r;
}

/* Call FN for each range of the file that has data of this range of the
 * disk.  The rest is zeros already.
 */
static int
for_data (struct qed_image *img, uint64_t count, uint64_t offset,
          unsigned flags,
          int (*fn) (struct qed_image *img, uint64_t count, uint64_t offset,
                     unsigned flags))
{
  int r = 0;

  if (qed_check_range (img, offset, count) == -1 ||
      qed_check_writable (img) == -1)
    return -1;

  while (r == 0 && count > 0) {
    struct qed_run run;

    r = qed_map (img, offset, count, &run);
    if (r == 0 && run.type == QED_RUN_UNSOUND)
      r = qed_unsound_error (img, offset);
    else if (r == 0 && run.type == QED_RUN_DATA) {
      /* Before, and in case others looked meanwhile, after. */
      qed_forget_data (&img->data);
      r = fn (img, run.length, run.file_offset, flags);
      qed_forget_data (&img->data);
    }
    offset += run.length;
    count -= run.length;
  }
  return finish (img, r, flags);
}

int
qed_zero (struct qed_image *img, uint64_t count, uint64_t offset,
          unsigned flags)
{
  return for_data (img, count, offset, flags, zero_data);
}

int
qed_trim (struct qed_image *img, uint64_t count, uint64_t offset,
          unsigned flags)
{
  return for_data (img, count, offset, flags, trim_data);
}
