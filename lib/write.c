/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Writing: write, zero, trim.
 *
 * Each goes along the runs of its range (cluster.c).  Where there is data the
 * request is done in place (I1), with one system call and no lock.  What isn't
 * allocated is allocated by writes; zeroing makes zero clusters of it in an
 * overlay, and has nothing to do in other images.
 *
 * An allocation reaches over as many clusters as the request has in one slice
 * of an L2 table: they are contiguous in the file, so it takes one write of
 * data and one of entries.  Of a cluster that the request covers in part only
 * that part is written: the rest of the fresh space is zeros (I2).
 *
 * But if the cluster was read from the backing file so far, the rest of it has
 * to read as before: it is copied up, which takes no more writes.  What the
 * request overwrites isn't read, nor is what is known to be zeros there; at
 * the outer edges that isn't written either.  In overlays links are pending
 * until a commit (I3).
 *
 * What fails in between costs clusters that nothing refers to, if anything,
 * and leaves old content: the link comes last (I4).
 *
 * A request that is refused for a reason that can be known in advance changes
 * nothing: it is looked at as a whole first, where such a reason is possible.
 * That is a fast zero, and any request where there may be no room to allocate.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "format.h"
#include "image.h"
#include "storage.h"
#include "table.h"
#include "writer.h"

/* How each call ends. */
static int
finish (struct qed_image *img, int r, unsigned flags)
{
  int err = errno;

  qed_mark_unsynced (img);
  errno = err;
  return r == 0 && flags & QED_FUA ? qed_flush (img) : r;
}

/* A part of a request whose clusters aren't allocated and which are in one
 * slice.  The thread has a claim on them.
 */
struct piece {
  const void *buf;              /* NULL: zeros */
  uint64_t offset, count;       /* of the disk */
  uint64_t cluster, n;          /* all that it touches */
  uint64_t head, tail;          /* bytes of these before and after it; not
                                   what is past the end of the disk */
  bool absent;                  /* there was no L2 table when last seen */
  bool below;                   /* they read as the backing file does; else
                                   as zeros */
};

/* ---- copying up ---- */

/* What one buffer holds: both ends of a write, if they aren't larger. */
#define MAX_COPY (UINT64_C (512) << 10)

/* So many buffers are kept for the next write, for as many threads. */
#define MAX_BUFFERS 16

static uint64_t
buffer_size (const struct qed_image *img)
{
  uint64_t both = 2 * img->g.cluster_size;

  return both < MAX_COPY ? both : MAX_COPY;
}

static struct qed_buffer *
get_buffer (struct qed_image *img)
{
  struct qed_writer *w = img->writer;
  struct qed_buffer *b;

  pthread_mutex_lock (&w->lock);
  b = w->buffers;
  if (b) {
    w->buffers = b->next;
    w->nr_buffers--;
  }
  pthread_mutex_unlock (&w->lock);
  if (b == NULL && (b = malloc (sizeof *b + buffer_size (img))) == NULL)
    qed_error (errno, "%s: %m", img->st->name);
  return b;
}

static void
put_buffer (struct qed_image *img, struct qed_buffer *b)
{
  struct qed_writer *w = img->writer;

  pthread_mutex_lock (&w->lock);
  if (w->nr_buffers < MAX_BUFFERS) {
    b->next = w->buffers;
    w->buffers = b;
    w->nr_buffers++;
    b = NULL;
  }
  pthread_mutex_unlock (&w->lock);
  free (b);
}

/* A range as it reads below, in memory, and where it isn't zeros.  If that is
 * in more places than these, then the last of them has zeros inside.
 */
#define MAX_PLACES 8
struct copy {
  uint8_t *bytes;
  uint64_t offset;              /* of the disk */
  struct { uint64_t first, end; } places[MAX_PLACES]; /* in BYTES */
  int n;
};

static int
copy_extent (void *opaque, uint64_t offset, uint64_t length, bool zero)
{
  struct copy *c = opaque;
  uint64_t first = offset - c->offset;

  if (zero) {
    memset (c->bytes + first, 0, length);
    return 0;
  }
  if (c->n < MAX_PLACES)
    c->places[c->n++].first = first;
  c->places[c->n - 1].end = first + length;
  return 0;
}

/* Read COUNT bytes at OFFSET.  *FIRST .. *END is what has to be written: both 0
 * if all is zeros.
 */
static int
read_copy (struct qed_image *img, uint8_t *bytes, uint64_t count,
           uint64_t offset, uint64_t *first, uint64_t *end)
{
  struct copy c = { .bytes = bytes, .offset = offset };

  if (count > 0 &&
      qed_extents_below (img, offset, count, copy_extent, &c) == -1)
    return -1;
  for (int i = 0; i < c.n; ++i)
    if (qed_pread_below (img, bytes + c.places[i].first,
                         c.places[i].end - c.places[i].first,
                         offset + c.places[i].first) == -1)
      return -1;
  *first = c.n > 0 ? c.places[0].first : 0;
  *end = c.n > 0 ? c.places[c.n - 1].end : 0;
  return 0;
}

/* Copy up a range that is too large to be kept in memory. */
static int
copy_in_parts (struct qed_image *img, struct qed_buffer *b, uint64_t count,
               uint64_t offset, uint64_t file_offset)
{
  const uint64_t max = buffer_size (img);

  while (count > 0) {
    uint64_t n = count < max ? count : max, first, end;

    if (read_copy (img, b->bytes, n, offset, &first, &end) == -1 ||
        qed_storage_write (img->st, b->bytes + first, end - first,
                           file_offset + first) == -1)
      return -1;
    count -= n;
    offset += n;
    file_offset += n;
  }
  return 0;
}

/* Write P with what is around it; FILE_OFFSET is that of its first cluster. */
static int
write_with_copies (struct qed_image *img, const struct piece *p,
                   struct qed_buffer *b, uint64_t file_offset)
{
  const uint64_t end = p->offset + p->count;
  uint8_t *tail = b->bytes + p->head;
  uint64_t head_first, head_end, tail_first, tail_end;
  struct iovec iov[3];
  int n = 0;

  if (p->head + p->tail > buffer_size (img) || p->buf == NULL)
    return copy_in_parts (img, b, p->head, p->offset - p->head,
                          file_offset) == -1 ||
      copy_in_parts (img, b, p->tail, end,
                     file_offset + p->head + p->count) == -1 ||
      (p->buf && qed_storage_write (img->st, p->buf, p->count,
                                    file_offset + p->head) == -1) ? -1 : 0;

  if (read_copy (img, b->bytes, p->head, p->offset - p->head,
                 &head_first, &head_end) == -1 ||
      read_copy (img, tail, p->tail, end, &tail_first, &tail_end) == -1)
    return -1;
  /* What is written at once is one range, so inner zeros are, too. */
  if (head_end == 0)
    head_first = p->head;
  if (head_first < p->head)
    iov[n++] = (struct iovec) { b->bytes + head_first, p->head - head_first };
  iov[n++] = (struct iovec) { (void *) (uintptr_t) p->buf, p->count };
  if (tail_end > 0)
    iov[n++] = (struct iovec) { tail, tail_end };
  return qed_storage_writev (img->st, iov, n, file_offset + head_first);
}

/* ---- allocation ---- */

/* COUNT clusters at OFFSET should have been linked. */
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

/* Write P's data into the fresh clusters at FILE_OFFSET. */
static int
write_data (struct qed_image *img, const struct piece *p, uint64_t file_offset)
{
  struct qed_buffer *b;
  int r;

  if (!p->below || p->head + p->tail == 0)
    return qed_storage_write (img->st, p->buf, p->count,
                              file_offset + p->head);
  b = get_buffer (img);
  if (b == NULL)
    return -1;
  r = write_with_copies (img, p, b, file_offset);
  put_buffer (img, b);
  return r;
}

/* Write P into fresh clusters and link these. */
static int
write_fresh (struct qed_image *img, const struct piece *p)
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
  /* A commit, or who clears NEED_CHECK next, has to know of it. */
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

/* Is something there, below, that may not be zeros? */
static int
data_below (struct qed_image *img, uint64_t count, uint64_t offset,
            bool *data)
{
  *data = false;
  return count == 0 ? 0 :
    qed_extents_below (img, offset, count, any_data, data);
}

/* P is a part of an unallocated cluster.  *ZEROS: it reads as zeros already.
 * *COPY: zeroing it takes a copy of the rest, which a fast zero mustn't make.
 */
static int
look_below (struct qed_image *img, const struct piece *p, unsigned flags,
            bool *zeros, bool *copy)
{
  bool inside, before, after;

  if (data_below (img, p->count, p->offset, &inside) == -1 ||
      data_below (img, p->head, p->offset - p->head, &before) == -1 ||
      data_below (img, p->tail, p->offset + p->count, &after) == -1)
    return -1;
  /* Unless the header's backing file isn't there now. */
  *zeros = !inside && img->backing;
  *copy = !*zeros && (before || after);
  if (*copy && flags & QED_FAST_ZERO)
    return qed_error (ENOTSUP, "%s: zero of %" PRIu64 " bytes at %" PRIu64
                      ": a part of a cluster, the rest of which would have "
                      "to be copied", img->st->name, p->count, p->offset);
  return 0;
}

/* Make zero clusters of unallocated ones, or at least zero P in its cluster. */
static int
zero_fresh (struct qed_image *img, const struct piece *p, unsigned flags)
{
  bool zeros = false, copy = false;
  enum qed_link_failure how;

  if (p->head + p->tail > 0 &&
      look_below (img, p, flags, &zeros, &copy) == -1)
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

/* As much of COUNT bytes at OFFSET as is one piece: what is in the slice; and
 * for zeros, whole clusters or a part of one.
 */
static void
cut_piece (const struct qed_image *img, struct piece *p, const void *buf,
           uint64_t count, uint64_t offset)
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
  *p = (struct piece) {
    .buf = buf, .offset = offset, .count = end - offset,
    .cluster = cluster, .n = ((end - 1) >> bits) - cluster + 1,
    .head = offset & (size - 1), .tail = last_end - end,
  };
}

/* OFFSET isn't allocated: write there or, with BUF NULL, zero, as far as that
 * is one piece.  Returns the bytes that were done: 0 if another writer was
 * first (I8), or -1.
 */
static ssize_t
do_piece (struct qed_image *img, const void *buf, uint64_t count,
          uint64_t offset, unsigned flags)
{
  struct qed_claim claim;
  struct qed_run run;
  struct piece p;
  bool absent;
  ssize_t r;

  cut_piece (img, &p, buf, count, offset);
  if (look_before_link (img, p.cluster, &absent) == -1 ||
      qed_claim (img, &claim, p.cluster, p.cluster + p.n - 1) == -1)
    return -1;
  r = qed_map (img, offset, p.count, &run);
  if (r == 0 && (run.type == QED_RUN_UNALLOCATED ||
                 (run.type == QED_RUN_ZERO && buf))) {
    cut_piece (img, &p, buf, run.length, offset);
    p.absent = absent;
    p.below = run.type == QED_RUN_UNALLOCATED && img->overlay;
    r = buf ? write_fresh (img, &p) : zero_fresh (img, &p, flags);
    if (r == 0)
      r = (ssize_t) p.count;
  }
  /* Who clears NEED_CHECK next has to know of the link. */
  qed_mark_unsynced (img);
  qed_unclaim (img, &claim);
  return r;
}

/* ---- before anything is changed ---- */

/* Add the clusters of the L2 tables that a range needs and that are absent. */
static int
add_tables (struct qed_image *img, uint64_t count, uint64_t offset,
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
      if (add_tables (img, run.length, offset, &clusters) == -1)
        return -1;
    }
    count -= run.length;
    offset += run.length;
  }
  return clusters == 0 ? 0 : qed_check_room (img, clusters);
}

/* What a zero would do. */
struct plan {
  uint64_t clusters;            /* how many it allocates */
  uint64_t offset;              /* of the disk: where ... */
  struct qed_run data;          /* ... the first data is; length 0: nowhere */
};

/* What isn't whole clusters of an unallocated range, at its start or at its
 * end.  *ZEROS: that needs nothing.  Returns its length, or -1.
 */
static ssize_t
plan_part (struct qed_image *img, uint64_t count, uint64_t offset,
           unsigned flags, struct plan *plan, bool *zeros)
{
  struct piece p;
  bool copy;

  *zeros = false;
  cut_piece (img, &p, NULL, count, offset);
  if (p.head + p.tail == 0)
    return 0;
  if (look_below (img, &p, flags, zeros, &copy) == -1)
    return -1;
  plan->clusters += copy;
  return (ssize_t) p.count;
}

/* A range that isn't allocated, in an overlay. */
static int
plan_unallocated (struct qed_image *img, uint64_t count, uint64_t offset,
                  unsigned flags, struct plan *plan)
{
  uint64_t end = offset + count;
  uint64_t last = (end - 1) & ~(img->g.cluster_size - 1);
  ssize_t n;
  bool zeros;

  n = plan_part (img, end - offset, offset, flags, plan, &zeros);
  if (n == -1)
    return -1;
  if (zeros)
    offset += (uint64_t) n;
  if (last > offset) {
    n = plan_part (img, end - last, last, flags, plan, &zeros);
    if (n == -1)
      return -1;
    if (zeros)
      end = last;
  }
  return offset < end && qed_room_is_limited (img) ?
    add_tables (img, end - offset, offset, &plan->clusters) : 0;
}

static int
plan_zero (struct qed_image *img, uint64_t count, uint64_t offset,
           unsigned flags, struct plan *plan)
{
  *plan = (struct plan) { .clusters = 0 };
  while (count > 0) {
    struct qed_run run;

    if (qed_map (img, offset, count, &run) == -1)
      return -1;
    if (run.type == QED_RUN_UNSOUND)
      return qed_unsound_error (img, offset);
    if (run.type == QED_RUN_DATA && plan->data.length == 0) {
      plan->offset = offset;
      plan->data = run;
    }
    else if (run.type == QED_RUN_UNALLOCATED && img->overlay &&
             plan_unallocated (img, run.length, offset, flags, plan) == -1)
      return -1;
    count -= run.length;
    offset += run.length;
  }
  return plan->clusters == 0 || !qed_room_is_limited (img) ? 0 :
    qed_check_room (img, plan->clusters);
}

/* ---- write ---- */

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
      return finish (img, -1, flags);
    switch (run.type) {
    case QED_RUN_UNALLOCATED:
    case QED_RUN_ZERO:
      n = do_piece (img, buf, run.length, offset, flags);
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

/* Call FN for a range of the file that holds data. */
static ssize_t
change_data (struct qed_image *img, const struct qed_run *run, unsigned flags,
             int (*fn) (struct qed_image *img, uint64_t count,
                        uint64_t offset, unsigned flags))
{
  int r;

  /* Before, and in case others looked meanwhile, after. */
  qed_forget_data (&img->data);
  r = fn (img, run->length, run->file_offset, flags);
  qed_forget_data (&img->data);
  return r == -1 ? -1 : (ssize_t) run->length;
}

/* OFFSET and what follows it, unallocated when last seen, in as many pieces as
 * it takes.  Returns the bytes that were done, or -1.
 */
static ssize_t
zero_unallocated (struct qed_image *img, uint64_t count, uint64_t offset,
                  unsigned flags)
{
  uint64_t done = 0;

  while (done < count) {
    ssize_t n = do_piece (img, NULL, count - done, offset + done, flags);

    if (n == -1)
      return -1;
    if (n == 0)
      break;
    done += (uint64_t) n;
    flags &= ~QED_FAST_ZERO; /* see for_data */
  }
  return (ssize_t) done;
}

/* Call FN for each range of the file that has data of this range of the
 * disk.  With ZERO what isn't allocated becomes zeros too, in an overlay; it is
 * already in other images.
 *
 * Once something was changed what turns out not to be fast is done all the
 * same: plan_zero found nothing of that kind, so another writer was there.
 */
static int
for_data (struct qed_image *img, uint64_t count, uint64_t offset,
          unsigned flags, bool zero,
          int (*fn) (struct qed_image *img, uint64_t count, uint64_t offset,
                     unsigned flags))
{
  while (count > 0) {
    struct qed_run run;
    ssize_t n;

    if (qed_map (img, offset, count, &run) == -1)
      return -1;
    n = (ssize_t) run.length;
    if (run.type == QED_RUN_UNSOUND)
      n = qed_unsound_error (img, offset);
    else if (run.type == QED_RUN_DATA)
      n = change_data (img, &run, flags, fn);
    else if (run.type == QED_RUN_UNALLOCATED && zero && img->overlay)
      n = zero_unallocated (img, run.length, offset, flags);
    if (n == -1)
      return -1;
    if (n > 0 && run.type != QED_RUN_ZERO)
      flags &= ~QED_FAST_ZERO;
    count -= (uint64_t) n;
    offset += (uint64_t) n;
  }
  return 0;
}

/* The first data comes first: whether the storage can zero it fast shows only
 * there.
 */
static int
zero_fast (struct qed_image *img, uint64_t count, uint64_t offset,
           unsigned flags, const struct plan *plan)
{
  uint64_t before = plan->offset - offset, after;

  if (plan->data.length == 0)
    return for_data (img, count, offset, flags, true, zero_data);
  if (change_data (img, &plan->data, flags, zero_data) == -1)
    return -1;
  flags &= ~QED_FAST_ZERO;
  after = plan->offset + plan->data.length;
  return for_data (img, before, offset, flags, true, zero_data) == -1 ||
    for_data (img, offset + count - after, after, flags, true, zero_data) == -1
    ? -1 : 0;
}

int
qed_zero (struct qed_image *img, uint64_t count, uint64_t offset,
          unsigned flags)
{
  struct plan plan;

  if (qed_check_range (img, offset, count) == -1 ||
      qed_check_writable (img) == -1 ||
      ((flags & QED_FAST_ZERO || qed_room_is_limited (img)) &&
       plan_zero (img, count, offset, flags, &plan) == -1))
    return -1;
  return finish (img, flags & QED_FAST_ZERO ?
                 zero_fast (img, count, offset, flags, &plan) :
                 for_data (img, count, offset, flags, true, zero_data), flags);
}

int
qed_trim (struct qed_image *img, uint64_t count, uint64_t offset,
          unsigned flags)
{
  if (qed_check_range (img, offset, count) == -1 ||
      qed_check_writable (img) == -1)
    return -1;
  return finish (img, for_data (img, count, offset, flags, false, trim_data),
                 flags);
}
