/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The open image: open and close, reading, extents, prefetching.
 *
 * The read path: qed_pread asks for the run at the current offset (cluster.c)
 * and reads it with one system call, or as what is below the image reads, or
 * fills in zeros, until all is there.  Nothing is allocated, no lock is held
 * across I/O, and a request inside one run costs one system call in all the
 * layers, none if it is zeros.
 *
 * The file's length is taken once, at open: only the library itself extends
 * it.  Should somebody without respect for locks cut the file, reads fail
 * with EIO (storage.c), and what writes does at the next flush (space.c).
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

/* ---- open ---- */

/* Read the name of the backing file, which validation found to lie inside
 * the header clusters.
 */
static char *
read_backing_name (struct qed_storage *st, const struct qed_header *h)
{
  size_t size = h->backing_filename_size;
  char *name = malloc (size + 1);

  if (name == NULL) {
    qed_error (errno, "%s: %m", st->name);
    return NULL;
  }
  if (qed_storage_read (st, name, size, h->backing_filename_offset) == -1)
    goto err;
  if (memchr (name, '\0', size) != NULL) {
    qed_error (EINVAL, "%s: header: the backing file's name of %zu bytes "
               "must have no NUL byte", st->name, size);
    goto err;
  }
  name[size] = '\0';
  return name;

 err:
  free (name);
  return NULL;
}

/* Of the COUNT bytes at the start of a file: is it something else that we
 * know?
 */
static int
check_magic (const uint8_t *buf, size_t count, const char *name)
{
  const char *format = qed_find_magic (buf, count), *packed;

  if (format == NULL || strcmp (format, "qed") == 0)
    return 0;
  packed = qed_packed_advice (format);
  if (packed)
    return qed_error (EINVAL, "%s: header: has the magic of format %s, not "
                      "QED's: %s", name, format, packed);
  return qed_error (EINVAL, "%s: header: has the magic of format %s: this is "
                    "not a QED image: qemu-nbd -f %s serves it, and "
                    "qemu-img convert -f %s makes a raw disk of it",
                    name, format, format, format);
}

/* As qed_read_header, and tell the length that the header was checked
 * against.
 */
static int
read_header (struct qed_storage *st, struct qed_header *h, char **backing,
             uint64_t *file_size)
{
  uint8_t buf[QED_MAGIC_BYTES];
  int64_t size = qed_storage_size (st);
  size_t n = sizeof buf;
  char *name;

  if (size == -1)
    return -1;
  if (size < (int64_t) n)
    n = (size_t) size;
  if (qed_storage_read (st, buf, n, 0) == -1 ||
      check_magic (buf, n, st->name) == -1)
    return -1;
  if (size < QED_HEADER_BYTES)
    return qed_error (EINVAL, "%s: header: the file has %" PRIi64
                      " bytes: a QED image starts with a header of %d bytes: "
                      "this is not a QED image",
                      st->name, size, QED_HEADER_BYTES);
  if (qed_header_decode (buf, st->name, h) == -1 ||
      qed_header_validate (h, (uint64_t) size, st->name) == -1)
    return -1;

  *file_size = (uint64_t) size;
  name = NULL;
  if (h->features & QED_F_BACKING_FILE) {
    name = read_backing_name (st, h);
    if (name == NULL)
      return -1;
  }
  if (backing)
    *backing = name;
  else
    free (name);
  return 0;
}

int
qed_read_header (struct qed_storage *st, struct qed_header *h, char **backing)
{
  uint64_t file_size;

  return read_header (st, h, backing, &file_size);
}

int
qed_write_header (struct qed_storage *st, const struct qed_header *h)
{
  uint8_t buf[QED_HEADER_BYTES];

  qed_header_encode (h, buf);
  return qed_storage_write (st, buf, sizeof buf, 0);
}

struct qed_image *
qed_open_overlay (struct qed_storage *st, struct qed_backing *backing,
                  size_t cache_size)
{
  struct qed_image *img;
  uint64_t file_end;

  if (cache_size < QED_MIN_CACHE_SIZE) {
    qed_error (EINVAL, "%s: cache size %zu: must be at least %zu bytes",
               st->name, cache_size, QED_MIN_CACHE_SIZE);
    return NULL;
  }
  img = calloc (1, sizeof *img);
  if (img == NULL) {
    qed_error (errno, "%s: %m", st->name);
    return NULL;
  }

  if (read_header (st, &img->h, NULL, &file_end) == -1)
    goto err;
  qed_geometry_init (&img->g, &img->h);
  file_end &= ~(img->g.cluster_size - 1);
  img->table = qed_table_new (st, &img->g, file_end, cache_size);
  if (img->table == NULL)
    goto err;
  pthread_mutex_init (&img->writer_lock, NULL);
  qed_stretch_init (&img->data);
  img->st = st;
  img->backing = backing;
  img->overlay = backing || img->h.features & QED_F_BACKING_FILE;
  return img;

 err:
  free (img);
  return NULL;
}

struct qed_image *
qed_open (struct qed_storage *st, size_t cache_size)
{
  struct qed_image *img = qed_open_overlay (st, NULL, cache_size);

  if (img && img->overlay) {
    img->st = NULL; /* stays the caller's */
    qed_close (img);
    qed_error (ENOTSUP, "%s: header: features 0x%" PRIx64 ": the image has "
               "a backing file, without which it can't be read", st->name,
               QED_F_BACKING_FILE);
    return NULL;
  }
  return img;
}

int
qed_close (struct qed_image *img)
{
  int r = 0, err;

  if (img == NULL)
    return 0;
  if (img->writer)
    r = qed_writer_close (img);
  err = errno;
  qed_table_free (img->table);
  qed_stretch_destroy (&img->data);
  pthread_mutex_destroy (&img->writer_lock);
  qed_storage_close (img->st);
  qed_backing_close (img->backing);
  free (img);
  errno = err;
  return r;
}

const struct qed_header *
qed_get_header (const struct qed_image *img)
{
  return &img->h;
}

const char *
qed_get_name (const struct qed_image *img)
{
  return img->st->name;
}

bool
qed_is_rotational (const struct qed_image *img)
{
  return img->st->rotational || (img->backing && img->backing->rotational);
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

/* ---- reading ---- */

/* How much of LENGTH bytes at OFFSET is there in the backing file? */
static uint64_t
length_below (const struct qed_image *img, uint64_t offset, uint64_t length)
{
  uint64_t size = img->backing ? img->backing->size : 0;

  return offset >= size ? 0 : size - offset < length ? size - offset : length;
}

int
qed_pread_below (struct qed_image *img, void *buf, size_t count,
                 uint64_t offset)
{
  size_t n = length_below (img, offset, count);

  if (n > 0 && img->backing->ops->pread (img->backing, buf, n, offset) == -1)
    return -1;
  memset ((char *) buf + n, 0, count - n);
  return 0;
}

int
qed_pread (struct qed_image *img, void *buf, size_t count, uint64_t offset)
{
  if (qed_check_range (img, offset, count) == -1)
    return -1;

  while (count > 0) {
    struct qed_run run;
    int r = qed_map (img, offset, count, &run);

    if (r == -1)
      return -1;
    switch (run.type) {
    case QED_RUN_UNALLOCATED:
      r = qed_pread_below (img, buf, run.length, offset);
      break;
    case QED_RUN_ZERO:
      memset (buf, 0, run.length);
      break;
    case QED_RUN_DATA:
      r = qed_storage_read (img->st, buf, run.length, run.file_offset);
      break;
    case QED_RUN_UNSOUND:
      if (img->salvage)
        memset (buf, 0, run.length);
      else
        r = qed_unsound_error (img, offset);
      break;
    }
    if (r == -1)
      return -1;
    buf = (char *) buf + run.length;
    count -= run.length;
    offset += run.length;
  }
  return 0;
}

static int
prefetch_run (struct qed_image *img, const struct qed_run *run,
              uint64_t offset)
{
  uint64_t n;

  switch (run->type) {
  case QED_RUN_DATA:
    return qed_storage_prefetch (img->st, run->file_offset, run->length);
  case QED_RUN_UNALLOCATED:
    n = length_below (img, offset, run->length);
    return n == 0 ? 0 :
      img->backing->ops->prefetch (img->backing, offset, n);
  default:
    return 0; /* about unsound clusters it's the reader who needs to hear */
  }
}

int
qed_prefetch (struct qed_image *img, uint64_t offset, uint64_t length)
{
  if (qed_check_range (img, offset, length) == -1)
    return -1;

  while (length > 0) {
    struct qed_run run;

    if (qed_map (img, offset, length, &run) == -1 ||
        prefetch_run (img, &run, offset) == -1)
      return -1;
    offset += run.length;
    length -= run.length;
  }
  return 0;
}

/* ---- extents ---- */

int
qed_extents_below (struct qed_image *img, uint64_t offset, uint64_t length,
                   qed_extent_fn *fn, void *opaque)
{
  struct qed_collector c = { .fn = fn, .opaque = opaque, .offset = offset };
  uint64_t n = length_below (img, offset, length);

  if (n > 0 && img->backing->ops->extents (img->backing, offset, n,
                                           qed_collect_extent, &c) == -1)
    return -1;
  if (n < length)
    qed_collect (&c, length - n, true);
  return qed_collect_end (&c);
}

int
qed_extents (struct qed_image *img, uint64_t offset, uint64_t length,
             qed_extent_fn *fn, void *opaque)
{
  struct qed_collector c = { .fn = fn, .opaque = opaque, .offset = offset };

  if (qed_check_range (img, offset, length) == -1)
    return -1;

  while (c.r == 0 && length > 0) {
    struct qed_run run;

    if (qed_map (img, offset, length, &run) == -1)
      return -1;
    if (run.type == QED_RUN_DATA)
      qed_collect_file (&c, img->st, &img->data, run.file_offset, run.length);
    else if (run.type == QED_RUN_UNALLOCATED && img->backing) {
      if (qed_extents_below (img, offset, run.length, qed_collect_extent,
                             &c) == -1)
        return -1;
    }
    else
      qed_collect (&c, run.length,
                   run.type != QED_RUN_UNSOUND || img->salvage);
    offset += run.length;
    length -= run.length;
  }
  return qed_collect_end (&c);
}
