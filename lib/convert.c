/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Converting a disk: what it is written to.
 *
 * A target is a sink (copy-disk.h), and what is to be done when all is written:
 *
 *     new file     gets its name when it is durable (new-file.c); zeros are
 *                  left out
 *     device,      is overwritten; zeros are written, in the quickest way
 *     existing
 *     image        a new one in one of these, or an existing one; written in
 *                  the order of the disk, so that its clusters are, too; zeros
 *                  are left out if unallocated clusters read as such
 *     stdout       written in order; zeros are written
 *
 * The source stays the caller's, and is only read (I10): a target that is a part
 * of it, or of the new image's backing file, is refused.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "copy-disk.h"
#include "error.h"
#include "image.h"
#include "storage.h"
#include "writer.h"

struct target {
  struct qed_sink sink;
  struct qed_sink_ops ops;
  struct qed_storage *st;       /* owned, unless IMG is not NULL; or NULL */
  struct qed_image *img;        /* owned, and ST is its storage; or NULL */
  bool new_file;                /* to be published */
};

/* Tables are read and written in order, so few are needed. */
#define CACHE_SIZE ((size_t) 8 << 20)

/* ---- sinks ---- */

static struct target *
target_of (struct qed_sink *s)
{
  return (struct target *) s;
}

static int
write_raw (struct qed_sink *s, const void *buf, size_t count, uint64_t offset)
{
  return qed_storage_write (target_of (s)->st, buf, count, offset);
}

static int
zero_raw (struct qed_sink *s, uint64_t offset, uint64_t length)
{
  return qed_storage_clear (target_of (s)->st, offset, length);
}

static int
write_image (struct qed_sink *s, const void *buf, size_t count,
             uint64_t offset)
{
  return qed_pwrite (target_of (s)->img, buf, count, offset, 0);
}

static int
zero_image (struct qed_sink *s, uint64_t offset, uint64_t length)
{
  return qed_zero (target_of (s)->img, length, offset, QED_MAY_TRIM);
}

static int
write_stdout (struct qed_sink *s, const void *buf, size_t count,
              uint64_t offset)
{
  const char *p = buf;

  while (count > 0) {
    ssize_t r = write (STDOUT_FILENO, p, count);

    if (r == -1 && errno == EINTR)
      continue;
    if (r <= 0)
      return qed_error (r == 0 ? EIO : errno, "%s: write at %" PRIu64 ": %m",
                        s->name, offset);
    p += r;
    count -= (size_t) r;
    offset += (uint64_t) r;
  }
  return 0;
}

static int
zero_stdout (struct qed_sink *s, uint64_t offset, uint64_t length)
{
  static const char zeros[65536];

  for (uint64_t n; length > 0; length -= n, offset += n) {
    n = length < sizeof zeros ? length : sizeof zeros;
    if (write_stdout (s, zeros, n, offset) == -1)
      return -1;
  }
  return 0;
}

static const struct qed_sink_ops raw_ops = {
  .write = write_raw, .zero = zero_raw,
};
static const struct qed_sink_ops image_ops = {
  .write = write_image, .zero = zero_image, .ordered = true,
};
static const struct qed_sink_ops stdout_ops = {
  .write = write_stdout, .zero = zero_stdout, .ordered = true,
};

/* ---- opening ---- */

/* Is B, or what is below it, read from ST (a file, or NULL) or the NBD server
 * URI?
 */
static bool
reads_from (const struct qed_backing *b, const struct qed_storage *st,
            const char *uri)
{
  while (b) {
    if (st ? b->device == st->device && b->inode == st->inode :
        strcmp (b->name, uri) == 0)
      return true;
    b = b->image ? b->image->backing : NULL;
  }
  return false;
}

/* Locks don't tell: the source may be open without, raw backing files may be
 * written elsewhere, and servers have none.
 */
static int
refuse_same (const char *name, const struct qed_backing *b,
             const struct qed_backing *backing)
{
  const bool uri = qed_is_nbd_uri (name);
  struct qed_storage *st = uri ? NULL : qed_storage_find (name);
  const char *what = NULL;

  if (uri || st)
    what = reads_from (b, st, name) ? "source" :
      reads_from (backing, st, name) ? "backing file" : NULL;
  qed_storage_close (st);
  return what == NULL ? 0 :
    qed_error (EBUSY, "%s: is read, as part of the %s, and can't be the target "
               "too", name, what);
}

/* A target that stays the file that it is, for writing, but for an image. */
static struct qed_storage *
open_existing (const char *name)
{
  struct qed_storage *st = qed_storage_find_named (name);
  int err;

  if (st && st->fixed_size && qed_storage_is_file (st)) {
    qed_storage_close (st);     /* opened so that it can't be mounted */
    return qed_storage_create (name);
  }
  if (st == NULL)
    return NULL;
  if (qed_storage_begin (st) == 0 &&
      qed_storage_lock (st, QED_READS_RAW) == 0 &&
      (st->ops->make_writable == NULL || st->ops->make_writable (st) == 0))
    return st;
  err = errno;
  qed_storage_close (st);
  errno = err;
  return NULL;
}

/* A raw target must have room for SIZE bytes. */
static int
prepare_raw (struct target *t, uint64_t size,
             const struct qed_convert_options *opts)
{
  int64_t room;

  t->ops = raw_ops;
  if (t->new_file || opts->target_is_zero)
    t->ops.zero = NULL;
  if (t->new_file)
    return qed_storage_resize (t->st, size);
  room = qed_storage_size (t->st);
  if (room == -1 || (uint64_t) room >= size)
    return room == -1 ? -1 : 0;
  return qed_error (ENOSPC, "%s: has %" PRIi64 " bytes, and the disk %" PRIu64
                    ": make it larger first", t->sink.name, room, size);
}

/* The image in T->img gets the disk. */
static int
prepare_image (struct target *t, uint64_t size,
               const struct qed_convert_options *opts)
{
  const struct qed_write_options write = { .idle_ms = 0 };

  t->ops = image_ops;
  if ((!opts->existing || opts->target_is_zero) && !t->img->overlay)
    t->ops.zero = NULL;
  if (t->img->g.image_size < size)
    return qed_error (ENOSPC, "%s: the disk in it has %" PRIu64 " bytes, and "
                      "the one to be copied %" PRIu64 ": resize it first",
                      t->sink.name, t->img->g.image_size, size);
  return qed_make_writable (t->img, &write) == 0 ? 0 : -1;
}

static int
layers_of (const struct qed_backing *b)
{
  int n = 0;

  for (; b; b = b->image ? b->image->backing : NULL)
    n++;
  return n;
}

static int
create_image (struct target *t, uint64_t size,
              const struct qed_convert_options *opts,
              struct qed_backing **backing)
{
  struct qed_create_options create = *opts->create;

  create.image_size = size;
  if (layers_of (*backing) == QED_MAX_CHAIN)
    return qed_error (EINVAL, "%s: backing file: %s: has a chain of %d layers "
                      "already: merge some of them first", t->sink.name,
                      (*backing)->name, QED_MAX_CHAIN);
  if (qed_create_in (t->st, &create) == -1)
    return -1;
  t->img = qed_open_overlay (t->st, *backing, CACHE_SIZE);
  if (t->img == NULL)
    return -1;
  *backing = NULL;
  return prepare_image (t, size, opts);
}

static int
open_image (struct target *t, uint64_t size,
            const struct qed_convert_options *opts)
{
  t->img = qed_open_chain (t->sink.name, opts->chain);
  if (t->img == NULL)
    return -1;
  t->st = t->img->st;
  return prepare_image (t, size, opts);
}

static int
open_target (struct target *t, const struct qed_backing *b, uint64_t size,
             const struct qed_convert_options *opts,
             struct qed_backing **backing)
{
  const char *name = t->sink.name;

  if (strcmp (name, "-") == 0) {
    t->sink.name = "standard output";
    t->ops = stdout_ops;
    return 0;
  }
  if (refuse_same (name, b, *backing) == -1)
    return -1;
  if (opts->qed && opts->existing)
    return open_image (t, size, opts);
  t->st = opts->existing ? open_existing (name) : qed_storage_create (name);
  if (t->st == NULL)
    return -1;
  t->new_file = !opts->existing && !t->st->fixed_size;
  return opts->qed ? create_image (t, size, opts, backing) :
    prepare_raw (t, size, opts);
}

/* ---- the end ---- */

/* Pipes, for instance, can't be synced. */
static int
sync_stdout (const struct target *t)
{
  if (fdatasync (STDOUT_FILENO) == -1 && errno != EINVAL && errno != EROFS &&
      errno != ENOTSUP)
    return qed_error (errno, "%s: sync: %m", t->sink.name);
  return 0;
}

/* All is written: make it durable, and give a new file its name. */
static int
complete_target (struct target *t)
{
  if (t->st == NULL)
    return sync_stdout (t);
  if (t->img ? qed_flush (t->img) == -1 ||
      qed_clear_need_check (t->img, true) == -1 :
      qed_storage_sync (t->st) == -1)
    return -1;
  return t->new_file ? qed_storage_publish (t->st) : 0;
}

/* R says whether something has failed before.  A new file that wasn't published
 * is removed.
 */
static int
close_target (struct target *t, int r)
{
  const int err = errno;
  char *why = r == -1 ? strdup (qed_get_error ()) : NULL;
  int closed = 0;

  if (t->img)
    closed = qed_close (t->img);
  else
    qed_storage_close (t->st);
  if (r == 0)
    return closed;
  qed_error (err, "%s", why ? why : "");
  free (why);
  return -1;
}

int
qed_convert (struct qed_backing *b, const char *name,
             const struct qed_convert_options *opts)
{
  const uint64_t sector = QED_SECTOR_SIZE - 1;
  const uint64_t size = opts->qed ? (b->size + sector) & ~sector : b->size;
  struct target t = { .sink = { .ops = &t.ops, .name = name } };
  struct qed_backing *backing = opts->backing;
  int r;

  r = opts->unreadable || b->image == NULL ? 0 :
    qed_refuse_shared_tables (b->image);
  if (r == 0)
    r = open_target (&t, b, size, opts, &backing);
  if (r == 0)
    r = qed_copy_disk (b, size, &t.sink, opts);
  if (r == 0)
    r = complete_target (&t);
  r = close_target (&t, r);
  qed_backing_close (backing);
  return r;
}
