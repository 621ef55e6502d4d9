/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Opening and closing an image: the one place that knows all parts of it.
 *
 * The length of the file is taken once, at open: only the library itself
 * extends it.  If another process cuts the file, reads fail with EIO
 * (storage.c), and writes do at the next flush (space.c).
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "error.h"
#include "format.h"
#include "header.h"
#include "image.h"
#include "storage.h"
#include "table.h"
#include "writer.h"

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

  if (qed_read_header_of (st, &img->h, NULL, &file_end) == -1)
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
  img->rotational = st->rotational || (backing && backing->rotational);
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

void
qed_drop_backing (struct qed_image *img)
{
  struct qed_backing *b = atomic_exchange (&img->backing, NULL);

  /* Those that are left wait for I/O. */
  while (atomic_load (&img->users) > 0)
    usleep (1000);
  qed_backing_close (b);
}

void
qed_interrupt (struct qed_image *img)
{
  struct qed_backing *b = qed_enter_backing (img);

  qed_backing_interrupt (b);
  if (b)
    qed_leave_backing (img);
}

int
qed_after_fork (struct qed_image *img, bool forked)
{
  struct qed_writer *w = img->writer;

  if (forked && img->st->ops->after_fork)
    img->st->ops->after_fork (img->st);
  return w && w->idle_ms > 0 && !w->has_thread ? qed_writer_start (img) : 0;
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
  return img->rotational;
}
