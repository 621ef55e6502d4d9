/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Backing files that are read over NBD: exports named by a URI, and through
 * qemu-nbd files in formats that this library doesn't read.
 *
 * Here are the operations of struct qed_backing as requests on a connection,
 * cut to the blocks and lengths that the server takes.  Connections, and what
 * happens when one is lost, are in nbd-connection.c, which also has all the
 * locking: each operation takes a connection, which is its own until it gives
 * it back.
 *
 * Nothing is ever written (I10): no command that writes is in this file.  What
 * a server says about extents is only believed as far as it makes sense (I9).
 *
 * Without libnbd both constructors fail.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "collector.h"
#include "error.h"
#include "nbd.h"

#ifdef HAVE_LIBNBD

#include "nbd-connection.h"

const bool qed_have_libnbd = true;

#define MIN(a, b) ((a) < (b) ? (a) : (b))

/* The length of a request for extents must fit into 32 bits. */
#define MAX_STATUS_REQUEST (UINT64_C (1) << 30)

struct nbd_backing {
  struct qed_backing b;
  struct nbd_server server;
};

/* ---- requests ---- */

/* Read part of a block that the server only reads as a whole.  Returns the
 * number of bytes, or -1.
 */
static ssize_t
read_in_block (struct nbd_server *s, struct nbd_conn *c, void *buf,
               size_t count, uint64_t offset)
{
  uint64_t skip = offset & (c->min_block - 1), start = offset - skip;
  uint64_t block = MIN (c->min_block, s->size - start);
  size_t n = (size_t) MIN (count, block - skip);

  if (nbd_pread (c->h, c->bounce, (size_t) block, start, 0) == -1)
    return qed_nbd_request_error (s, c, "read", start);
  memcpy (buf, c->bounce + skip, n);
  return (ssize_t) n;
}

/* Read some of COUNT bytes.  Returns how many, or -1. */
static ssize_t
read_some (struct nbd_server *s, struct nbd_conn *c, void *buf, size_t count,
           uint64_t offset)
{
  uint64_t mask = c->min_block - 1;
  size_t n = (size_t) MIN (count & ~mask, c->max_request);

  if ((offset & mask) != 0 || n == 0)
    return read_in_block (s, c, buf, count, offset);
  if (nbd_pread (c->h, buf, n, offset, 0) == -1)
    return qed_nbd_request_error (s, c, "read", offset);
  return (ssize_t) n;
}

static struct nbd_server *
server (struct qed_backing *b)
{
  return &((struct nbd_backing *) b)->server;
}

static int
nbd_backing_pread (struct qed_backing *b, void *buf, size_t count,
                   uint64_t offset)
{
  struct nbd_server *s = server (b);
  struct nbd_conn *c;
  ssize_t n = 0;

  if (count == 0)
    return 0;
  c = qed_nbd_take (s);
  if (c == NULL)
    return -1;
  for (; count > 0; count -= (size_t) n, offset += (uint64_t) n) {
    n = read_some (s, c, buf, count, offset);
    if (n == -1)
      break;
    buf = (uint8_t *) buf + n;
  }
  qed_nbd_give_back (s, c);
  return n == -1 ? -1 : 0;
}

/* The progress of a request for extents. */
struct status {
  struct qed_collector c;
  uint64_t at;                  /* where the next extent of the reply is */
  uint64_t pos, end;            /* the range whose extents aren't known yet */
};

static int
add_extents (void *opaque, const char *context,
             uint64_t offset __attribute__ ((unused)), uint32_t *entries,
             size_t nr_entries, int *error __attribute__ ((unused)))
{
  struct status *st = opaque;

  if (strcmp (context, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0)
    return 0;
  for (size_t i = 0; i + 1 < nr_entries && st->pos < st->end; i += 2) {
    uint64_t end = MIN (st->at + entries[i], st->end);

    if (end > st->pos) {
      qed_collect (&st->c, end - st->pos,
                   (entries[i + 1] & LIBNBD_STATE_ZERO) != 0);
      st->pos = end;
    }
    st->at = end;
  }
  return 0;
}

/* Ask the server for the extents from st->pos on, of whole blocks.  False if
 * nothing was learned.
 */
static bool
ask_extents (struct nbd_server *s, struct nbd_conn *c, struct status *st)
{
  nbd_extent_callback cb = { .callback = add_extents, .user_data = st };
  uint64_t mask = c->min_block - 1, pos = st->pos, start = pos & ~mask;
  uint64_t end = (st->end + mask) & ~mask;

  end = MIN (MIN (end, s->size), start + MAX_STATUS_REQUEST);
  st->at = start;
  return nbd_block_status (c->h, end - start, start, cb, 0) == 0 &&
    st->pos > pos;
}

static int
nbd_backing_extents (struct qed_backing *b, uint64_t offset, uint64_t length,
                     qed_extent_fn *fn, void *opaque)
{
  struct nbd_server *s = server (b);
  struct status st = {
    .c = { .fn = fn, .opaque = opaque, .offset = offset },
    .pos = offset, .end = offset + length,
  };
  struct nbd_conn *c = qed_nbd_take (s);

  if (c != NULL) {
    if (nbd_can_meta_context (c->h, LIBNBD_CONTEXT_BASE_ALLOCATION) > 0)
      while (st.c.r == 0 && st.pos < st.end && ask_extents (s, c, &st))
        ;
    qed_nbd_give_back (s, c);
  }
  /* Where the extents aren't known, say data.  If something is wrong, reading
   * it will fail with the reason.
   */
  if (st.pos < st.end)
    qed_collect (&st.c, st.end - st.pos, false);
  return qed_collect_end (&st.c);
}

static int
nbd_backing_prefetch (struct qed_backing *b, uint64_t offset, uint64_t length)
{
  struct nbd_server *s = server (b);
  struct nbd_conn *c = qed_nbd_take (s);
  uint64_t end = offset + length;
  int r = 0;

  if (c == NULL)
    return -1;
  if (nbd_can_cache (c->h) > 0) {
    offset &= ~(c->min_block - 1);
    for (uint64_t n; r == 0 && offset < end; offset += n) {
      n = MIN (c->max_request, s->size - offset);
      n = MIN (n, (end - offset + c->min_block - 1) & ~(c->min_block - 1));
      if (nbd_cache (c->h, n, offset, 0) == -1)
        r = qed_nbd_request_error (s, c, "prefetch", offset);
    }
  }
  qed_nbd_give_back (s, c);
  return r;
}

/* ---- opening and closing ---- */

static void
nbd_backing_close (struct qed_backing *b)
{
  qed_nbd_free (server (b));
  free (b);
}

static const struct qed_backing_ops nbd_ops = {
  .pread = nbd_backing_pread,
  .extents = nbd_backing_extents,
  .prefetch = nbd_backing_prefetch,
  .close = nbd_backing_close,
};

/* A struct nbd_backing for NAME, whose server isn't filled yet. */
static struct nbd_backing *
new_backing (const char *name)
{
  struct nbd_backing *n = calloc (1, sizeof *n);

  if (n == NULL)
    qed_error (errno, "%s: %m", name);
  return n;
}

/* R says whether N's server could be connected to. */
static struct qed_backing *
finish_backing (struct nbd_backing *n, int r)
{
  if (r == -1) {
    free (n);
    return NULL;
  }
  n->b = (struct qed_backing) {
    .ops = &nbd_ops, .name = n->server.name, .size = n->server.size,
  };
  return &n->b;
}

struct qed_backing *
qed_nbd_open_uri (const char *uri, bool trusted)
{
  struct nbd_backing *n = new_backing (uri);

  return n == NULL ? NULL :
    finish_backing (n, qed_nbd_init_uri (&n->server, uri, trusted));
}

struct qed_backing *
qed_nbd_open_file (const char *path, const char *format)
{
  struct nbd_backing *n = new_backing (path);

  return n == NULL ? NULL :
    finish_backing (n, qed_nbd_init_file (&n->server, path, format));
}

#else /* !HAVE_LIBNBD */

const bool qed_have_libnbd = false;

static struct qed_backing *
without_libnbd (const char *name)
{
  qed_error (ENOTSUP, "%s: this needs libnbd, but nbdkit-qed was built "
             "without it", name);
  return NULL;
}

struct qed_backing *
qed_nbd_open_uri (const char *uri, bool trusted __attribute__ ((unused)))
{
  return without_libnbd (uri);
}

struct qed_backing *
qed_nbd_open_file (const char *path,
                   const char *format __attribute__ ((unused)))
{
  return without_libnbd (path);
}

#endif /* !HAVE_LIBNBD */
