/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Commit: the content of an overlay goes into its backing file, then the
 * overlay is emptied.  This is the one place where a backing file is written
 * (I10): the user has asked for it.
 *
 * The overlay hides what is written to the backing file until it is emptied.
 * That begins when the backing file is durable.  So the disk reads the same in
 * whatever state a commit ends, and another commit completes it.
 *
 * Both files are opened for reading first, with the rest of the chain, and
 * locked.  The same open files are then made writable.  The overlay is opened
 * without a backing file, because only its own content is read.
 *
 * A commit to a base further down takes the content of the layers in between,
 * too.  Then the overlay is opened on top of these layers, which are only
 * read, and the lowest of them without a backing file.  The overlay isn't
 * emptied, so it still hides what was written.  Past its own end a layer in
 * between hides the base as zeros.
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
#include "writer.h"

/* Bytes that are read and written at once. */
#define BUFFER_SIZE (UINT64_C (2) << 20)

struct commit {
  struct qed_image *img;        /* as in struct qed_pair */
  struct qed_storage *raw;
  struct qed_image *base;
  uint64_t raw_size;            /* bytes of RAW that there were */
  uint8_t *buf;

  const struct qed_progress *progress;
  uint64_t done, total;         /* bytes that IMG has */
};

/* ---- before anything is written ---- */

/* The content of an image, without its backing file. */
struct content {
  uint64_t bytes;
  uint64_t clusters;            /* of the backing file that they touch; one may
                                   be counted more than once */
};

/* The end of the last unallocated run of each layer.  All zeros at first. */
struct layers {
  uint64_t unallocated[QED_MAX_CHAIN];
};

/* As qed_map, but where IMG has nothing allocated, ask the images below it.
 * *LAYER is the image that has the run, or the lowest one.  OFFSET grows from
 * call to call with the same L, so that an unallocated run of a layer is
 * looked up once, not for each run of the layers below.
 */
static int
map_layers (struct layers *l, struct qed_image *img, uint64_t offset,
            uint64_t length, struct qed_run *run, struct qed_image **layer)
{
  for (uint64_t *end = l->unallocated; ; ++end) {
    uint64_t size;

    *layer = img;
    if (offset < *end) {
      run->type = QED_RUN_UNALLOCATED;
      run->length = length < *end - offset ? length : *end - offset;
    }
    else if (qed_map (img, offset, length, run) == -1)
      return -1;
    else if (run->type == QED_RUN_UNALLOCATED)
      *end = offset + run->length;
    if (run->type != QED_RUN_UNALLOCATED || img->backing == NULL)
      return 0;

    length = run->length;
    img = img->backing->image;
    size = img->g.image_size;
    if (offset >= size) {
      run->type = QED_RUN_ZERO;
      return 0;
    }
    if (length > size - offset)
      length = size - offset;
  }
}

static int
unsound (struct qed_image *img, uint64_t offset)
{
  char *why;

  qed_unsound_error (img, offset);
  why = strdup (qed_get_error ());
  qed_error (EIO, "%s: nothing was committed: repair it first, with "
             "qed-img check -r all", why ? why : img->st->name);
  free (why);
  return -1;
}

/* Are all entries of the image sound and, with LAYERS, those of the images
 * below it?  Clusters of the backing file to be written have 1 << BITS bytes.
 */
static int
scan (struct qed_image *img, bool layers, unsigned bits,
      struct content *content)
{
  const uint64_t size = img->g.image_size;
  struct qed_image *layer = img;
  struct layers l = { { 0 } };
  struct qed_run run;

  *content = (struct content) { .bytes = 0 };
  for (uint64_t offset = 0; offset < size; offset += run.length) {
    if ((layers ?
         map_layers (&l, img, offset, size - offset, &run, &layer) :
         qed_map (img, offset, size - offset, &run)) == -1)
      return -1;
    if (run.type == QED_RUN_UNSOUND)
      return unsound (layer, offset);
    if (run.type != QED_RUN_UNALLOCATED) {
      content->bytes += run.length;
      content->clusters += ((offset + run.length - 1) >> bits) -
        (offset >> bits) + 1;
    }
  }
  return 0;
}

static int
make_writable (struct qed_image *img)
{
  const struct qed_write_options opts = { .idle_ms = 0 };

  return qed_make_writable (img, &opts) == 0 ? 0 : -1;
}

/* Extend the file of BASE, a disk of SIZE bytes at least, for CLUSTERS more
 * clusters and all tables, durably, before there are entries for them.
 * Without that an overlay would read BASE after a power failure as it is,
 * unrepaired, with entries past the end of the file.  A file that can't be
 * extended so far stays as it is.  Storage of a fixed size has no such entries,
 * whatever happens.
 */
static int
reserve (struct qed_image *base, uint64_t size, uint64_t clusters)
{
  struct qed_geometry g = base->g;
  struct qed_claim claim;
  uint64_t offset;

  if (base->st->fixed_size)
    return 0;
  if (g.image_size < size)
    g.image_size = size;
  if (clusters > qed_clusters (&g))
    clusters = qed_clusters (&g);
  clusters += qed_l1_entries (&g) * base->h.table_size;

  /* It is marked NEED_CHECK, so that the space is given back. */
  if (qed_claim (base, &claim, 0, UINT64_MAX) == -1)
    return -1;
  if (qed_alloc (base, clusters, &offset) == 0)
    qed_alloc_unused (base, clusters, offset);
  qed_mark_unsynced (base);
  qed_unclaim (base, &claim);
  return qed_flush (base);
}

/* Let BASE be writable and sound and have SIZE bytes.  1: it has grown, and
 * can't be used any more.
 */
static int
prepare_base (struct qed_image *base, uint64_t size,
              const struct content *content)
{
  bool small = base->g.image_size < size;
  struct content own;

  if (make_writable (base) == -1 || scan (base, false, 0, &own) == -1)
    return -1;
  if ((small || content->bytes > 0) && size <= qed_max_image_size (&base->g) &&
      reserve (base, size, content->clusters) == -1)
    return -1;
  return !small ? 0 : qed_resize (base, size, false, NULL) == -1 ? -1 : 1;
}

/* Let RAW have SIZE bytes: as many sectors, at least. */
static int
prepare_raw (struct commit *c, uint64_t size)
{
  struct qed_storage *st = c->raw;
  int64_t r;

  if (st->ops->make_writable && st->ops->make_writable (st) == -1)
    return -1;
  r = qed_storage_size (st);
  if (r == -1)
    return -1;
  c->raw_size = (uint64_t) r;
  if (size <= c->raw_size || size - c->raw_size < QED_SECTOR_SIZE)
    return 0;
  if (st->fixed_size)
    return qed_error (ENOSPC, "%s: is a device of %" PRIu64 " bytes: it would "
                      "need the %" PRIu64 " of the image", st->name,
                      c->raw_size, size);
  c->raw_size = size;
  return qed_storage_resize (st, size);
}

/* ---- copying ---- */

static void
count_done (struct commit *c, uint64_t length)
{
  c->done += length;
  if (c->progress)
    c->progress->fn (c->progress->opaque, c->done, c->total);
}

static int
write_below (struct commit *c, uint64_t count, uint64_t offset)
{
  return c->base ? qed_pwrite (c->base, c->buf, count, offset, 0) :
    qed_storage_write (c->raw, c->buf, count, offset);
}

static int
zero_below (struct commit *c, uint64_t count, uint64_t offset)
{
  if (c->base)
    return qed_zero (c->base, count, offset, QED_MAY_TRIM);

  /* Past the end of the file there are zeros already. */
  if (offset >= c->raw_size)
    return 0;
  if (count > c->raw_size - offset)
    count = c->raw_size - offset;
  return qed_storage_clear (c->raw, offset, count);
}

static int
copy_extent (void *opaque, uint64_t offset, uint64_t length, bool zero)
{
  struct commit *c = opaque;

  if (zero) {
    if (zero_below (c, length, offset) == -1)
      return -1;
    count_done (c, length);
    return 0;
  }
  while (length > 0) {
    uint64_t n = length < BUFFER_SIZE ? length : BUFFER_SIZE;

    if (qed_pread (c->img, c->buf, n, offset) == -1 ||
        write_below (c, n, offset) == -1)
      return -1;
    count_done (c, n);
    offset += n;
    length -= n;
  }
  return 0;
}

/* Copy what IMG and the layers below it have; holes of their files as zeros.
 */
static int
copy (struct commit *c)
{
  const uint64_t size = c->img->g.image_size;
  struct qed_image *layer;
  struct layers l = { { 0 } };
  struct qed_run run;

  count_done (c, 0);
  for (uint64_t offset = 0; offset < size; offset += run.length)
    if (map_layers (&l, c->img, offset, size - offset, &run, &layer) == -1 ||
        (run.type != QED_RUN_UNALLOCATED &&
         qed_extents (c->img, offset, run.length, copy_extent, c) == -1))
      return -1;
  return 0;
}

/* ---- the whole ---- */

/* Prepare and copy.  1: see prepare_base. */
static int
fill_below (struct commit *c, bool keep)
{
  const uint64_t size = c->img->g.image_size;
  struct content content;
  int r;

  /* A small file might stand for any number of tables (I9). */
  if (qed_refuse_shared_tables (c->img) == -1 ||
      qed_refuse_shared_tables (c->base) == -1 ||
      (!keep && make_writable (c->img) == -1) ||
      scan (c->img, true, c->base ? c->base->g.cluster_bits : 0,
            &content) == -1)
    return -1;
  r = c->base ? prepare_base (c->base, size, &content) :
    prepare_raw (c, size);
  if (r != 0)
    return r;

  c->total = content.bytes;
  c->buf = malloc (BUFFER_SIZE);
  if (c->buf == NULL)
    return qed_error (errno, "%s: %m", c->img->st->name);
  return copy (c);
}

/* Close *IMG.  If R says that something has failed before, its message and
 * errno stay.
 */
static int
close_image (struct qed_image **img, int r)
{
  const int err = errno;
  char *why = r == -1 ? strdup (qed_get_error ()) : NULL;
  int closed = qed_close (*img);

  *img = NULL;
  if (r != -1)
    return closed == -1 ? -1 : r;
  qed_error (err, "%s", why ? why : "");
  free (why);
  return -1;
}

int
qed_commit_pair (struct qed_pair *pair, bool keep,
                 const struct qed_progress *progress)
{
  struct commit c = {
    .img = pair->img, .raw = pair->raw, .base = pair->base,
    .progress = progress,
  };
  int r = fill_below (&c, keep);

  free (c.buf);
  if (r == 0)
    r = c.base ? qed_flush (c.base) : qed_storage_sync (c.raw);
  r = close_image (&pair->base, r);
  if (r == 0 && !keep)
    r = qed_empty (pair->img);
  r = close_image (&pair->img, r);
  qed_close_pair (pair);
  return r;
}

int
qed_commit (const char *path, const char *base,
            const struct qed_chain_options *chain, bool keep,
            const struct qed_progress *progress)
{
  struct qed_pair pair;
  int r;

  do
    r = qed_open_pair (path, base, chain, &pair) == -1 ? -1 :
      qed_commit_pair (&pair, keep || base, progress);
  while (r == 1);
  return r;
}
