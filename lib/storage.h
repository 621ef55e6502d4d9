/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The storage operations, called so that they do everything or fail with a
 * message (storage.c); opening a file in stages (storage-file.c); and new
 * image files (new-file.c).
 */

#ifndef QED_STORAGE_H
#define QED_STORAGE_H

#include <string.h>

#include "qed.h"

/* Are COUNT bytes (> 0) all zero? */
static inline bool
qed_is_zero (const uint8_t *buf, size_t count)
{
  return buf[0] == 0 && memcmp (buf, buf + 1, count - 1) == 0;
}

/* Read exactly COUNT bytes.  EIO if the file ends before. */
extern int qed_storage_read (struct qed_storage *st, void *buf, size_t count,
                             uint64_t offset);
extern int qed_storage_write (struct qed_storage *st, const void *buf,
                              size_t count, uint64_t offset);

/* The same where the file has zeros: blocks of zeros aren't written, and so may
 * stay holes.
 */
extern int qed_storage_write_sparse (struct qed_storage *st,
                                     const uint8_t *buf, size_t count,
                                     uint64_t offset);

/* The same from several buffers.  IOV is changed. */
extern int qed_storage_writev (struct qed_storage *st, struct iovec *iov,
                               int iovcnt, uint64_t offset);

/* The file's length, in bytes, or -1; set it; make durable all that was
 * written: see qed_storage_ops.  An interrupted call is repeated.
 */
extern int64_t qed_storage_size (struct qed_storage *st);
extern int qed_storage_resize (struct qed_storage *st, uint64_t size);
extern int qed_storage_sync (struct qed_storage *st);

/* EOPNOTSUPP, with a message, if the storage can't. */
extern int qed_storage_punch (struct qed_storage *st, uint64_t offset,
                              uint64_t length);
extern int qed_storage_zero (struct qed_storage *st, uint64_t offset,
                             uint64_t length);

/* Make a range read as zeros: punch, else zero, else written zeros. */
extern int qed_storage_clear (struct qed_storage *st, uint64_t offset,
                              uint64_t length);

extern int qed_storage_prefetch (struct qed_storage *st, uint64_t offset,
                                 uint64_t length);

/* As punch, if discarding can't be had in another way. */
extern int qed_storage_discard (struct qed_storage *st, uint64_t offset,
                                uint64_t length);

/* More of the stages of qed_storage_open: see qed_storage_find.
 *
 * Find what NAME is, or open an NBD export: see qed_storage_open.  The other
 * stages have nothing to do for an export.
 */
extern struct qed_storage *qed_storage_find_named (const char *name);

/* Is ST a file or a device of this machine, as find returns? */
extern bool qed_storage_is_file (const struct qed_storage *st);

/* Is it one whose name is the path of it? */
extern bool qed_storage_has_path (const struct qed_storage *st);

/* The space that is allocated for the file ST, in bytes, or -1. */
extern int64_t qed_storage_space (const struct qed_storage *st);

/* Take the locks of a reader of an image, or of a raw backing file (DESIGN.md,
 * Locking).  EBUSY: there is a conflict, or the name has become that of
 * another file.
 */
enum qed_reader { QED_READS_IMAGE, QED_READS_RAW };
extern int qed_storage_lock (struct qed_storage *st, enum qed_reader reader);

/* Create a file under a temporary name beside PATH, empty and open for
 * writing.  If PATH exists, it is locked as qemu-img create does (EBUSY) until
 * close.  Publish renames the file to PATH and makes the name durable.
 * Closing without publishing removes the file.
 *
 * If PATH is a block device, that is opened, exclusively (EBUSY) and with the
 * same locks, and there is nothing to publish.
 */
extern struct qed_storage *qed_storage_create (const char *path);
extern int qed_storage_publish (struct qed_storage *st);

#endif /* QED_STORAGE_H */
