/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* New images, laid out as QEMU does it (QED-FORMAT.md, How QEMU behaves): one
 * header cluster (two if the backing file's name needs that), the L1 table
 * after it, and the name right after the header's fields.  The L1 table, which
 * is all zeros, is left a hole (I2).
 *
 * Storage of a fixed size, such as a block device, may hold an old image, or
 * anything.  There the old header goes first, then all but the first sector of
 * the new image is made, and that sector comes last; each step is durable
 * before the next.  So a crash leaves the old image, no image, or the new one.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "create.h"
#include "error.h"
#include "format.h"
#include "storage.h"

/* Called before qed_header_validate, whose message would have no advice. */
static int
check_size (const struct qed_header *h, const struct qed_geometry *g,
            const char *name)
{
  char advice[QED_ADVICE_BYTES];
  uint64_t max = qed_max_image_size (g);

  if (h->image_size <= max)
    return 0;
  return qed_error (EINVAL, "%s: image_size %" PRIu64 ": must be at most %"
                    PRIu64 " with cluster_size %" PRIu32 " and table_size %"
                    PRIu32 ": make it with larger clusters or tables: %s",
                    name, h->image_size, max, h->cluster_size, h->table_size,
                    qed_advise_geometry (h, h->image_size, advice));
}

int
qed_make_header (const struct qed_create_options *opts, const char *name,
                 struct qed_header *h)
{
  struct qed_geometry g;

  *h = (struct qed_header) {
    .cluster_size = opts->cluster_size ? : QED_DEFAULT_CLUSTER_SIZE,
    .table_size = opts->table_size ? : QED_DEFAULT_TABLE_SIZE,
    .header_size = 1,
  };
  if (qed_header_check_sizes (h, name) == -1)
    return -1;
  if (opts->image_size > QED_MAX_IMAGE_SIZE)
    return qed_error (EINVAL, "%s: image_size %" PRIu64
                      ": must be at most %" PRIu64,
                      name, opts->image_size, QED_MAX_IMAGE_SIZE);
  h->image_size = (opts->image_size + QED_SECTOR_SIZE - 1) &
    ~(uint64_t) (QED_SECTOR_SIZE - 1);

  if (opts->backing) {
    size_t len = strlen (opts->backing);

    h->features = QED_F_BACKING_FILE |
      (opts->backing_raw ? QED_F_BACKING_FORMAT_NO_PROBE : 0);
    h->backing_filename_offset = QED_HEADER_BYTES;
    h->backing_filename_size = len < UINT32_MAX ? (uint32_t) len : UINT32_MAX;
    /* The longest name may need a second cluster of 4 KiB. */
    if (QED_HEADER_BYTES + len > h->cluster_size)
      h->header_size = 2;
  }
  h->l1_table_offset = h->header_size * h->cluster_size;

  qed_geometry_init (&g, h);
  if (check_size (h, &g, name) == -1)
    return -1;
  return qed_header_validate (h, g.l1_offset + g.table_bytes, name);
}

/* Write the image into a file.  The header is written last, so that an
 * unfinished file is no image.
 */
static int
write_file (struct qed_storage *st, const struct qed_geometry *g,
            const uint8_t *buf, size_t count)
{
  return qed_storage_resize (st, g->l1_offset + g->table_bytes) == -1 ||
    qed_storage_write (st, buf, count, 0) == -1 ? -1 : qed_storage_sync (st);
}

/* Write the image into storage of a fixed size. */
static int
write_device (struct qed_storage *st, const struct qed_geometry *g,
              const uint8_t *buf, size_t count)
{
  static const uint8_t zeros[QED_SECTOR_SIZE];
  const uint64_t end = g->l1_offset + g->table_bytes;
  const size_t first = count < QED_SECTOR_SIZE ? count : QED_SECTOR_SIZE;
  int64_t size = qed_storage_size (st);

  if (size == -1)
    return -1;
  if ((uint64_t) size < end)
    return qed_error (ENOSPC, "%s: has %" PRIi64 " bytes: the image's header "
                      "and L1 table need %" PRIu64 ", and its data needs more",
                      st->name, size, end);
  return qed_storage_write (st, zeros, sizeof zeros, 0) == -1 ||
    qed_storage_sync (st) == -1 ||
    qed_storage_clear (st, 0, end) == -1 ||
    qed_storage_write (st, buf + first, count - first, first) == -1 ||
    qed_storage_sync (st) == -1 ||
    qed_storage_write (st, buf, first, 0) == -1 ? -1 : qed_storage_sync (st);
}

int
qed_create_in (struct qed_storage *st, const struct qed_create_options *opts)
{
  struct qed_header h;
  struct qed_geometry g;
  uint8_t buf[QED_HEADER_BYTES + QED_MAX_BACKING_FILENAME];

  if (qed_make_header (opts, st->name, &h) == -1)
    return -1;
  qed_geometry_init (&g, &h);
  qed_header_encode (&h, buf);
  if (opts->backing)
    memcpy (buf + QED_HEADER_BYTES, opts->backing, h.backing_filename_size);

  return (st->fixed_size ? write_device : write_file)
    (st, &g, buf, QED_HEADER_BYTES + h.backing_filename_size);
}

/* What an NBD server exports, open for writing. */
static struct qed_storage *
open_export (const char *uri)
{
  struct qed_storage *st = qed_storage_open_uri (uri);
  int err;

  if (st && st->ops->make_writable (st) == -1) {
    err = errno;
    qed_storage_close (st);
    errno = err;
    return NULL;
  }
  return st;
}

int
qed_create (const char *name, const struct qed_create_options *opts)
{
  const bool uri = qed_is_nbd_uri (name);
  struct qed_storage *st = uri ? open_export (name) :
    qed_storage_create (name);
  int r, err;

  if (st == NULL)
    return -1;
  r = qed_create_in (st, opts);
  if (r == 0 && !uri)
    r = qed_storage_publish (st);
  err = errno;
  qed_storage_close (st);
  errno = err;
  return r;
}
