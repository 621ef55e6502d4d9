/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The storage operations, called so that they do everything or fail with a
 * message.
 *
 * Above are the library's modules.  Below is struct qed_storage_ops, whose
 * operations look like system calls, so that tests can put faults or a
 * recorder there.  Here are the loops between the two: over short transfers
 * and over EINTR.
 *
 * Nothing here has state or takes a lock: any of these functions may run in
 * parallel.  What kind of storage it is, this file doesn't know.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>

#include "error.h"
#include "storage.h"

/* An operation has failed.  Leave a message, if it hasn't. */
#define FAILED(st, err, ...)                            \
  ((st)->explains ? -1 : qed_error (err, __VA_ARGS__))

int
qed_storage_read (struct qed_storage *st, void *buf, size_t count,
                  uint64_t offset)
{
  while (count > 0) {
    ssize_t r = st->ops->pread (st, buf, count, offset);

    if (r == -1 && errno == EINTR)
      continue;
    if (r == -1)
      return FAILED (st, errno, "%s: read of %zu bytes at %" PRIu64 ": %m",
                     st->name, count, offset);
    if (r == 0)
      return qed_error (EIO, "%s: read of %zu bytes at %" PRIu64
                        ": the file has been cut short while in use",
                        st->name, count, offset);
    buf = (char *) buf + r;
    count -= (size_t) r;
    offset += (uint64_t) r;
  }
  return 0;
}

int
qed_storage_write (struct qed_storage *st, const void *buf, size_t count,
                   uint64_t offset)
{
  while (count > 0) {
    ssize_t r = st->ops->pwrite (st, buf, count, offset);

    if (r == -1 && errno == EINTR)
      continue;
    if (r <= 0)
      return FAILED (st, r == 0 ? EIO : errno,
                     "%s: write of %zu bytes at %" PRIu64 ": %m",
                     st->name, count, offset);
    buf = (const char *) buf + r;
    count -= (size_t) r;
    offset += (uint64_t) r;
  }
  return 0;
}

/* Holes in a file begin and end at multiples of this, mostly. */
#define BLOCK ((size_t) 4096)

/* Does the block at I, of COUNT bytes in all, read as zeros? */
static bool
is_zero_block (const uint8_t *buf, size_t count, size_t i)
{
  return qed_is_zero (buf + i, count - i < BLOCK ? count - i : BLOCK);
}

int
qed_storage_write_sparse (struct qed_storage *st, const uint8_t *buf,
                          size_t count, uint64_t offset)
{
  for (size_t i = 0, end; i < count; i = end) {
    const bool zero = is_zero_block (buf, count, i);

    end = i + BLOCK;
    while (end < count && is_zero_block (buf, count, end) == zero)
      end += BLOCK;
    if (end > count)
      end = count;
    if (!zero && qed_storage_write (st, buf + i, end - i, offset + i) == -1)
      return -1;
  }
  return 0;
}

int
qed_storage_writev (struct qed_storage *st, struct iovec *iov, int iovcnt,
                    uint64_t offset)
{
  while (iovcnt > 0) {
    ssize_t r = st->ops->pwritev (st, iov, iovcnt, offset);

    if (r == -1 && errno == EINTR)
      continue;
    if (r <= 0)
      return FAILED (st, r == 0 ? EIO : errno, "%s: write at %" PRIu64 ": %m",
                     st->name, offset);
    offset += (uint64_t) r;
    for (; iovcnt > 0 && (size_t) r >= iov->iov_len; ++iov, --iovcnt)
      r -= (ssize_t) iov->iov_len;
    if (iovcnt > 0) {
      iov->iov_base = (char *) iov->iov_base + r;
      iov->iov_len -= (size_t) r;
    }
  }
  return 0;
}

int64_t
qed_storage_size (struct qed_storage *st)
{
  int64_t r;

  do
    r = st->ops->get_size (st);
  while (r == -1 && errno == EINTR);
  if (r == -1)
    return FAILED (st, errno, "%s: length of the file: %m", st->name);
  return r;
}

int
qed_storage_resize (struct qed_storage *st, uint64_t size)
{
  int r;

  do
    r = st->ops->resize (st, size);
  while (r == -1 && errno == EINTR);
  if (r == -1)
    return FAILED (st, errno, "%s: change of length to %" PRIu64 ": %m",
                   st->name, size);
  return 0;
}

int
qed_storage_sync (struct qed_storage *st)
{
  int r;

  /* An interrupted sync hasn't reported anything yet.  After any other failure
   * a second sync must not be tried, because it would seem to succeed.
   */
  do
    r = st->ops->sync (st);
  while (r == -1 && errno == EINTR);
  if (r == -1)
    return FAILED (st, errno, "%s: sync: %m", st->name);
  return 0;
}

/* Leave the message about a failed operation on a range. */
static int
range_error (struct qed_storage *st, const char *what, uint64_t offset,
             uint64_t length)
{
  return FAILED (st, errno, "%s: %s of %" PRIu64 " bytes at %" PRIu64 ": %m",
                 st->name, what, length, offset);
}

int
qed_storage_punch (struct qed_storage *st, uint64_t offset, uint64_t length)
{
  int r;

  do
    r = st->ops->punch (st, offset, length);
  while (r == -1 && errno == EINTR);
  return r == -1 ? range_error (st, "hole", offset, length) : 0;
}

int
qed_storage_zero (struct qed_storage *st, uint64_t offset, uint64_t length)
{
  int r;

  do
    r = st->ops->zero (st, offset, length);
  while (r == -1 && errno == EINTR);
  return r == -1 ? range_error (st, "zero", offset, length) : 0;
}

int
qed_storage_discard (struct qed_storage *st, uint64_t offset, uint64_t length)
{
  int r = -1;

  errno = EOPNOTSUPP;
  if (st->ops->discard)
    do
      r = st->ops->discard (st, offset, length);
    while (r == -1 && errno == EINTR);
  if (r == 0 || errno != EOPNOTSUPP)
    return r == -1 ? range_error (st, "discard", offset, length) : 0;
  return qed_storage_punch (st, offset, length);
}

int
qed_storage_clear (struct qed_storage *st, uint64_t offset, uint64_t length)
{
  static uint8_t zeros[1 << 18]; /* not const, so in .bss */
  int r = 0;

  if (length > 0)
    r = qed_storage_punch (st, offset, length);
  if (r == -1 && errno == EOPNOTSUPP)
    r = qed_storage_zero (st, offset, length);
  if (r == -1 && errno == EOPNOTSUPP)
    for (r = 0; r == 0 && length > 0; ) {
      uint64_t n = length < sizeof zeros ? length : sizeof zeros;

      r = qed_storage_write (st, zeros, n, offset);
      offset += n;
      length -= n;
    }
  return r;
}

int
qed_storage_prefetch (struct qed_storage *st, uint64_t offset,
                      uint64_t length)
{
  return st->ops->prefetch (st, offset, length) == -1 ?
    range_error (st, "prefetch", offset, length) : 0;
}

void
qed_storage_close (struct qed_storage *st)
{
  if (st != NULL)
    st->ops->close (st);
}
