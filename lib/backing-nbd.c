/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Backing files that are read over NBD: exports named by a URI, and through
 * qemu-nbd files in formats that this library doesn't read.
 *
 * Here are the operations of struct qed_backing as requests to the server
 * (nbd-request.c), which has all the locking.  Nothing is ever written (I10):
 * no request that writes is used here.
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

#include "nbd-request.h"

const bool qed_have_libnbd = true;

#define MIN(a, b) ((a) < (b) ? (a) : (b))

struct nbd_backing {
  struct qed_backing b;
  struct nbd_server server;
};

/* ---- the operations ---- */

static struct nbd_server *
server (struct qed_backing *b)
{
  return &((struct nbd_backing *) b)->server;
}

static int
nbd_backing_pread (struct qed_backing *b, void *buf, size_t count,
                   uint64_t offset)
{
  return qed_nbd_pread (server (b), buf, count, offset);
}

/* Collect what E says of the range from *POS to END, and move *POS on. */
static void
collect (struct qed_collector *c, const struct nbd_extents *e, uint64_t *pos,
         uint64_t end)
{
  uint64_t at = e->offset;

  for (size_t i = 0; i < e->n && *pos < end; ++i) {
    at += e->extents[i].length;
    if (at > *pos) {
      qed_collect (c, MIN (at, end) - *pos, e->extents[i].zero);
      *pos = MIN (at, end);
    }
  }
}

static int
nbd_backing_extents (struct qed_backing *b, uint64_t offset, uint64_t length,
                     qed_extent_fn *fn, void *opaque)
{
  struct qed_collector c = { .fn = fn, .opaque = opaque, .offset = offset };
  const uint64_t end = offset + length;
  struct nbd_extents e = { .n = 1 };

  while (c.r == 0 && offset < end && e.n > 0) {
    qed_nbd_extents (server (b), offset, end - offset, &e);
    collect (&c, &e, &offset, end);
  }
  /* Where the extents aren't known, say data.  If something is wrong, reading
   * it will fail with the reason.
   */
  if (offset < end)
    qed_collect (&c, end - offset, false);
  return qed_collect_end (&c);
}

static int
nbd_backing_prefetch (struct qed_backing *b, uint64_t offset, uint64_t length)
{
  return qed_nbd_cache (server (b), length, offset);
}

/* ---- opening and closing ---- */

static void
nbd_backing_interrupt (struct qed_backing *b)
{
  qed_nbd_give_up (server (b));
}

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
  .interrupt = nbd_backing_interrupt,
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
    .ops = &nbd_ops, .name = n->server.name, .size = n->server.offer.size,
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
