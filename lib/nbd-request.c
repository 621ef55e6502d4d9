/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Requests to an NBD server, cut to the blocks and lengths that it takes.
 *
 * A server may only take whole blocks of some size.  A part of a block is read
 * with all of it, and written by reading, changing and writing all of it.
 * Meanwhile nobody else may write that block: S->blocks is held for writing
 * then, and for reading by all other requests that change something.  Most
 * servers take single bytes, and then there is no such lock.
 *
 * A last block of the export that isn't whole is read as the server has it.  It
 * isn't written: qed_nbd_pwrite is only called inside whole blocks.
 *
 * What a server says about extents is only believed as far as it makes sense
 * (I9).
 *
 * Connections, and what happens when one is lost, are in nbd-connection.c.
 *
 * Built only if there is libnbd.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "nbd-request.h"

#define MIN(a, b) ((a) < (b) ? (a) : (b))

/* The length of a request for extents, or of zeros, must fit into 32 bits. */
#define MAX_LONG_REQUEST (UINT64_C (1) << 30)

/* ---- one request, which the server takes as it is ---- */

struct args {
  void *buf;
  const void *data;
  uint64_t count, offset;
  uint32_t flags;
  struct nbd_extents *extents;
};

static int64_t
begin_read (struct nbd_handle *h, void *opaque,
            nbd_completion_callback completion)
{
  struct args *a = opaque;

  return nbd_aio_pread (h, a->buf, a->count, a->offset, completion, a->flags);
}

static int64_t
begin_write (struct nbd_handle *h, void *opaque,
             nbd_completion_callback completion)
{
  struct args *a = opaque;

  return nbd_aio_pwrite (h, a->data, a->count, a->offset, completion,
                         a->flags);
}

static int64_t
begin_zero (struct nbd_handle *h, void *opaque,
            nbd_completion_callback completion)
{
  struct args *a = opaque;

  return nbd_aio_zero (h, a->count, a->offset, completion, a->flags);
}

static int64_t
begin_trim (struct nbd_handle *h, void *opaque,
            nbd_completion_callback completion)
{
  struct args *a = opaque;

  return nbd_aio_trim (h, a->count, a->offset, completion, a->flags);
}

static int64_t
begin_flush (struct nbd_handle *h, void *opaque,
             nbd_completion_callback completion)
{
  struct args *a = opaque;

  return nbd_aio_flush (h, completion, a->flags);
}

static int64_t
begin_cache (struct nbd_handle *h, void *opaque,
             nbd_completion_callback completion)
{
  struct args *a = opaque;

  return nbd_aio_cache (h, a->count, a->offset, completion, a->flags);
}

/* Called by libnbd, in any thread that has a request on the connection. */
static int
note_extents (void *opaque, const char *context, uint64_t offset,
              uint32_t *entries, size_t nr_entries,
              int *error __attribute__ ((unused)))
{
  struct nbd_extents *e = opaque;

  if (strcmp (context, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0)
    return 0;
  e->offset = offset;
  e->n = MIN (nr_entries / 2, NBD_MAX_EXTENTS);
  for (size_t i = 0; i < e->n; ++i) {
    e->extents[i].length = entries[2 * i];
    e->extents[i].zero = (entries[2 * i + 1] & LIBNBD_STATE_ZERO) != 0;
  }
  return 0;
}

static int64_t
begin_extents (struct nbd_handle *h, void *opaque,
               nbd_completion_callback completion)
{
  struct args *a = opaque;
  const nbd_extent_callback note = {
    .callback = note_extents, .user_data = a->extents,
  };

  return nbd_aio_block_status (h, a->count, a->offset, note, completion,
                               a->flags);
}

/* A request on C, which was taken for it, or is NULL with a message. */
static int
request_on (struct nbd_server *s, struct nbd_conn *c, qed_nbd_begin_fn *begin,
            struct args *a, const char *what, bool writes)
{
  int r;

  if (c == NULL)
    return -1;
  r = qed_nbd_do (s, c, begin, a, what, a->offset);
  qed_nbd_give_back (s, c, writes, writes && r == 0);
  return r;
}

static int
request (struct nbd_server *s, qed_nbd_begin_fn *begin, struct args *a,
         const char *what, bool writes)
{
  return request_on (s, qed_nbd_take (s, writes), begin, a, what, writes);
}

/* ---- blocks ---- */

static uint64_t
in_block (const struct nbd_server *s)
{
  return s->offer.min_block - 1;
}

/* A buffer with the block that OFFSET is in.  *START and *LENGTH say where it
 * is.  To be freed.
 */
static uint8_t *
read_block (struct nbd_server *s, uint64_t offset, uint64_t *start,
            uint64_t *length)
{
  struct args a = { .offset = offset & ~in_block (s) };

  a.count = MIN (s->offer.min_block, s->offer.size - a.offset);
  a.buf = malloc (a.count);
  if (a.buf == NULL) {
    qed_error (errno, "%s: %m", s->name);
    return NULL;
  }
  if (request (s, begin_read, &a, "read", false) == -1) {
    int err = errno;

    free (a.buf);
    errno = err;
    return NULL;
  }
  *start = a.offset;
  *length = a.count;
  return a.buf;
}

/* How much of a range that begins with whole blocks, and has COUNT bytes, may
 * be one request of at most MAX bytes?  0: it begins or ends inside a block.
 */
static uint64_t
whole_blocks (const struct nbd_server *s, uint64_t count, uint64_t offset,
              uint64_t max)
{
  return offset & in_block (s) ? 0 :
    MIN (count & ~in_block (s), max & ~in_block (s));
}

/* ---- reading ---- */

/* Read the part of the range that is in its first block.  Returns its length,
 * or -1.
 */
static ssize_t
read_in_block (struct nbd_server *s, void *buf, uint64_t count,
               uint64_t offset)
{
  uint64_t start, length, n;
  uint8_t *block = read_block (s, offset, &start, &length);

  if (block == NULL)
    return -1;
  n = MIN (count, start + length - offset);
  memcpy (buf, block + (offset - start), n);
  free (block);
  return (ssize_t) n;
}

int
qed_nbd_pread (struct nbd_server *s, void *buf, uint64_t count,
               uint64_t offset)
{
  while (count > 0) {
    struct args a = { .buf = buf, .offset = offset };
    uint64_t n = a.count = whole_blocks (s, count, offset,
                                         s->offer.max_request);

    if (n == 0) {
      ssize_t r = read_in_block (s, buf, count, offset);

      if (r == -1)
        return -1;
      n = (uint64_t) r;
    }
    else if (request (s, begin_read, &a, "read", false) == -1)
      return -1;
    buf = (uint8_t *) buf + n;
    count -= n;
    offset += n;
  }
  return 0;
}

/* ---- writing ---- */

/* Write the part of the range that is in its first block: DATA, or zeros if
 * that is NULL.  Returns its length, or -1.
 */
static ssize_t
write_in_block (struct nbd_server *s, const void *data, uint64_t count,
                uint64_t offset)
{
  struct args a = { .flags = 0 };
  uint64_t n = 0;
  uint8_t *block;
  int r = -1, err;

  pthread_rwlock_wrlock (&s->blocks);
  block = read_block (s, offset, &a.offset, &a.count);
  if (block != NULL) {
    n = MIN (count, a.offset + a.count - offset);
    if (data)
      memcpy (block + (offset - a.offset), data, n);
    else
      memset (block + (offset - a.offset), 0, n);
    a.data = block;
    r = request (s, begin_write, &a, "write", true);
  }
  pthread_rwlock_unlock (&s->blocks);
  err = errno;
  free (block);
  errno = err;
  return r == -1 ? -1 : (ssize_t) n;
}

/* A request for whole blocks, which changes them. */
static int
change (struct nbd_server *s, qed_nbd_begin_fn *begin, struct args *a,
        const char *what)
{
  const bool lock = s->offer.min_block > 1;
  int r;

  if (lock)
    pthread_rwlock_rdlock (&s->blocks);
  r = request (s, begin, a, what, true);
  if (lock)
    pthread_rwlock_unlock (&s->blocks);
  return r;
}

/* Write DATA, or zeros if that is NULL, with requests for at most MAX bytes
 * that BEGIN makes of whole blocks.
 */
static int
change_range (struct nbd_server *s, qed_nbd_begin_fn *begin, const char *what,
              const uint8_t *data, uint64_t count, uint64_t offset,
              uint64_t max, uint32_t flags)
{
  while (count > 0) {
    struct args a = { .data = data, .offset = offset, .flags = flags };
    uint64_t n = a.count = whole_blocks (s, count, offset, max);

    if (n == 0) {
      ssize_t r = write_in_block (s, data, count, offset);

      if (r == -1)
        return -1;
      n = (uint64_t) r;
    }
    else if (change (s, begin, &a, what) == -1)
      return -1;
    if (data)
      data += n;
    count -= n;
    offset += n;
  }
  return 0;
}

int
qed_nbd_pwrite (struct nbd_server *s, const void *buf, uint64_t count,
                uint64_t offset)
{
  return change_range (s, begin_write, "write", buf, count, offset,
                       s->offer.max_request, 0);
}

int
qed_nbd_zero (struct nbd_server *s, uint64_t count, uint64_t offset,
              uint32_t flags)
{
  return !s->offer.zero ?
    qed_error (ENOTSUP, "%s: the server can't zero", s->name) :
    change_range (s, begin_zero, "zero", NULL, count, offset, MAX_LONG_REQUEST,
                  flags);
}

int
qed_nbd_trim (struct nbd_server *s, uint64_t count, uint64_t offset)
{
  uint64_t end = (offset + count) & ~in_block (s);

  if (!s->offer.trim)
    return qed_error (ENOTSUP, "%s: the server can't trim", s->name);
  offset = (offset + in_block (s)) & ~in_block (s);
  while (offset < end) {
    struct args a = {
      .offset = offset, .count = MIN (end - offset, MAX_LONG_REQUEST),
    };

    if (change (s, begin_trim, &a, "trim") == -1)
      return -1;
    offset += a.count;
  }
  return 0;
}

int
qed_nbd_flush (struct nbd_server *s)
{
  struct args a = { .offset = 0 };
  uint64_t written;
  bool over;
  int r;

  pthread_mutex_lock (&s->lock);
  written = s->written;
  over = s->over;
  pthread_mutex_unlock (&s->lock);
  if (over)
    return qed_nbd_over_error (s);

  /* It covers all connections: there is one, or the server says so.  But that
   * may be another server than the one that has acknowledged the writes: then
   * this is over.
   */
  r = request_on (s, qed_nbd_take_oldest (s), begin_flush, &a, "flush", false);
  if (r == -1)
    return -1;
  pthread_mutex_lock (&s->lock);
  over = s->over;
  if (!over && s->flushed < written)
    s->flushed = written;
  pthread_mutex_unlock (&s->lock);
  return over ? qed_nbd_over_error (s) : 0;
}

/* ---- hints and extents ---- */

int
qed_nbd_cache (struct nbd_server *s, uint64_t count, uint64_t offset)
{
  uint64_t end = MIN ((offset + count + in_block (s)) & ~in_block (s),
                      s->offer.size);

  if (!s->offer.cache)
    return 0;
  for (offset &= ~in_block (s); offset < end; ) {
    struct args a = {
      .offset = offset, .count = MIN (end - offset, s->offer.max_request),
    };

    if (request (s, begin_cache, &a, "prefetch", false) == -1)
      return -1;
    offset += a.count;
  }
  return 0;
}

void
qed_nbd_extents (struct nbd_server *s, uint64_t offset, uint64_t length,
                 struct nbd_extents *e)
{
  struct args a = { .offset = offset & ~in_block (s), .extents = e };
  uint64_t end = offset + length;

  e->n = 0;
  end = MIN ((end + in_block (s)) & ~in_block (s), s->offer.size);
  a.count = MIN (end - a.offset, MAX_LONG_REQUEST);
  if (!s->offer.extents ||
      request (s, begin_extents, &a, "extents", false) == -1 ||
      e->n == 0 || e->offset != a.offset ||
      e->extents[0].length <= offset - e->offset)
    e->n = 0;
}
