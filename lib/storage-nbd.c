/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Storage on what an NBD server exports.
 *
 * Here are the operations of struct qed_storage as requests to the server
 * (nbd-request.c).  The storage is as long as the export when it was opened,
 * without a last part that isn't a whole block, and can't grow.  There are no
 * locks: what else writes to the export isn't known.
 *
 * Writing needs a server that takes writes, and flushes: without flushing
 * nothing would be known to be durable (I5).
 *
 * Punching and zeroing are both NBD's write-zeroes, with or without leave to
 * make a hole.  A server may take as long for it as for writing, unless it
 * offers fast zeroing: then it is asked for that only.
 *
 * Looking for holes: one reply of the server tells many extents, and the next
 * questions are likely to be about these.  So the last reply is kept, until
 * something is written: a hole may be none any more then.
 *
 * Reading ahead: tables are read in small slices, often one after the other,
 * and each would wait for the server.  So such a read in sequence takes what
 * follows, too, first little, then more, and later ones are copies of that.
 * Only before anything is written: then it can't become wrong.
 *
 * Locking: N->lock guards the reply, and what was read ahead.  It isn't held
 * across I/O.
 *
 * Without libnbd the constructors fail.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "storage.h"

#ifdef HAVE_LIBNBD

#include "nbd-request.h"

#define MIN(a, b) ((a) < (b) ? (a) : (b))

/* A small read, and how much is read ahead: a table of the default geometry at
 * most.
 */
#define SMALL_READ (UINT64_C (4) << 10)
#define MIN_AHEAD (UINT64_C (16) << 10)
#define MAX_AHEAD (UINT64_C (256) << 10)

struct nbd_storage {
  struct qed_storage st;
  struct nbd_server server;
  uint64_t size;                /* constant */
  atomic_bool writable;         /* never false again */

  /* Counts requests that may fill holes, when they begin and when they end. */
  _Atomic uint64_t changes;

  pthread_mutex_t lock;         /* guards the rest */
  struct nbd_extents reply;     /* N 0: there is none */
  uint64_t reply_changes;       /* CHANGES before it was asked for */
  uint8_t *ahead;               /* what was read ahead, or NULL ... */
  uint64_t ahead_offset, ahead_length; /* ... where that is */
  uint64_t next;                /* where the last small read ended */
};

/* ---- the operations ---- */

static struct nbd_storage *
storage (struct qed_storage *st)
{
  return (struct nbd_storage *) st;
}

static uint64_t
count_until_end (const struct nbd_storage *n, uint64_t count, uint64_t offset)
{
  return offset >= n->size ? 0 :
    count < n->size - offset ? count : n->size - offset;
}

/* Copy a small read from what was read ahead.  False: it isn't there, and
 * *LENGTH is how much to read now, or less than COUNT: no more than that.
 */
static bool
find_ahead (struct nbd_storage *n, void *buf, uint64_t count, uint64_t offset,
            uint64_t *length)
{
  bool found, in_sequence;
  uint64_t end;

  pthread_mutex_lock (&n->lock);
  end = n->ahead_offset + n->ahead_length;
  found = offset >= n->ahead_offset && offset + count <= end;
  if (found)
    memcpy (buf, n->ahead + (offset - n->ahead_offset), count);
  in_sequence = offset == n->next;
  *length = !in_sequence ? 0 :
    offset == end ? 4 * n->ahead_length : MIN_AHEAD;
  n->next = offset + count;
  pthread_mutex_unlock (&n->lock);
  *length = MIN (MIN (*length, MAX_AHEAD), n->size - offset);
  return found;
}

/* A small read that begins with what is read ahead, if anything is.  False: it
 * isn't done.
 */
static bool
read_ahead (struct nbd_storage *n, void *buf, uint64_t count, uint64_t offset)
{
  uint64_t length;
  uint8_t *ahead, *old;

  if (find_ahead (n, buf, count, offset, &length))
    return true;
  ahead = length > count ? malloc (length) : NULL;
  if (ahead == NULL)
    return false;
  if (qed_nbd_pread (&n->server, ahead, length, offset) == -1) {
    free (ahead);
    return false;
  }
  memcpy (buf, ahead, count);
  pthread_mutex_lock (&n->lock);
  old = n->ahead;
  n->ahead = ahead;
  n->ahead_offset = offset;
  n->ahead_length = length;
  pthread_mutex_unlock (&n->lock);
  free (old);
  return true;
}

static ssize_t
nbd_storage_pread (struct qed_storage *st, void *buf, size_t count,
                   uint64_t offset)
{
  struct nbd_storage *n = storage (st);

  count = count_until_end (n, count, offset);
  if (count > 0 && count <= SMALL_READ && !atomic_load (&n->writable) &&
      read_ahead (n, buf, count, offset))
    return (ssize_t) count;
  return qed_nbd_pread (&n->server, buf, count, offset) == -1 ? -1 :
    (ssize_t) count;
}

static ssize_t
nbd_storage_pwrite (struct qed_storage *st, const void *buf, size_t count,
                    uint64_t offset)
{
  struct nbd_storage *n = storage (st);
  int r;

  if (count_until_end (n, count, offset) < count)
    return qed_error (ENOSPC, "%s: write at %" PRIu64 ": the export ends at %"
                      PRIu64, st->name, offset, n->size);
  n->changes++;
  r = qed_nbd_pwrite (&n->server, buf, count, offset);
  n->changes++;
  return r == -1 ? -1 : (ssize_t) count;
}

/* One buffer at a time: the caller goes on with the rest. */
static ssize_t
nbd_storage_pwritev (struct qed_storage *st, const struct iovec *iov,
                     int iovcnt, uint64_t offset)
{
  while (iovcnt > 1 && iov->iov_len == 0) {
    ++iov;
    --iovcnt;
  }
  return nbd_storage_pwrite (st, iov->iov_base, iov->iov_len, offset);
}

static int64_t
nbd_storage_get_size (struct qed_storage *st)
{
  return (int64_t) storage (st)->size;
}

static int
nbd_storage_resize (struct qed_storage *st,
                    uint64_t size __attribute__ ((unused)))
{
  return qed_error (EOPNOTSUPP, "%s: the size of an NBD export can't be "
                    "changed", st->name);
}

static int
nbd_storage_sync (struct qed_storage *st)
{
  return qed_nbd_flush (&storage (st)->server);
}

/* Look for OFFSET in the last reply. */
static bool
find_extent (struct nbd_storage *n, uint64_t offset, uint64_t *end,
             bool *hole)
{
  const struct nbd_extents *e = &n->reply;
  bool found = false;
  size_t i = 0;

  pthread_mutex_lock (&n->lock);
  *end = e->offset;
  if (n->reply_changes == n->changes && offset >= e->offset)
    for (; i < e->n && !found; ++i) {
      *end += e->extents[i].length;
      *hole = e->extents[i].zero;
      found = offset < *end;
    }
  for (; found && i < e->n && e->extents[i].zero == *hole; ++i)
    *end += e->extents[i].length;
  pthread_mutex_unlock (&n->lock);
  return found;
}

static void
ask_extents (struct nbd_storage *n, uint64_t offset)
{
  uint64_t changes = n->changes;
  struct nbd_extents e;

  qed_nbd_extents (&n->server, offset, n->size - offset, &e);
  pthread_mutex_lock (&n->lock);
  n->reply = e;
  n->reply_changes = changes;
  pthread_mutex_unlock (&n->lock);
}

static int64_t
nbd_storage_next_extent (struct qed_storage *st, uint64_t offset, bool *hole)
{
  struct nbd_storage *n = storage (st);
  uint64_t end;
  bool found = find_extent (n, offset, &end, hole);

  if (!found && n->server.offer.extents) {
    ask_extents (n, offset);
    found = find_extent (n, offset, &end, hole);
  }
  if (!found) {
    *hole = false;
    end = n->size;
  }
  return (int64_t) (end < n->size ? end : n->size);
}

static int
nbd_storage_prefetch (struct qed_storage *st, uint64_t offset,
                      uint64_t length)
{
  struct nbd_storage *n = storage (st);

  return qed_nbd_cache (&n->server, count_until_end (n, length, offset),
                        offset);
}

static int
zero (struct qed_storage *st, uint64_t offset, uint64_t length, uint32_t flags)
{
  struct nbd_storage *n = storage (st);
  int r;

  if (!n->st.slow_zero)
    flags |= LIBNBD_CMD_FLAG_FAST_ZERO;
  n->changes++;
  r = qed_nbd_zero (&n->server, length, offset, flags);
  n->changes++;
  if (r == -1 && errno == ENOTSUP)
    errno = EOPNOTSUPP;
  return r;
}

static int
nbd_storage_punch (struct qed_storage *st, uint64_t offset, uint64_t length)
{
  return zero (st, offset, length, 0);
}

static int
nbd_storage_zero (struct qed_storage *st, uint64_t offset, uint64_t length)
{
  return zero (st, offset, length, LIBNBD_CMD_FLAG_NO_HOLE);
}

static int
nbd_storage_discard (struct qed_storage *st, uint64_t offset, uint64_t length)
{
  struct nbd_storage *n = storage (st);
  int r = qed_nbd_trim (&n->server, length, offset);

  if (r == -1 && errno == ENOTSUP)
    errno = EOPNOTSUPP;
  return r;
}

static int
nbd_storage_make_writable (struct qed_storage *st)
{
  const struct nbd_offer *o = &storage (st)->server.offer;

  if (o->read_only)
    return qed_error (EROFS, "%s: the server exports this read-only",
                      st->name);
  if (!o->flush)
    return qed_error (EROFS, "%s: the server doesn't offer to flush, and "
                      "without that nothing that is written is known to be "
                      "durable", st->name);
  atomic_store (&storage (st)->writable, true);
  return 0;
}

static void
nbd_storage_after_fork (struct qed_storage *st)
{
  qed_nbd_restart (&storage (st)->server);
}

static void
nbd_storage_close (struct qed_storage *st)
{
  struct nbd_storage *n = storage (st);

  qed_nbd_free (&n->server);
  pthread_mutex_destroy (&n->lock);
  free (n->ahead);
  free (n);
}

static const struct qed_storage_ops nbd_ops = {
  .pread = nbd_storage_pread,
  .pwrite = nbd_storage_pwrite,
  .pwritev = nbd_storage_pwritev,
  .get_size = nbd_storage_get_size,
  .resize = nbd_storage_resize,
  .sync = nbd_storage_sync,
  .next_extent = nbd_storage_next_extent,
  .prefetch = nbd_storage_prefetch,
  .punch = nbd_storage_punch,
  .zero = nbd_storage_zero,
  .discard = nbd_storage_discard,
  .make_writable = nbd_storage_make_writable,
  .after_fork = nbd_storage_after_fork,
  .close = nbd_storage_close,
};

/* ---- the constructors ---- */

/* R says whether N's server could be connected to. */
static struct qed_storage *
finish (struct nbd_storage *n, int r)
{
  const struct nbd_offer *o = &n->server.offer;

  if (r == -1) {
    free (n);
    return NULL;
  }
  pthread_mutex_init (&n->lock, NULL);
  n->size = o->size & ~(o->min_block - 1);
  n->st = (struct qed_storage) {
    .ops = &nbd_ops, .name = n->server.name, .rotational = o->rotational,
    .fixed_size = true, .slow_zero = !o->fast_zero, .explains = true,
  };
  return &n->st;
}

static struct nbd_storage *
new_storage (const char *name)
{
  struct nbd_storage *n = calloc (1, sizeof *n);

  if (n == NULL)
    qed_error (errno, "%s: %m", name);
  return n;
}

struct qed_storage *
qed_storage_open_uri (const char *uri)
{
  struct nbd_storage *n = new_storage (uri);

  return n == NULL ? NULL :
    finish (n, qed_nbd_init_uri (&n->server, uri, true));
}

struct qed_storage *
qed_storage_open_command (const char *const argv[])
{
  struct nbd_storage *n = new_storage (argv[0]);

  return n == NULL ? NULL :
    finish (n, qed_nbd_init_command (&n->server, argv));
}

#else /* !HAVE_LIBNBD */

static struct qed_storage *
without_libnbd (const char *name)
{
  qed_error (ENOTSUP, "%s: this needs libnbd, but nbdkit-qed was built "
             "without it", name);
  return NULL;
}

struct qed_storage *
qed_storage_open_uri (const char *uri)
{
  return without_libnbd (uri);
}

struct qed_storage *
qed_storage_open_command (const char *const argv[])
{
  return without_libnbd (argv[0]);
}

bool (*qed_is_ending) (void);

void
qed_hurry (void)
{
}

#endif /* !HAVE_LIBNBD */
