/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Guest range -> runs: the one lookup that all requests share.
 *
 * A run is grown piece by piece.  A piece is what one view of the tables
 * (table.h) says: a stretch of one type within a slice, or some or all of the
 * clusters that an absent L2 table, and absent neighbours, would map.  So an
 * image of 64 TiB without data is 64 pieces.  A slice without any entry is
 * a sign that there may be a hole in the image file, which can be jumped
 * over at the price of a system call.
 *
 * I9: L2 entries are checked here, where they are turned into runs, each
 * time, against the end of the file that goes with the view.  An unsound
 * entry is a type of run, not an error, because what is around it is still
 * good.
 *
 * I1: while others write, a piece is right at the moment of its lookup, and
 * where it says data it stays right.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>

#include "error.h"
#include "format.h"
#include "image.h"
#include "table.h"

/* A run of data isn't merged any further once it has as many clusters: it
 * makes a large enough read (4 MiB at least), and a call for the first extent
 * alone shouldn't pay for all that follow.
 */
#define MAX_DATA_CLUSTERS 1024

static enum qed_run_type
classify (const struct qed_image *img, uint64_t entry,
          const struct qed_view *view)
{
  switch (entry) {
  case QED_ENTRY_UNALLOCATED:
    return QED_RUN_UNALLOCATED;
  case QED_ENTRY_ZERO:
    return QED_RUN_ZERO;
  default:
    return qed_entry_sound (&img->g, entry, img->g.cluster_size,
                            qed_end_for (view->ends, entry),
                            view->l2_offset) ?
      QED_RUN_DATA : QED_RUN_UNSOUND;
  }
}

/* The run at the start of a view with entries, in clusters, to be validated.
 * Entries may change meanwhile, so each is loaded once.
 */
static uint64_t
scan (const struct qed_image *img, const struct qed_view *view, uint64_t max,
      struct qed_run *run)
{
  const qed_entry *e = view->entries;
  uint64_t first = qed_load_entry (&e[0]), n = 1, next;

  run->type = classify (img, first, view);
  run->file_offset = first;
  switch (run->type) {
  case QED_RUN_UNALLOCATED:
    n = qed_count_unallocated (view, max);
    break;
  case QED_RUN_ZERO:
    while (n < max && qed_load_entry (&e[n]) == QED_ENTRY_ZERO)
      ++n;
    break;
  case QED_RUN_DATA:
    while (n < max &&
           (next = qed_load_entry (&e[n])) ==
           first + (n << img->g.cluster_bits) &&
           classify (img, next, view) == QED_RUN_DATA)
      ++n;
    break;
  case QED_RUN_UNSOUND:
    while (n < max &&
           classify (img, qed_load_entry (&e[n]), view) == QED_RUN_UNSOUND)
      ++n;
    break;
  }
  return n;
}

/* How are CLUSTER and what follows, up to MAX clusters, mapped, as far as
 * one view goes?  RUN gets type and file offset, *CLUSTERS the length.
 */
static int
find_piece (struct qed_image *img, uint64_t cluster, uint64_t max,
            struct qed_run *run, uint64_t *clusters)
{
  struct qed_view view = { .locked = false };
  uint64_t n;
  bool empty_slice;

  do {
    if (qed_table_find (img->table, cluster, &view) == -1)
      return -1;
    n = view.clusters < max ? view.clusters : max;
    empty_slice = false;
    switch (view.type) {
    case QED_VIEW_ABSENT:
      run->type = QED_RUN_UNALLOCATED;
      break;
    case QED_VIEW_UNSOUND:
      run->type = QED_RUN_UNSOUND;
      run->file_offset = view.l2_offset;
      break;
    case QED_VIEW_ENTRIES:
      n = scan (img, &view, n, run);
      empty_slice = view.index == 0 && n == view.clusters &&
        run->type == QED_RUN_UNALLOCATED;
      break;
    }
  } while (!qed_table_end (img->table, &view));

  /* Worth a system call only if the caller wants to know more. */
  if (empty_slice && n < max && qed_l2_index (&img->g, cluster + n) != 0) {
    n += qed_table_hole (img->table, view.l2_offset, cluster + n);
    if (n > max)
      n = max;
  }
  *clusters = n;
  return 0;
}

/* Does PIECE, which begins LENGTH bytes after RUN does, continue it? */
static bool
continues (const struct qed_run *run, const struct qed_run *piece,
           uint64_t length)
{
  if (piece->type != run->type)
    return false;
  return run->type != QED_RUN_DATA ||
    piece->file_offset == run->file_offset + length;
}

int
qed_check_range (const struct qed_image *img, uint64_t offset,
                 uint64_t length)
{
  if (offset > img->g.image_size || length > img->g.image_size - offset)
    return qed_error (EINVAL, "%s: range of %" PRIu64 " bytes at %" PRIu64
                      ": must be inside the disk of %" PRIu64 " bytes",
                      img->st->name, length, offset, img->g.image_size);
  return 0;
}

int
qed_map (struct qed_image *img, uint64_t offset, uint64_t length,
         struct qed_run *run)
{
  const unsigned bits = img->g.cluster_bits;
  uint64_t in_cluster = offset & (img->g.cluster_size - 1);
  uint64_t cluster = offset >> bits, end, n;

  if (length == 0)
    return qed_error (EINVAL, "%s: map of no bytes at %" PRIu64,
                      img->st->name, offset);
  if (qed_check_range (img, offset, length) == -1)
    return -1;

  /* In whole clusters first: [offset >> bits, end). */
  end = ((offset + length - 1) >> bits) + 1;
  if (find_piece (img, cluster, end - cluster, run, &n) == -1)
    return -1;
  cluster += n;
  while (cluster < end) {
    struct qed_run piece;

    /* Long enough: see MAX_DATA_CLUSTERS. */
    if (run->type == QED_RUN_DATA &&
        cluster - (offset >> bits) >= MAX_DATA_CLUSTERS)
      break;

    if (find_piece (img, cluster, end - cluster, &piece, &n) == -1)
      break; /* what was found is right; the next call gets the error */
    if (!continues (run, &piece, (cluster - (offset >> bits)) << bits))
      break;
    cluster += n;
  }

  run->length = ((cluster - (offset >> bits)) << bits) - in_cluster;
  if (run->length > length)
    run->length = length;
  if (run->type == QED_RUN_DATA)
    run->file_offset += in_cluster;
  return 0;
}

int
qed_unsound_error (struct qed_image *img, uint64_t offset)
{
  uint64_t cluster = offset >> img->g.cluster_bits, entry;
  struct qed_view view = { .locked = false };
  const char *why;
  bool l2;

  do {
    if (qed_table_find (img->table, cluster, &view) == -1)
      return -1;
    l2 = view.type == QED_VIEW_ENTRIES;
    entry = l2 ? qed_load_entry (&view.entries[0]) : view.l2_offset;
    why = qed_entry_unsound (&img->g, entry,
                             l2 ? img->g.cluster_size : img->g.table_bytes,
                             qed_end_for (view.ends, entry),
                             l2 ? view.l2_offset : 0);
  } while (!qed_table_end (img->table, &view));
  atomic_store (&img->corrupt, true);
  return qed_error (EIO, "%s: offset %" PRIu64 " of the disk: %s entry 0x%"
                    PRIx64 " %s: the image is corrupt there",
                    img->st->name, offset, l2 ? "L2" : "L1", entry,
                    why ? why : "was unsound");
}
