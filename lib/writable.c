/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* From reading to writing, and back.
 *
 * An image is opened for reading.  It becomes writable with the first call of
 * qed_make_writable, in this order: the storage is opened for writing and the
 * writer's locks are taken; the header is read again; an image marked
 * NEED_CHECK is checked, and refused if a repair could lose anything; unknown
 * autoclear bits are cleared; the image is repaired; the table cache starts
 * afresh.  So a refusal changes nothing.
 *
 * At close everything is committed and durable, and an image in order is
 * marked as clean (I6).
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>

#include "check.h"
#include "error.h"
#include "header.h"
#include "image.h"
#include "storage.h"
#include "table.h"
#include "writer.h"

/* Read the header again, now that the locks keep other processes from changing
 * it.  None should have changed it before.
 */
static int
reread_header (struct qed_image *img, struct qed_writer *w,
               uint64_t *file_size)
{
  const struct qed_header *was = &img->h;
  struct qed_header *h = &w->h;
  int64_t size;

  if (qed_read_header (img->st, h, NULL) == -1)
    return -1;
  if (h->cluster_size != was->cluster_size ||
      h->table_size != was->table_size ||
      h->header_size != was->header_size ||
      h->l1_table_offset != was->l1_table_offset ||
      h->image_size != was->image_size ||
      (h->features ^ was->features) & ~QED_F_NEED_CHECK)
    return qed_error (EBUSY, "%s: another process has changed the image's "
                      "header since it was opened: open it again",
                      img->st->name);
  size = qed_storage_size (img->st);
  if (size == -1)
    return -1;
  *file_size = (uint64_t) size;
  return 0;
}

/* An image marked NEED_CHECK: nothing is written if that can't be repaired. */
static int
check (struct qed_image *img, struct qed_writer *w, uint64_t file_size,
       bool allowed, struct qed_check_result *result)
{
  uint64_t shared;

  if (!allowed)
    return qed_error (EIO, "%s: header: features 0x%" PRIx64 ": the image is "
                      "marked NEED_CHECK, which means that it was not closed "
                      "cleanly, and check=never forbids to check it: open it "
                      "with check=auto or run qed-img check -r all",
                      img->st->name, w->h.features);
  if (qed_check_tables (img->st, &w->h, file_size, NULL, 0, result) == -1)
    return -1;
  shared = result->damages[QED_DAMAGE_SHARED_TABLE] +
    result->damages[QED_DAMAGE_SHARED_DATA];
  if (shared > 0)
    return qed_error (EIO, "%s: %" PRIu64 " entries point to a table or a "
                      "cluster that is referenced twice: the image is corrupt "
                      "and can only be read: run qed-img check -r all",
                      img->st->name, shared);
  return 0;
}

/* *FILE_SIZE is brought up to date. */
static int
repair (struct qed_image *img, struct qed_writer *w, uint64_t *file_size,
        struct qed_check_result *result)
{
  const uint64_t unsound = result->damages[QED_DAMAGE_UNSOUND];
  const uint64_t in_tables = result->damages[QED_DAMAGE_IN_TABLE];
  const unsigned clear = 1U << QED_DAMAGE_UNSOUND | 1U << QED_DAMAGE_IN_TABLE;

  if (qed_debug)
    qed_debug ("%s: was not closed cleanly: clearing %" PRIu64 " entries "
               "out of range and %" PRIu64 " that point into tables, cutting "
               "%s from %" PRIu64 " to %" PRIu64 " bytes",
               img->st->name, unsound, in_tables, img->st->fixed_size ?
               "what is in use" : "the file", *file_size, result->end);
  if (result->corruptions > 0 &&
      qed_check_tables (img->st, &w->h, *file_size, NULL, clear,
                        result) == -1)
    return -1;
  /* What lies behind on storage of a fixed size may not be zeros. */
  if (!img->st->fixed_size) {
    if (*file_size > result->end &&
        qed_storage_resize (img->st, result->end) == -1)
      return -1;
    *file_size = result->end;
  }
  return qed_storage_sync (img->st);
}

/* All that is needed before the first write, in an order in which refusing
 * changes nothing.
 */
static int
prepare (struct qed_image *img, struct qed_writer *w,
         const struct qed_write_options *opts)
{
  struct qed_check_result result;
  uint64_t file_size = 0, end;
  bool need_check;

  if (reread_header (img, w, &file_size) == -1)
    return -1;
  need_check = w->h.features & QED_F_NEED_CHECK;
  if (need_check && check (img, w, file_size, !opts->no_check, &result) == -1)
    return -1;

  if (w->h.autoclear_features) {
    w->h.autoclear_features = 0; /* none is known */
    if (qed_write_header (img->st, &w->h) == -1 ||
        qed_storage_sync (img->st) == -1)
      return -1;
  }
  if (need_check && repair (img, w, &file_size, &result) == -1)
    return -1;
  w->need_check = need_check ? QED_DIRTY : QED_CLEAN;
  end = file_size & ~(img->g.cluster_size - 1);
  qed_space_begin (&w->space, file_size, need_check ? result.end : end,
                   need_check);
  qed_table_reset (img->table, end);
  if (need_check)
    atomic_store (&img->corrupt, false); /* if something was, it's repaired */
  return 0;
}

static int
open_writer (struct qed_image *img, const struct qed_write_options *opts)
{
  struct qed_storage *st = img->st;
  struct qed_writer *w = qed_writer_new (img);
  int err;

  if (w == NULL)
    return -1;
  if (st->ops->make_writable && st->ops->make_writable (st) == -1) {
    err = errno;
    qed_writer_free (w);
    errno = err;
    return err == EACCES || err == EPERM || err == EROFS ? 1 : -1;
  }
  w->idle_ms = opts->idle_ms;
  w->commit_ms = opts->commit_ms;
  if (prepare (img, w, opts) == -1)
    goto err;
  img->writer = w;
  if (w->idle_ms > 0 && !opts->before_fork && qed_writer_start (img) == -1)
    goto err;
  return 0;

 err:
  err = errno;
  img->writer = NULL;
  qed_writer_free (w);
  if (st->ops->make_readonly)
    st->ops->make_readonly (st);
  errno = err;
  return -1;
}

int
qed_make_writable (struct qed_image *img,
                   const struct qed_write_options *opts)
{
  int r;

  if (img->salvage)
    return qed_error (EROFS, "%s: is open for salvage, so it can only be read",
                      img->st->name);
  pthread_mutex_lock (&img->writer_lock);
  r = img->writer ? 0 : open_writer (img, opts);
  pthread_mutex_unlock (&img->writer_lock);
  return r;
}

int
qed_writer_close (struct qed_image *img)
{
  struct qed_writer *w = img->writer;
  int r, err;

  qed_writer_stop (w);
  if (atomic_load (&w->sync.failed)) {
    (void) qed_storage_sync (img->st); /* for what it may still be good */
    r = qed_check_writable (img);
  }
  else {
    r = qed_clear_need_check (img, true);
    /* Writes in place to a clean image; or what can't be made clean. */
    if (atomic_load (&w->sync.failed) == 0 && qed_sync_all (img) == -1)
      r = -1;
  }
  err = errno;
  img->writer = NULL;
  qed_writer_free (w);
  errno = err;
  return r;
}
