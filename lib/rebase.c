/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Changing the backing file: its name in the header, and copying what reads
 * differently on another one.  offline.c explains the order of the writes.
 *
 * The name goes into a free place of the header clusters: bytes that are
 * zeros, or, in the first sector, those of the old name.  If there is none the
 * header takes more clusters (headroom.c), and the name is where these begin.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "error.h"
#include "image.h"
#include "offline.h"
#include "storage.h"
#include "writer.h"

/* ---- the backing file's name ---- */

/* A place for the name is looked for in so many of the first bytes of the
 * header clusters, at most.  The longest name is much shorter.
 */
#define MAX_LOOK (UINT64_C (1) << 16)

struct naming {
  const char *name;
  uint64_t length;              /* of NAME; 0: there is none */
  uint64_t place;               /* its offset in the file */
  bool extend;                  /* that is behind the header clusters */
  uint32_t clusters;            /* that these get more */
  uint64_t old, old_length;     /* the old name in the file; or 0, 0 */
  uint64_t bytes_length;
  uint8_t *bytes;               /* owned: the start of the header clusters */
};

/* May the new name overwrite the byte at AT?  The old name may be overwritten
 * only together with the header, so only in the first sector.  GONE: as if
 * there were no old name.
 */
static bool
is_free (const struct naming *n, uint64_t at, bool gone)
{
  if (at < QED_HEADER_BYTES)
    return false;
  if (at - n->old < n->old_length)
    return at < QED_SECTOR_SIZE || gone;
  return n->bytes[at] == 0;
}

/* The length of the longest range of free bytes. */
static uint64_t
longest_free (const struct naming *n, bool gone)
{
  uint64_t longest = 0, length = 0;

  for (uint64_t at = 0; at < n->bytes_length; ++at) {
    length = is_free (n, at, gone) ? length + 1 : 0;
    if (length > longest)
      longest = length;
  }
  return longest;
}

/* Does the name fit at PLACE?  With THERE, sectors may have their part of it
 * already, from an attempt that was interrupted.
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

  n->extend = true;
  n->place = img->g.header_bytes;
  if (qed_check_headroom (img) == 0)
    return 0;
  return qed_error (ENAMETOOLONG, "%s: backing file's name of %" PRIu64
                    " bytes: there is room for %" PRIu64 " bytes in the "
                    "header clusters, which can't reach beyond 4 GiB: %s",
                    img->st->name, n->length, longest_free (n, false),
                    longest_free (n, true) >= n->length ?
                    "the old name is in the way: give a short one first" :
                    "use a shorter name, such as one relative to the image's "
                    "directory or of a symbolic link");
}

/* May the header clusters be extended?  An image that is marked NEED_CHECK is
 * checked when it becomes writable.
 */
static int
check_tables (struct qed_image *img)
{
  return !img->writer && img->h.features & QED_F_NEED_CHECK ? 0 :
    qed_refuse_corrupt (img, "nothing is moved to make room for the backing "
                        "file's name");
}

/* Find everything that can be wrong before the first write.  The caller frees
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
  if (name && find_place (img, n) == -1)
    return -1;
  return n->extend ? check_tables (img) : 0;
}

/* The name needs the clusters behind the header: make them free. */
static int
extend_header (struct qed_image *img, struct naming *n)
{
  return n->extend ? qed_make_headroom (img, &n->clusters) : 0;
}

/* Write the part of the name beyond the first sector, durably.  The old header
 * doesn't refer to it.
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

/* Replace the first sector: the header, the part of the new name that belongs
 * there, and zeros for the old name.
 */
static int
write_first_sector (struct qed_image *img, const struct naming *n, bool raw)
{
  struct qed_header h = img->writer->h;
  uint8_t *sector = n->bytes;

  h.features &= ~(QED_F_BACKING_FILE | QED_F_BACKING_FORMAT_NO_PROBE);
  h.header_size += n->clusters;
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
  if (qed_replace_header (img, &h, sector) == -1)
    return -1;
  if (n->extend)
    img->g.header_bytes += (uint64_t) n->clusters << img->g.cluster_bits;
  return 0;
}

/* Zero the part of the old name beyond the first sector, except where the new
 * name is.
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
    r = qed_zero_file (img, from, at - from);
    while (at < end && at - n->place < n->length)
      ++at;
  }
  return r;
}

/* With an extended header a failure fails the writer: see headroom.c. */
static int
write_name (struct qed_image *img, const struct naming *n, bool raw)
{
  if (write_long_name (img, n) == -1 ||
      write_first_sector (img, n, raw) == -1)
    return n->extend ? qed_writer_fail (img, errno) : -1;
  return clear_old_name (img, n);
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
    r = qed_claim_all (img, &claim);
  if (r == 0) {
    r = extend_header (img, &n);
    if (r == 0)
      r = write_name (img, &n, raw);
    qed_unclaim (img, &claim);
  }
  err = errno;
  free (n.bytes);
  errno = err;
  return r;
}

/* ---- copying what differs ---- */

/* The unit of comparing.  Clusters can be larger. */
#define COMPARE_BYTES (UINT64_C (2) << 20)

struct comparison {
  struct qed_image *img;
  struct qed_ahead old, new;    /* backing files */
  uint8_t *old_bytes, *new_bytes;
};

enum verdict { SAME, ZEROS, DIFFERENT };

/* How does the cluster at I, of N bytes that were read, differ? */
static enum verdict
judge (const struct comparison *c, uint64_t i, uint64_t n)
{
  uint64_t length = n - i < c->img->g.cluster_size ? n - i :
    c->img->g.cluster_size;

  if (memcmp (c->old_bytes + i, c->new_bytes + i, length) == 0)
    return SAME;
  return qed_is_zero (c->old_bytes + i, length) ? ZEROS : DIFFERENT;
}

/* N bytes of the disk at OFFSET were read, which are whole clusters (or end at
 * the end of the disk).  Copy the clusters that differ.
 */
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

/* N bytes of the disk at OFFSET were read, in a cluster that ends at END and
 * is larger than COMPARE_BYTES.  If the backing files differ there copy the
 * cluster and set *DONE.  Writing a part is enough: copy-up does the rest.
 */
static int
copy_large_cluster (struct comparison *c, uint64_t offset, uint64_t n,
                    uint64_t end, bool *done)
{
  uint64_t start = offset & ~(c->img->g.cluster_size - 1);
  struct qed_ahead old = { .b = c->old.b };

  *done = memcmp (c->old_bytes, c->new_bytes, n) != 0;
  if (!*done)
    return 0;
  if (qed_look_ahead (&old, start, end) == -1)
    return -1;
  return old.start == end ? qed_zero (c->img, end - start, start, 0) :
    qed_pwrite (c->img, c->old_bytes, n, offset, 0);
}

/* Compare the next part of a range that ends at END, and set *OFFSET behind
 * it.  One of the backing files may have data at *OFFSET.
 */
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
  if (qed_read_ahead (&c->old, c->old_bytes, n, *offset) == -1 ||
      qed_read_ahead (&c->new, c->new_bytes, n, *offset) == -1)
    return -1;
  if (size > COMPARE_BYTES)
    r = copy_large_cluster (c, *offset, n, end, &done);
  else
    r = copy_clusters (c, *offset, n);
  *offset = done ? end : *offset + n;
  return r;
}

/* Compare the backing files in a range that is unallocated in the image. */
static int
compare_range (struct comparison *c, uint64_t offset, uint64_t end,
               const struct qed_progress *progress)
{
  const uint64_t in_cluster = c->img->g.cluster_size - 1;

  while (offset < end) {
    uint64_t next;

    qed_report (progress, offset, c->img->g.image_size);
    if (qed_look_ahead (&c->old, offset, end) == -1 ||
        qed_look_ahead (&c->new, offset, end) == -1)
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
    qed_report (progress, offset, end);
    if (qed_map (c->img, offset, end - offset, &run) == -1)
      return -1;
    if (run.type == QED_RUN_UNALLOCATED &&
        compare_range (c, offset, offset + run.length, progress) == -1)
      return -1;
  }
  qed_report (progress, end, end);
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
    img->overlay = true; /* soon: unallocated may not mean zeros */
  r = compare_disk (&c, progress);
  err = errno;
  free (c.old_bytes);
  errno = err;
  return r;
}

/* ---- the backing file without the image ---- */

struct qed_backing *
qed_take_backing (struct qed_image *img)
{
  struct qed_backing *b = img->backing;

  img->backing = NULL;
  (void) qed_close (img); /* it has nothing to write */
  return b;
}
