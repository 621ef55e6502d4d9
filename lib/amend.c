/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Changing an open image as a whole: its size, the name of its backing file,
 * what it takes over from that, and emptying it.
 *
 * What an image is, is decided by its header, and that is one write inside a
 * sector.  So whatever has to be true with the new header is made durable
 * before it, without the disk changing by that, and what the old one needed is
 * removed after it is durable.  Interrupted in between the image is marked
 * NEED_CHECK, the disk is the old or the new one, and doing it again is safe:
 *
 *     grow      zero what is mapped beyond the old end; header
 *     shrink    header; clear the entries beyond the new end; reclaim
 *     rebase    copy what would read differently; name; header; old name
 *     empty     clear L1; move it down; cut the file
 *
 * The header is written with a claim on everything in force (writer.c): it is
 * marked then, and stays so.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "error.h"
#include "format.h"
#include "image.h"
#include "storage.h"
#include "table.h"
#include "writer.h"

static void
tell (const struct qed_progress *progress, uint64_t done, uint64_t total)
{
  if (progress)
    progress->fn (progress->opaque, done, total);
}

/* ---- what all of them do ---- */

/* All is durable, NEED_CHECK is, and nobody else changes metadata until the
 * claim is given up.
 */
static int
claim_all (struct qed_image *img, struct qed_claim *claim)
{
  return qed_sync_all (img) == -1 ? -1 :
    qed_claim (img, claim, 0, UINT64_MAX);
}

/* SECTOR is what the file is to begin with, but for the header, which is to be
 * H; durably.  If that fails it isn't known which of them the file has.
 */
static int
replace_header (struct qed_image *img, const struct qed_header *h,
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

/* Zero a range of the file that holds entries or nothing of the image. */
static int
zero_file (struct qed_image *img, uint64_t offset, uint64_t length)
{
  static uint8_t zeros[1 << 16]; /* not const: so the plugin isn't as large */
  int r = 0;

  if (length > 0)
    r = qed_storage_punch (img->st, offset, length);
  if (r == -1 && errno == EOPNOTSUPP)
    r = qed_storage_zero (img->st, offset, length);
  if (r == -1 && errno == EOPNOTSUPP)
    for (r = 0; r == 0 && length > 0; ) {
      uint64_t n = length < sizeof zeros ? length : sizeof zeros;

      r = qed_storage_write (img->st, zeros, n, offset);
      offset += n;
      length -= n;
    }
  qed_mark_unsynced (img);
  return r;
}

/* ---- what is below ---- */

/* The next data of a backing file (NULL: zeros): from where it was looked for
 * all is zeros to START, and then there is data to END, as far as is known.
 */
struct ahead {
  struct qed_backing *b;
  uint64_t start, end;
};

static int
note_data (void *opaque, uint64_t offset, uint64_t length, bool zero)
{
  struct ahead *a = opaque;

  if (zero)
    return 0;
  a->start = offset;
  a->end = offset + length;
  return 1;
}

/* Look from OFFSET on, which never gets less, if what is known ends before.
 * If there is nothing up to LIMIT then START and END are that.
 */
static int
look_ahead (struct ahead *a, uint64_t offset, uint64_t limit)
{
  uint64_t size = a->b && a->b->size < limit ? a->b->size : limit;

  if (offset < a->end)
    return 0;
  a->start = a->end = limit;
  return a->b == NULL || offset >= size ? 0 :
    a->b->ops->extents (a->b, offset, size - offset, note_data, a);
}

static int
read_ahead (const struct ahead *a, uint8_t *buf, uint64_t count,
            uint64_t offset)
{
  uint64_t n = 0;

  if (a->start < offset + count && a->b && a->b->size > offset)
    n = a->b->size - offset < count ? a->b->size - offset : count;
  memset (buf + n, 0, count - n);
  return n == 0 ? 0 : a->b->ops->pread (a->b, buf, n, offset);
}

/* An L2 table or a cluster that both sides of the end share must not be zeroed
 * for, or taken from, one of them.
 */
static int
refuse_corrupt (struct qed_image *img)
{
  struct qed_writer *w = img->writer;
  struct qed_check_result result;

  if (qed_sync_all (img) == -1 ||
      qed_check_tables (img->st, &w->h, w->space.file_size, NULL, 0, &result) == -1)
    return -1;
  if (result.corruptions == 0)
    return 0;
  atomic_store (&img->corrupt, true);
  return qed_error (EIO, "%s: %" PRIu64 " entries of its tables are "
                    "corrupt, so its size isn't changed: run qed-img check "
                    "-r all", img->st->name, result.corruptions);
}

/* ---- grow ---- */

/* A range that isn't allocated becomes zero clusters where there may be
 * something below.
 */
static int
cover_below (struct qed_image *img, uint64_t offset, uint64_t length)
{
  const uint64_t end = offset + length, in_cluster = img->g.cluster_size - 1;
  struct ahead a = { .b = img->backing };

  if (img->overlay && img->backing == NULL)
    return qed_zero (img, length, offset, 0);
  while (offset < end) {
    uint64_t from, to;

    if (look_ahead (&a, offset, end) == -1)
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

/* Let the disk read as zeros from OFFSET on. */
static int
zero_beyond (struct qed_image *img, uint64_t offset,
             const struct qed_progress *progress)
{
  const uint64_t start = offset, end = img->g.image_size;

  while (offset < end) {
    struct qed_run run;
    int r = 0;

    tell (progress, offset - start, end - start);
    if (qed_map (img, offset, end - offset, &run) == -1)
      return -1;
    if (run.type == QED_RUN_DATA)
      r = qed_zero (img, run.length, offset, QED_MAY_TRIM);
    else if (run.type == QED_RUN_UNALLOCATED)
      r = cover_below (img, offset, run.length);
    else if (run.type == QED_RUN_UNSOUND)
      r = qed_unsound_error (img, offset);
    if (r == -1)
      return -1;
    offset += run.length;
  }
  tell (progress, end - start, end - start);
  return 0;
}

/* With a claim on everything: the header says SIZE. */
static int
write_size (struct qed_image *img, uint64_t size)
{
  struct qed_header h = img->writer->h;
  uint8_t sector[QED_SECTOR_SIZE];

  h.image_size = size;
  return qed_storage_read (img->st, sector, sizeof sector, 0) == -1 ? -1 :
    replace_header (img, &h, sector);
}

static int
grow (struct qed_image *img, uint64_t size,
      const struct qed_progress *progress)
{
  const uint64_t old = img->g.image_size;
  struct qed_claim claim;
  int r;

  if (refuse_corrupt (img) == -1)
    return -1;
  img->g.image_size = size; /* for the calls that it takes */
  r = zero_beyond (img, old, progress);
  if (r == 0)
    r = claim_all (img, &claim);
  if (r == 0) {
    r = write_size (img, size);
    qed_unclaim (img, &claim);
  }
  if (r == -1)
    img->g.image_size = old;
  return r;
}

/* ---- shrink ---- */

/* Who grows the image may think that there is nothing in the rest of the last
 * cluster: QEMU does.
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
  struct qed_view view;

  if (zero_file (img, img->g.l1_offset + l1, img->g.table_bytes - l1) == -1)
    return -1;
  if (l2 == 0)
    return 0;
  if (qed_table_find (img->table, first - 1, &view) == -1)
    return -1;
  qed_table_unlock (img->table);
  return view.type != QED_VIEW_ENTRIES ? 0 :
    zero_file (img, view.l2_offset + l2, img->g.table_bytes - l2);
}

/* What nothing refers to is given back.  The tables may move, and the cache
 * doesn't know.
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

/* The disk has that size already if this has been interrupted before. */
static int
shrink_to (struct qed_image *img, uint64_t size,
           const struct qed_progress *progress)
{
  struct qed_claim claim;
  int r;

  if (refuse_corrupt (img) == -1 || claim_all (img, &claim) == -1)
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

/* MAX is what the geometry can map. */
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

/* ---- the backing file's name ---- */

/* What the header clusters begin with is looked at; the longest name is much
 * shorter.
 */
#define MAX_LOOK (UINT64_C (1) << 16)

struct naming {
  const char *name;
  uint64_t length;              /* of NAME; 0: there is none */
  uint64_t place;               /* where it goes in the file */
  uint64_t old, old_length;     /* where the old name is; or 0, 0 */
  uint64_t bytes_length;
  uint8_t *bytes;               /* the header clusters; to be freed */
};

/* Nothing would be lost if the new name were written over this byte.  Over the
 * old name it may only be together with the header, which is in the first
 * sector, unless it is ASSUMED to have gone.
 */
static bool
is_free (const struct naming *n, uint64_t at, bool assumed)
{
  if (at < QED_HEADER_BYTES)
    return false;
  if (at - n->old < n->old_length)
    return at < QED_SECTOR_SIZE || assumed;
  return n->bytes[at] == 0;
}

/* The longest range of free bytes. */
static uint64_t
longest_free (const struct naming *n, bool assumed)
{
  uint64_t longest = 0, length = 0;

  for (uint64_t at = 0; at < n->bytes_length; ++at) {
    length = is_free (n, at, assumed) ? length + 1 : 0;
    if (length > longest)
      longest = length;
  }
  return longest;
}

/* Does the name fit in at PLACE?  With THERE, whole sectors may have it
 * already: this was interrupted once.
 */
static bool
fits (const struct naming *n, uint64_t place, bool there)
{
  for (uint64_t i = 0, end; i < n->length; i = end) {
    uint64_t at = place + i;

    end = (at | (QED_SECTOR_SIZE - 1)) + 1 - place;
    if (end > n->length)
      end = n->length;
    if (there && at >= QED_SECTOR_SIZE &&
        memcmp (n->bytes + at, n->name + i, end - i) == 0)
      continue;
    for (uint64_t j = i; j < end; ++j)
      if (!is_free (n, place + j, false))
        return false;
  }
  return true;
}

static int
find_place (struct qed_image *img, struct naming *n)
{
  for (int there = 0; there < 2; ++there)
    for (n->place = QED_HEADER_BYTES;
         n->place + n->length <= n->bytes_length; n->place++)
      if (fits (n, n->place, there))
        return 0;

  return qed_error (ENAMETOOLONG, "%s: backing file's name of %" PRIu64
                    " bytes: there is room for %" PRIu64 " bytes in the "
                    "header clusters: %s", img->st->name, n->length,
                    longest_free (n, false),
                    longest_free (n, true) >= n->length ?
                    "the old name is in the way: give a short one first" :
                    "use a shorter name, such as one relative to the image's "
                    "directory or of a symbolic link");
}

/* Everything that can be wrong before anything is written.  The caller frees
 * N->bytes, also after a failure.
 */
static int
plan_naming (struct qed_image *img, const char *name, struct naming *n)
{
  const struct qed_header *h = &img->h;
  uint64_t length = img->g.header_bytes;

  *n = (struct naming) {
    .name = name, .length = name ? strlen (name) : 0,
    .bytes_length = length < MAX_LOOK ? length : MAX_LOOK,
  };
  if (h->compat_features)
    return qed_error (ENOTSUP, "%s: header: compat_features 0x%" PRIx64
                      ": are unknown, so the bytes after the header may have "
                      "an unknown meaning, and the backing file's name among "
                      "them isn't changed", img->st->name,
                      h->compat_features);
  if (name && (n->length == 0 || n->length > QED_MAX_BACKING_FILENAME))
    return qed_error (n->length == 0 ? EINVAL : ENAMETOOLONG,
                      "%s: backing file's name of %" PRIu64 " bytes: must "
                      "have 1 to %d", img->st->name, n->length,
                      QED_MAX_BACKING_FILENAME);
  if (h->features & QED_F_BACKING_FILE) {
    n->old = h->backing_filename_offset;
    n->old_length = h->backing_filename_size;
  }
  n->bytes = malloc (n->bytes_length);
  if (n->bytes == NULL)
    return qed_error (errno, "%s: %m", img->st->name);
  if (qed_storage_read (img->st, n->bytes, n->bytes_length, 0) == -1)
    return -1;
  return name ? find_place (img, n) : 0;
}

/* The part of the name that isn't in the first sector, durably: the old header
 * doesn't know it.
 */
static int
write_long_name (struct qed_image *img, const struct naming *n)
{
  uint64_t end = n->place + n->length;
  uint64_t from = n->place < QED_SECTOR_SIZE ? QED_SECTOR_SIZE : n->place;

  if (end <= QED_SECTOR_SIZE)
    return 0;
  if (qed_storage_write (img->st, n->name + (from - n->place), end - from,
                         from) == -1)
    return -1;
  qed_mark_unsynced (img);
  return qed_sync_all (img);
}

/* The first sector with the part of the name that is there, without the old
 * one, and with the header.
 */
static int
write_first_sector (struct qed_image *img, const struct naming *n, bool raw)
{
  struct qed_header h = img->writer->h;
  uint8_t *sector = n->bytes;

  h.features &= ~(QED_F_BACKING_FILE | QED_F_BACKING_FORMAT_NO_PROBE);
  h.backing_filename_offset = (uint32_t) n->place;
  h.backing_filename_size = (uint32_t) n->length;
  if (n->name)
    h.features |= QED_F_BACKING_FILE |
      (raw ? QED_F_BACKING_FORMAT_NO_PROBE : 0);

  for (uint64_t at = 0; at < QED_SECTOR_SIZE; ++at)
    if (at - n->place < n->length)
      sector[at] = (uint8_t) n->name[at - n->place];
    else if (at - n->old < n->old_length)
      sector[at] = 0;
  return replace_header (img, &h, sector);
}

/* What the first sector doesn't have of the old name, as far as the new one
 * isn't there.
 */
static int
clear_old_name (struct qed_image *img, const struct naming *n)
{
  uint64_t end = n->old + n->old_length, at = n->old;
  int r = 0;

  if (at < QED_SECTOR_SIZE)
    at = QED_SECTOR_SIZE;
  while (r == 0 && at < end) {
    uint64_t from = at;

    while (at < end && at - n->place >= n->length)
      ++at;
    r = zero_file (img, from, at - from);
    while (at < end && at - n->place < n->length)
      ++at;
  }
  return r;
}

int
qed_check_backing_name (struct qed_image *img, const char *name)
{
  struct naming n;
  int r = plan_naming (img, name, &n), err = errno;

  free (n.bytes);
  errno = err;
  return r;
}

int
qed_set_backing (struct qed_image *img, const char *name, bool raw)
{
  struct qed_claim claim;
  struct naming n = { .bytes = NULL };
  int r = qed_check_writable (img), err;

  if (r == 0)
    r = plan_naming (img, name, &n);
  if (r == 0)
    r = claim_all (img, &claim);
  if (r == 0) {
    r = write_long_name (img, &n) == -1 ||
      write_first_sector (img, &n, raw) == -1 ||
      clear_old_name (img, &n) == -1 ? -1 : 0;
    qed_unclaim (img, &claim);
  }
  err = errno;
  free (n.bytes);
  errno = err;
  return r;
}

/* ---- copying what differs ---- */

/* What is compared at once.  Clusters can be larger. */
#define COMPARE_BYTES (UINT64_C (2) << 20)

struct comparison {
  struct qed_image *img;
  struct ahead old, new;
  uint8_t *old_bytes, *new_bytes;
};

enum verdict { SAME, ZEROS, DIFFERENT };

/* The clusters from I on of N bytes, up to one that isn't treated alike. */
static enum verdict
judge (const struct comparison *c, uint64_t i, uint64_t n)
{
  uint64_t length = n - i < c->img->g.cluster_size ? n - i :
    c->img->g.cluster_size;
  const uint8_t *old = c->old_bytes + i;

  if (memcmp (old, c->new_bytes + i, length) == 0)
    return SAME;
  return old[0] == 0 && memcmp (old, old + 1, length - 1) == 0 ?
    ZEROS : DIFFERENT;
}

/* N bytes of the disk at OFFSET were read, in whole clusters. */
static int
copy_clusters (struct comparison *c, uint64_t offset, uint64_t n)
{
  int r = 0;

  for (uint64_t i = 0, end; r == 0 && i < n; i = end) {
    enum verdict verdict = judge (c, i, n);

    end = i;
    do
      end += c->img->g.cluster_size;
    while (end < n && judge (c, end, n) == verdict);
    if (end > n)
      end = n;
    if (verdict == ZEROS)
      r = qed_zero (c->img, end - i, offset + i, 0);
    else if (verdict == DIFFERENT)
      r = qed_pwrite (c->img, c->old_bytes + i, end - i, offset + i, 0);
  }
  return r;
}

/* N bytes of the disk at OFFSET were read, in a cluster that ends at END.
 * *DONE: all of it was copied, which writing a part of it does.
 */
static int
copy_large_cluster (struct comparison *c, uint64_t offset, uint64_t n,
                    uint64_t end, bool *done)
{
  uint64_t start = offset & ~(c->img->g.cluster_size - 1);
  struct ahead old = { .b = c->old.b };

  *done = memcmp (c->old_bytes, c->new_bytes, n) != 0;
  if (!*done)
    return 0;
  if (look_ahead (&old, start, end) == -1)
    return -1;
  return old.start == end ? qed_zero (c->img, end - start, start, 0) :
    qed_pwrite (c->img, c->old_bytes, n, offset, 0);
}

/* Compare from *OFFSET on, where there is data, up to END. */
static int
compare (struct comparison *c, uint64_t *offset, uint64_t end)
{
  const uint64_t size = c->img->g.cluster_size;
  uint64_t cluster_end = (*offset | (size - 1)) + 1, n;
  bool done = false;
  int r;

  if (size > COMPARE_BYTES && cluster_end < end)
    end = cluster_end;
  n = end - *offset < COMPARE_BYTES ? end - *offset : COMPARE_BYTES;
  if (read_ahead (&c->old, c->old_bytes, n, *offset) == -1 ||
      read_ahead (&c->new, c->new_bytes, n, *offset) == -1)
    return -1;
  if (size > COMPARE_BYTES)
    r = copy_large_cluster (c, *offset, n, end, &done);
  else
    r = copy_clusters (c, *offset, n);
  *offset = done ? end : *offset + n;
  return r;
}

/* A range that isn't allocated. */
static int
compare_range (struct comparison *c, uint64_t offset, uint64_t end,
               const struct qed_progress *progress)
{
  const uint64_t in_cluster = c->img->g.cluster_size - 1;

  while (offset < end) {
    uint64_t next;

    tell (progress, offset, c->img->g.image_size);
    if (look_ahead (&c->old, offset, end) == -1 ||
        look_ahead (&c->new, offset, end) == -1)
      return -1;
    next = c->old.start < c->new.start ? c->old.start : c->new.start;
    if (next >= end)
      break;
    if ((next & ~in_cluster) > offset)
      offset = next & ~in_cluster;
    if (compare (c, &offset, end) == -1)
      return -1;
  }
  return 0;
}

static int
compare_disk (struct comparison *c, const struct qed_progress *progress)
{
  const uint64_t end = c->img->g.image_size;
  struct qed_run run;

  for (uint64_t offset = 0; offset < end; offset += run.length) {
    tell (progress, offset, end);
    if (qed_map (c->img, offset, end - offset, &run) == -1)
      return -1;
    if (run.type == QED_RUN_UNALLOCATED &&
        compare_range (c, offset, offset + run.length, progress) == -1)
      return -1;
  }
  tell (progress, end, end);
  return qed_flush (c->img);
}

int
qed_copy_differing (struct qed_image *img, struct qed_backing *to,
                    const struct qed_progress *progress)
{
  struct comparison c = {
    .img = img, .old.b = img->backing, .new.b = to
  };
  int r, err;

  if (qed_check_writable (img) == -1 ||
      qed_refuse_shared_tables (img) == -1 ||
      (to && qed_refuse_shared_tables (to->image) == -1))
    return -1;
  c.old_bytes = malloc (2 * COMPARE_BYTES);
  if (c.old_bytes == NULL)
    return qed_error (errno, "%s: %m", img->st->name);
  c.new_bytes = c.old_bytes + COMPARE_BYTES;
  if (to)
    img->overlay = true; /* soon: what isn't allocated may not stay zeros */
  r = compare_disk (&c, progress);
  err = errno;
  free (c.old_bytes);
  errno = err;
  return r;
}

struct qed_backing *
qed_take_backing (struct qed_image *img)
{
  struct qed_backing *b = img->backing;

  img->backing = NULL;
  (void) qed_close (img); /* nothing to be written */
  return b;
}

/* ---- empty ---- */

/* No entry refers to anything: the L1 table is moved to where it comes first,
 * with all durable before and after.
 */
static int
move_l1_down (struct qed_image *img)
{
  struct qed_header h = img->writer->h;
  uint8_t sector[QED_SECTOR_SIZE];

  h.l1_table_offset = img->g.header_bytes;
  if (zero_file (img, h.l1_table_offset, img->g.table_bytes) == -1 ||
      qed_sync_all (img) == -1 ||
      qed_storage_read (img->st, sector, sizeof sector, 0) == -1 ||
      replace_header (img, &h, sector) == -1)
    return -1;
  img->g.l1_offset = h.l1_table_offset;
  return 0;
}

/* Nothing follows the L1 table. */
static int
cut_to_tables (struct qed_image *img)
{
  uint64_t end = img->g.l1_offset + img->g.table_bytes;

  atomic_store (&img->corrupt, false);
  if (img->st->fixed_size)
    return 0;
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

  if (qed_check_writable (img) == -1 || claim_all (img, &claim) == -1)
    return -1;
  r = zero_file (img, img->g.l1_offset, img->g.table_bytes);
  if (r == 0)
    r = qed_sync_all (img);
  if (r == 0 && img->g.l1_offset > img->g.header_bytes)
    r = move_l1_down (img);
  if (r == 0)
    r = cut_to_tables (img);
  qed_unclaim (img, &claim);
  return r;
}
