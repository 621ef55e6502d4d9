/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* An NBD server, seen through a pool of connections by libnbd: an export named
 * by a URI, or qemu-nbd for a file in a format that this library doesn't read.
 *
 * The pool: each request takes a connection that is free, makes libnbd's
 * synchronous calls on it, and gives it back.  The first connection is opened
 * in the constructor, where errors can be seen, and it fixes the size.
 * When all are busy another one is opened, if the server promises that
 * all connections see the same (multi-conn); else requests wait for each
 * other.
 *
 * Locking: LOCK guards the pool.  It isn't held across I/O, nor while a
 * connection is opened or closed.  A connection that is busy belongs to the
 * thread that made it so.
 *
 * When a connection is lost, its request fails with EIO, and the connections
 * that are idle at that time aren't trusted any more.  The next request
 * connects again, but not more often than once a second: in between requests
 * fail at once.  A server that comes back with another size isn't used.
 * Connecting gives up after some seconds.  A server that hangs later makes its
 * requests hang, as a disk would.
 *
 * qemu-nbd: each connection has a process of its own, started by libnbd with a
 * socket that it inherits (systemd socket activation).  The process ends when
 * its only client goes away, so none stays behind, however we end.  None is
 * kept from the constructor: it would not be a child of the process that
 * nbdkit goes on in, and would keep a terminal or pipe open that nbdkit has
 * closed.
 *
 * This file knows nothing of what is read from the server, or what for.  What
 * the server says about sizes is only believed as far as it makes sense (I9).
 *
 * Built only if there is libnbd.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "error.h"
#include "nbd-connection.h"

#define MIN(a, b) ((a) < (b) ? (a) : (b))

#define CONNECT_SECONDS 10
#define RETRY_SECONDS 1

/* Any server takes requests of this length unless it says otherwise.  The
 * other is NBD's limit for the blocks that a server may insist on.
 */
#define MAX_REQUEST (UINT64_C (32) << 20)
#define MAX_MIN_BLOCK (UINT64_C (64) << 10)

static time_t
now (void)
{
  struct timespec ts;

  clock_gettime (CLOCK_MONOTONIC, &ts);
  return ts.tv_sec;
}

/* ---- connecting ---- */

/* libnbd's message of the last failure in this thread. */
static const char *
nbd_message (void)
{
  const char *s = nbd_get_error ();

  return s ? s : "no reason is known";
}

static int
connect_error (struct nbd_server *s, int err, const char *why)
{
  if (s->format)
    return qed_error (EIO, "%s: qemu-nbd doesn't serve this file as %s, see "
                      "its own message if there is one: %s",
                      s->name, s->format, why);
  return qed_error (err ? err : EIO, "%s: %s", s->name, why);
}

/* Has a URI only parameters that are allowed?  In an image's header that is
 * the socket only, because the others name files with keys.  Names must be
 * absolute, because nbdkit changes its directory before we connect again.
 */
static int
check_parameters (const char *uri, bool trusted)
{
  static const char *const files[] = {
    "socket=", "tls-certificates=", "tls-psk-file=",
  };
  const char *p = strchr (uri, '?');

  for (; p != NULL; p = strpbrk (p + 1, "&;")) {
    if (!trusted && strncmp (p + 1, "socket=", 7) != 0)
      return qed_error (EPERM, "%s: in an image's header a URI may have no "
                        "parameter but socket", uri);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; ++i) {
      size_t n = strlen (files[i]);

      if (strncmp (p + 1, files[i], n) == 0 && p[1 + n] != '/' &&
          strncasecmp (p + 1 + n, "%2f", 3) != 0)
        return qed_error (EINVAL, "%s: the name after %s must begin with '/'",
                          uri, files[i]);
    }
  }
  return 0;
}

static int
start_uri (struct nbd_server *s, struct nbd_handle *h)
{
  if (nbd_set_uri_allow_transports (h, LIBNBD_ALLOW_TRANSPORT_TCP |
                                    LIBNBD_ALLOW_TRANSPORT_UNIX) == -1 ||
      nbd_set_uri_allow_tls (h, LIBNBD_TLS_ALLOW) == -1 ||
      nbd_set_uri_allow_local_file (h, s->trusted) == -1)
    return -1;
  return nbd_aio_connect_uri (h, s->name);
}

static int
start_qemu_nbd (struct nbd_server *s, struct nbd_handle *h)
{
  char read_only[] = "-r", format[] = "-f";
  char *argv[] = { s->program, read_only, format, s->format, s->name, NULL };

  return nbd_aio_connect_systemd_socket_activation (h, argv);
}

/* Remove the socket now, when it has served its purpose.  libnbd would remove
 * it when the connection is closed, and so leave it behind if we are killed.
 */
static void
remove_socket (struct nbd_handle *h)
{
  struct sockaddr_un addr = { .sun_family = AF_UNSPEC };
  socklen_t len = sizeof addr - 1;
  char *slash;

  if (getpeername (nbd_aio_get_fd (h), (struct sockaddr *) &addr, &len) == -1
      || addr.sun_family != AF_UNIX)
    return;
  slash = strrchr (addr.sun_path, '/');
  if (slash == NULL)
    return;
  unlink (addr.sun_path);
  *slash = '\0';
  rmdir (addr.sun_path);
}

/* Wait until the handle is connected and has negotiated everything. */
static int
finish_connecting (struct nbd_server *s, struct nbd_handle *h)
{
  time_t end = now () + CONNECT_SECONDS;

  while (nbd_aio_is_connecting (h)) {
    time_t left = end - now ();

    if (left <= 0)
      return connect_error (s, ETIMEDOUT, "the server doesn't answer");
    if (nbd_poll (h, (int) left * 1000) == -1)
      break;
  }
  if (nbd_aio_is_ready (h))
    return 0;
  return connect_error (s, nbd_get_errno (), nbd_message ());
}

/* Close a connection.  errno is kept.  The server gets no notice, because it
 * needs none, and nbd_aio_disconnect of libnbd 1.14 uses freed memory if the
 * server has gone.
 */
static void
disconnect (struct nbd_conn *c)
{
  int err = errno;

  nbd_close (c->h);
  free (c->bounce);
  c->h = NULL;
  c->bounce = NULL;
  errno = err;
}

/* Set C's limits for requests from what the server says. */
static int
get_block_sizes (struct nbd_server *s, struct nbd_conn *c)
{
  int64_t min = nbd_get_block_size (c->h, LIBNBD_SIZE_MINIMUM);
  int64_t max = nbd_get_block_size (c->h, LIBNBD_SIZE_MAXIMUM);

  c->min_block = min > 0 ? (uint64_t) min : 1;
  if (c->min_block > MAX_MIN_BLOCK || (c->min_block & (c->min_block - 1)))
    return qed_error (EINVAL, "%s: the server wants blocks of %" PRIu64
                      " bytes: they must be a power of 2, at most %" PRIu64,
                      s->name, c->min_block, MAX_MIN_BLOCK);
  c->max_request = max > 0 ? MIN ((uint64_t) max, MAX_REQUEST) : MAX_REQUEST;
  c->max_request &= ~(c->min_block - 1);
  if (c->max_request == 0)
    c->max_request = c->min_block;

  if (c->min_block > 1 && (c->bounce = malloc (c->min_block)) == NULL)
    return qed_error (errno, "%s: %m", s->name);
  return 0;
}

/* Set up C's handle and connect it. */
static int
connect_handle (struct nbd_server *s, struct nbd_conn *c)
{
  struct nbd_handle *h = c->h = nbd_create ();
  int r;

  /* The last block of an export may be smaller than the server's smallest
   * block.  Let the server decide about requests for it.
   */
  if (h == NULL || nbd_add_meta_context (h, LIBNBD_CONTEXT_BASE_ALLOCATION) ||
      nbd_set_strict_mode (h, nbd_get_strict_mode (h) & ~LIBNBD_STRICT_ALIGN))
    return qed_error (ENOMEM, "%s: %s", s->name, nbd_message ());

  r = s->format ? start_qemu_nbd (s, h) : start_uri (s, h);
  if (r == -1)
    r = connect_error (s, nbd_get_errno (), nbd_message ());
  else
    r = finish_connecting (s, h);
  if (r == 0 && s->format)
    remove_socket (h);
  return r;
}

/* Connect C, which this thread owns.  *SIZE is set to the export's size, and
 * *MULTI to whether there may be several connections.
 */
static int
connect_conn (struct nbd_server *s, struct nbd_conn *c, uint64_t *size,
              bool *multi)
{
  int64_t bytes;

  if (connect_handle (s, c) == -1 || get_block_sizes (s, c) == -1)
    goto fail;
  bytes = nbd_get_size (c->h);
  if (bytes < 0) {
    qed_error (EINVAL, "%s: size: %s", s->name, nbd_message ());
    goto fail;
  }
  *size = (uint64_t) bytes;
  *multi = s->format || nbd_can_multi_conn (c->h) > 0;
  return 0;

 fail:
  disconnect (c);
  return -1;
}

/* The same, but the size must be what it was. */
static int
reconnect_conn (struct nbd_server *s, struct nbd_conn *c, bool *multi)
{
  uint64_t size;

  if (connect_conn (s, c, &size, multi) == -1)
    return -1;
  if (size == s->size)
    return 0;
  disconnect (c);
  return qed_error (EIO, "%s: the size was %" PRIu64 " bytes when this was "
                    "opened and is %" PRIu64 " now", s->name, s->size, size);
}

/* ---- the pool ---- */

/* A free connection, or NULL.  Called with the lock held. */
static struct nbd_conn *
find_free (struct nbd_server *s)
{
  for (unsigned i = 0; i < NBD_MAX_CONNS; ++i)
    if (s->conns[i].open && !s->conns[i].busy)
      return &s->conns[i];
  return NULL;
}

/* There must be one.  Called with the lock held. */
static struct nbd_conn *
find_closed (struct nbd_server *s)
{
  unsigned i = 0;

  while (s->conns[i].open)
    ++i;
  return &s->conns[i];
}

/* C has been closed, or couldn't be opened.  Called with the lock held. */
static void
forget (struct nbd_server *s, struct nbd_conn *c)
{
  c->open = c->busy = false;
  s->nr_open--;
  pthread_cond_broadcast (&s->changed);
}

/* Called with the lock held; lets go of it while closing. */
static void
close_stale (struct nbd_server *s, struct nbd_conn *c)
{
  c->busy = true;
  pthread_mutex_unlock (&s->lock);
  disconnect (c);
  pthread_mutex_lock (&s->lock);
  forget (s, c);
}

/* Open another connection, or return NULL.  Called with the lock held; lets go
 * of it while connecting.
 */
static struct nbd_conn *
open_another (struct nbd_server *s)
{
  struct nbd_conn *c = find_closed (s);
  bool first = s->nr_open == 0, multi = false;
  int r;

  *c = (struct nbd_conn) { .open = true, .busy = true };
  s->nr_open++;
  if (first)
    s->retry_at = now () + RETRY_SECONDS;
  pthread_mutex_unlock (&s->lock);
  r = reconnect_conn (s, c, &multi);
  pthread_mutex_lock (&s->lock);

  /* A server that refuses another connection now isn't asked again while it
   * serves those that it has.
   */
  if (first || r == -1)
    s->multi = multi && r == 0;
  if (r == 0)
    return c;
  if (first)
    s->retry_at = now () + RETRY_SECONDS;
  forget (s, c);
  return NULL;
}

struct nbd_conn *
qed_nbd_take (struct nbd_server *s)
{
  struct nbd_conn *c;

  pthread_mutex_lock (&s->lock);
  for (;;) {
    c = find_free (s);
    if (c != NULL && c->stale)
      close_stale (s, c);
    else if (c != NULL)
      break;
    else if (s->nr_open == 0 && now () < s->retry_at) {
      qed_error (EIO, "%s: the connection was lost a moment ago", s->name);
      break;
    }
    else if (s->nr_open == 0) {
      c = open_another (s);
      break;
    }
    else if (s->multi && s->nr_open < NBD_MAX_CONNS) {
      c = open_another (s);
      if (c != NULL)
        break;
    }
    else
      pthread_cond_wait (&s->changed, &s->lock);
  }
  if (c != NULL)
    c->busy = true;
  pthread_mutex_unlock (&s->lock);
  if (c == NULL)
    errno = EIO;
  return c;
}

/* If the connection is dead, those that are idle probably are, too. */
void
qed_nbd_give_back (struct nbd_server *s, struct nbd_conn *c)
{
  bool dead = !nbd_aio_is_ready (c->h);

  pthread_mutex_lock (&s->lock);
  for (unsigned i = 0; dead && i < NBD_MAX_CONNS; ++i)
    s->conns[i].stale = true;
  c->busy = false;
  pthread_cond_signal (&s->changed);
  pthread_mutex_unlock (&s->lock);
}

int
qed_nbd_request_error (struct nbd_server *s, struct nbd_conn *c,
                       const char *what, uint64_t offset)
{
  const char *why = nbd_message ();

  if (nbd_aio_is_ready (c->h))
    return qed_error (EIO, "%s: %s at %" PRIu64 ": the server says: %s",
                      s->name, what, offset, why);
  return qed_error (EIO, "%s: %s at %" PRIu64 ": %s: %s", s->name, what,
                    offset, s->format ? "qemu-nbd has ended"
                    : "the connection to the server is lost", why);
}

/* ---- opening and closing ---- */

void
qed_nbd_free (struct nbd_server *s)
{
  for (unsigned i = 0; i < NBD_MAX_CONNS; ++i)
    disconnect (&s->conns[i]);
  pthread_cond_destroy (&s->changed);
  pthread_mutex_destroy (&s->lock);
  free (s->program);
  free (s->format);
  free (s->name);
}

/* A copy of S, which may be NULL.  *FAILED is set if there is no memory. */
static char *
copy (const char *s, bool *failed)
{
  char *r = s ? strdup (s) : NULL;

  if (s != NULL && r == NULL)
    *failed = true;
  return r;
}

static int
init_server (struct nbd_server *s, const char *name, const char *format,
             const char *program, bool trusted)
{
  bool failed = false;

  *s = (struct nbd_server) { .trusted = trusted };
  pthread_mutex_init (&s->lock, NULL);
  pthread_cond_init (&s->changed, NULL);
  s->name = copy (name, &failed);
  s->format = copy (format, &failed);
  s->program = copy (program, &failed);
  if (failed) {
    qed_nbd_free (s);
    return qed_error (ENOMEM, "%s: %m", name);
  }
  return 0;
}

/* Open the first connection. */
static int
connect_first (struct nbd_server *s)
{
  if (connect_conn (s, &s->conns[0], &s->size, &s->multi) == -1) {
    qed_nbd_free (s);
    return -1;
  }
  return 0;
}

int
qed_nbd_init_uri (struct nbd_server *s, const char *uri, bool trusted)
{
  if (check_parameters (uri, trusted) == -1 ||
      init_server (s, uri, NULL, NULL, trusted) == -1 ||
      connect_first (s) == -1)
    return -1;
  s->conns[0].open = true;
  s->nr_open = 1;
  return 0;
}

/* Find a program as a shell does.  To be freed; NULL if there is none. */
static char *
find_program (const char *name)
{
  const char *path = getenv ("PATH");

  while (path != NULL && *path) {
    int len = (int) strcspn (path, ":");
    char *file;

    if (asprintf (&file, "%.*s/%s", len, path, name) == -1)
      return NULL;
    if (len > 0 && access (file, X_OK) == 0)
      return file;
    free (file);
    path += len;
    path += *path == ':';
  }
  errno = ENOENT;
  return NULL;
}

int
qed_nbd_init_file (struct nbd_server *s, const char *path, const char *format)
{
  char *program = find_program ("qemu-nbd");
  int r;

  if (program == NULL)
    return qed_error (errno, "%s: reading format %s needs the program "
                      "qemu-nbd (on Debian in the package qemu-utils): %m",
                      path, format);
  r = init_server (s, path, format, program, true);
  free (program);
  if (r == -1 || connect_first (s) == -1)
    return -1;
  disconnect (&s->conns[0]);
  return 0;
}
