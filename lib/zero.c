/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Zero and trim.
 *
 * Both go along the runs of the range (mapping.c).  Data is zeroed in place
 * (I1).  In an overlay zeroing turns unallocated clusters into zero clusters.
 * In other images it has nothing to do there.
 *
 * A request that is refused for a reason that can be known in advance changes
 * nothing.  So a fast zero is planned as a whole first, as is any request
 * where room may be short.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>

#include "allocate.h"
#include "error.h"
#include "image.h"
#include "storage.h"
#include "writer.h"

/* ---- before anything is changed ---- */

/* The work of a zero. */
struct plan {
  uint64_t clusters;            /* how many it allocates */
  uint64_t offset;              /* of the disk: where ... */
  struct qed_run data;          /* ... the first data is; length 0: nowhere */
};

/* The part of a cluster that an unallocated range begins or ends with.
 * *ZEROS: it needs no work.  Returns its length, 0 if there are whole clusters
 * only, or -1.
 */
static ssize_t
plan_part (struct qed_image *img, uint64_t count, uint64_t offset,
           unsigned flags, struct plan *plan, bool *zeros)
{
  struct qed_piece p;
  bool copy;

  *zeros = false;
  qed_cut_piece (img, &p, NULL, count, offset);
  if (p.head + p.tail == 0)
    return 0;
  if (qed_look_at_backing (img, &p, flags, zeros, &copy) == -1)
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
    qed_add_tables (img, end - offset, offset, &plan->clusters) : 0;
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

/* ---- zeroing ---- */

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

/* Zero a range of the file in place (I1), in the fastest way there is. */
static int
zero_data (struct qed_image *img, uint64_t count, uint64_t offset,
           unsigned flags)
{
  int r = -1;

  errno = EOPNOTSUPP;
  if (flags & QED_FAST_ZERO && img->st->slow_zero)
    return qed_error (ENOTSUP, "%s: zero of %" PRIu64 " bytes at %" PRIu64
                      ": may take as long as writing them", img->st->name,
                      count, offset);
  if (flags & QED_MAY_TRIM)
    r = qed_storage_punch (img->st, offset, count);
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
  int r = qed_storage_discard (img->st, offset, count);

  return r == -1 && errno == EOPNOTSUPP ? 0 : r;
}

/* Call FN for a range of the file that holds data. */
static ssize_t
change_data (struct qed_image *img, const struct qed_run *run, unsigned flags,
             int (*fn) (struct qed_image *img, uint64_t count,
                        uint64_t offset, unsigned flags))
{
  int r;

  /* Before, and after in case another thread looked meanwhile. */
  qed_forget_data (&img->data);
  r = fn (img, run->length, run->file_offset, flags);
  qed_forget_data (&img->data);
  return r == -1 ? -1 : (ssize_t) run->length;
}

/* Zero a range that was unallocated when last seen, piece by piece.  Returns
 * the bytes that were done, or -1.
 */
static ssize_t
zero_unallocated (struct qed_image *img, uint64_t count, uint64_t offset,
                  unsigned flags)
{
  uint64_t done = 0;

  while (done < count) {
    ssize_t n = qed_allocate (img, NULL, count - done, offset + done, flags);

    if (n == -1)
      return -1;
    if (n == 0)
      break;
    done += (uint64_t) n;
    flags &= ~QED_FAST_ZERO; /* see for_data */
  }
  return (ssize_t) done;
}

/* Call FN for each range of the file that has data of this range of the disk.
 * With ZERO what isn't allocated becomes zeros too, in an overlay; it is
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
  return qed_finish (img, flags & QED_FAST_ZERO ?
                     zero_fast (img, count, offset, flags, &plan) :
                     for_data (img, count, offset, flags, true, zero_data),
                     flags);
}

int
qed_trim (struct qed_image *img, uint64_t count, uint64_t offset,
          unsigned flags)
{
  if (qed_check_range (img, offset, count) == -1 ||
      qed_check_writable (img) == -1)
    return -1;
  return qed_finish (img, for_data (img, count, offset, flags, false,
                                    trim_data), flags);
}
