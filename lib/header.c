/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The header of an image file: the 64 bytes and the name of the backing file,
 * with I/O.  What they mean: format.c.
 *
 * I9: the header is validated against the length of the file, taken at the
 * same time, before anything that it says is used.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "format.h"
#include "header.h"
#include "storage.h"

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

int
qed_read_header_of (struct qed_storage *st, struct qed_header *h,
                    char **backing, uint64_t *file_size)
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

  return qed_read_header_of (st, h, backing, &file_size);
}

int
qed_write_header (struct qed_storage *st, const struct qed_header *h)
{
  uint8_t buf[QED_HEADER_BYTES];

  qed_header_encode (h, buf);
  return qed_storage_write (st, buf, sizeof buf, 0);
}
