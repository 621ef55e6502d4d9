/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Backing files that are read over NBD, with libnbd: exports named by a URI,
 * and files in formats that this library doesn't read, through qemu-nbd.
 *
 * Owned: a pool of connections.  Each request takes one that is free, makes
 * libnbd's synchronous calls on it, and gives it back.  The first is opened in
 * the constructor, where errors can be seen, and with it the size is fixed.
 * When all are busy another one is opened, if the server promises that
 * connections see the same (multi-conn), else requests wait for each other.
 *
 * Locking: LOCK guards the pool and isn't held across I/O, nor while a
 * connection is opened or closed.  A connection that is busy belongs to the
 * thread that made it so.
 *
 * When a connection is lost its request fails with EIO, and the connections
 * that are idle then aren't trusted any more.  The next request connects
 * again, but not more often than once a second: in between requests fail
 * at once.  A server that came back with another size isn't used.  Connecting
 * gives up after some seconds; a server that hangs later makes its requests
 * hang, as a disk would.
 *
 * qemu-nbd: each connection has a process of its own, started by libnbd with a
 * socket that it inherits (systemd socket activation).  It ends when its only
 * client goes away, so none stays behind, however we end.  None is kept from
 * the constructor: it would not be a child of the process that nbdkit goes
 * on in, and would keep a terminal or pipe open that nbdkit has closed.
 *
 * What can't happen: nothing is ever written (I10), no command that writes is
 * in this file.  What a server says about sizes and extents is only
 * believed as far as it makes sense (I9).
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "error.h"
#include "extent.h"
#include "nbd.h"

#ifdef HAVE_LIBNBD

#include <libnbd.h>

const bool qed_have_libnbd = true;

#define MIN(a, b) ((a) < (b) ? (a) : (b))

/* More connections than that bring nothing more. */
#define MAX_CONNS 4

#define CONNECT_SECONDS 10
#define RETRY_SECONDS 1

/* What any server takes, if it doesn't say; and NBD's limit for the
 * blocks that a server may insist on.
 */
#define MAX_REQUEST (UINT64_C (32) << 20)
#define MAX_MIN_BLOCK (UINT64_C (64) << 10)

/* The length of a request for extents must fit into 32 bits. */
#define MAX_STATUS_REQUEST (UINT64_C (1) << 30)

struct conn {
  /* Guarded by the pool's lock. */
  bool open;                    /* or being opened or closed */
  bool busy;
  bool stale;                   /* to be closed when it isn't busy */

  /* The owner's, while it is busy. */
  struct nbd_handle *h;
  uint64_t min_block;           /* a power of 2 */
  uint64_t max_request;         /* a multiple of it */
  uint8_t *bounce;              /* a block; NULL if those are bytes */
};

struct source {
  struct qed_backing b;
  char *name;                   /* a URI, or if there is a format a path */
  char *format;
  char *program;                /* qemu-nbd's path */
  bool trusted;

  pthread_mutex_t lock;         /* guards the rest */
  pthread_cond_t changed;       /* a connection became free, or was closed */
  struct conn conns[MAX_CONNS];
  unsigned nr_open;
  bool multi;                   /* more than one connection may be opened */
  time_t retry_at;              /* don't connect before; monotonic */
};

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
connect_error (struct source *s, int err, const char *why)
{
  if (s->format)
    return qed_error (EIO, "%s: qemu-nbd doesn't serve this file as %s, see "
                      "its own message if there is one: %s",
                      s->name, s->format, why);
  return qed_error (err ? err : EIO, "%s: %s", s->name, why);
}

/* Has a URI only parameters that it may have?  In an image's header that is
 * the socket: others name files with keys.  Relative names are no good,
 * because nbdkit goes to another directory before we connect again.
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
start_uri (struct source *s, struct nbd_handle *h)
{
  if (nbd_set_uri_allow_transports (h, LIBNBD_ALLOW_TRANSPORT_TCP |
                                    LIBNBD_ALLOW_TRANSPORT_UNIX) == -1 ||
      nbd_set_uri_allow_tls (h, LIBNBD_TLS_ALLOW) == -1 ||
      nbd_set_uri_allow_local_file (h, s->trusted) == -1)
    return -1;
  return nbd_aio_connect_uri (h, s->name);
}

static int
start_qemu_nbd (struct source *s, struct nbd_handle *h)
{
  char read_only[] = "-r", format[] = "-f";
  char *argv[] = { s->program, read_only, format, s->format, s->name, NULL };

  return nbd_aio_connect_systemd_socket_activation (h, argv);
}

/* libnbd would remove the socket when the connection is closed, and so
 * leave it behind if we are killed.  It has served its purpose.
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
finish_connecting (struct source *s, struct nbd_handle *h)
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

/* Servers need no notice (nbd_aio_disconnect, in which libnbd 1.14 uses freed
 * memory if the server has gone).  errno stays as it is.
 */
static void
disconnect (struct conn *c)
{
  int err = errno;

  nbd_close (c->h);
  free (c->bounce);
  c->h = NULL;
  c->bounce = NULL;
  errno = err;
}

/* What blocks does the server want? */
static int
get_block_sizes (struct source *s, struct conn *c)
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
connect_handle (struct source *s, struct conn *c)
{
  struct nbd_handle *h = c->h = nbd_create ();
  int r;

  /* The last block may be smaller than what is called the smallest block, and
   * the server has to know what to do then.
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

/* Connect C, which is ours.  *SIZE is the export's, and *MULTI says whether
 * there may be several connections.
 */
static int
connect_conn (struct source *s, struct conn *c, uint64_t *size, bool *multi)
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

/* The same, when the size is known already. */
static int
reconnect_conn (struct source *s, struct conn *c, bool *multi)
{
  uint64_t size;

  if (connect_conn (s, c, &size, multi) == -1)
    return -1;
  if (size == s->b.size)
    return 0;
  disconnect (c);
  return qed_error (EIO, "%s: the size was %" PRIu64 " bytes when this was "
                    "opened and is %" PRIu64 " now", s->name, s->b.size, size);
}

/* ---- the pool ---- */

/* A free connection, or NULL.  Called with the lock held. */
static struct conn *
find_free (struct source *s)
{
  for (unsigned i = 0; i < MAX_CONNS; ++i)
    if (s->conns[i].open && !s->conns[i].busy)
      return &s->conns[i];
  return NULL;
}

static struct conn *
find_closed (struct source *s)
{
  unsigned i = 0;

  while (s->conns[i].open)
    ++i;
  return &s->conns[i];
}

/* C isn't open any more.  Called with the lock held. */
static void
forget (struct source *s, struct conn *c)
{
  c->open = c->busy = false;
  s->nr_open--;
  pthread_cond_broadcast (&s->changed);
}

static void
close_stale (struct source *s, struct conn *c)
{
  c->busy = true;
  pthread_mutex_unlock (&s->lock);
  disconnect (c);
  pthread_mutex_lock (&s->lock);
  forget (s, c);
}

/* Open another connection.  Called with the lock held, which isn't held
 * meanwhile.  Returns NULL if that failed.
 */
static struct conn *
open_another (struct source *s)
{
  struct conn *c = find_closed (s);
  bool first = s->nr_open == 0, multi = false;
  int r;

  *c = (struct conn) { .open = true, .busy = true };
  s->nr_open++;
  if (first)
    s->retry_at = now () + RETRY_SECONDS;
  pthread_mutex_unlock (&s->lock);
  r = reconnect_conn (s, c, &multi);
  pthread_mutex_lock (&s->lock);

  /* A server that doesn't want another client now isn't asked again while it
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

/* Get a connection to work with, or fail with EIO. */
static struct conn *
take (struct source *s)
{
  struct conn *c;

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
    else if (s->multi && s->nr_open < MAX_CONNS) {
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

/* Give it back.  If it is dead, those that are idle probably are, too. */
static void
give_back (struct source *s, struct conn *c)
{
  bool dead = !nbd_aio_is_ready (c->h);

  pthread_mutex_lock (&s->lock);
  for (unsigned i = 0; dead && i < MAX_CONNS; ++i)
    s->conns[i].stale = true;
  c->busy = false;
  pthread_cond_signal (&s->changed);
  pthread_mutex_unlock (&s->lock);
}

/* ---- requests ---- */

/* Leave a message for a request on C that has failed. */
static int
request_error (struct source *s, struct conn *c, const char *what,
               uint64_t offset)
{
  const char *why = nbd_message ();

  if (nbd_aio_is_ready (c->h))
    return qed_error (EIO, "%s: %s at %" PRIu64 ": the server says: %s",
                      s->name, what, offset, why);
  return qed_error (EIO, "%s: %s at %" PRIu64 ": %s: %s", s->name, what,
                    offset, s->format ? "qemu-nbd has ended"
                    : "the connection to the server is lost", why);
}

/* Read a part of a block that can only be read as a whole.  Returns how much
 * that was, or -1.
 */
static ssize_t
read_in_block (struct source *s, struct conn *c, void *buf, size_t count,
               uint64_t offset)
{
  uint64_t skip = offset & (c->min_block - 1), start = offset - skip;
  uint64_t block = MIN (c->min_block, s->b.size - start);
  size_t n = (size_t) MIN (count, block - skip);

  if (nbd_pread (c->h, c->bounce, (size_t) block, start, 0) == -1)
    return request_error (s, c, "read", start);
  memcpy (buf, c->bounce + skip, n);
  return (ssize_t) n;
}

/* Read some of COUNT bytes.  Returns how many, or -1. */
static ssize_t
read_some (struct source *s, struct conn *c, void *buf, size_t count,
           uint64_t offset)
{
  uint64_t mask = c->min_block - 1;
  size_t n = (size_t) MIN (count & ~mask, c->max_request);

  if ((offset & mask) != 0 || n == 0)
    return read_in_block (s, c, buf, count, offset);
  if (nbd_pread (c->h, buf, n, offset, 0) == -1)
    return request_error (s, c, "read", offset);
  return (ssize_t) n;
}

static int
nbd_backing_pread (struct qed_backing *b, void *buf, size_t count,
                   uint64_t offset)
{
  struct source *s = (struct source *) b;
  struct conn *c;
  ssize_t n = 0;

  if (count == 0)
    return 0;
  c = take (s);
  if (c == NULL)
    return -1;
  for (; count > 0; count -= (size_t) n, offset += (uint64_t) n) {
    n = read_some (s, c, buf, count, offset);
    if (n == -1)
      break;
    buf = (uint8_t *) buf + n;
  }
  give_back (s, c);
  return n == -1 ? -1 : 0;
}

/* What a reply with extents is turned into. */
struct status {
  struct qed_collector c;
  uint64_t at;                  /* where the next extent of the reply is */
  uint64_t pos, end;            /* what was told, and is to be told */
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

/* Ask the server for extents from st->pos on.  False if nothing was learned.
 * It is asked about whole blocks.
 */
static bool
ask_extents (struct source *s, struct conn *c, struct status *st)
{
  nbd_extent_callback cb = { .callback = add_extents, .user_data = st };
  uint64_t mask = c->min_block - 1, pos = st->pos, start = pos & ~mask;
  uint64_t end = (st->end + mask) & ~mask;

  end = MIN (MIN (end, s->b.size), start + MAX_STATUS_REQUEST);
  st->at = start;
  return nbd_block_status (c->h, end - start, start, cb, 0) == 0 &&
    st->pos > pos;
}

static int
nbd_backing_extents (struct qed_backing *b, uint64_t offset, uint64_t length,
                     qed_extent_fn *fn, void *opaque)
{
  struct source *s = (struct source *) b;
  struct status st = {
    .c = { .fn = fn, .opaque = opaque, .offset = offset },
    .pos = offset, .end = offset + length,
  };
  struct conn *c = take (s);

  if (c != NULL) {
    if (nbd_can_meta_context (c->h, LIBNBD_CONTEXT_BASE_ALLOCATION) > 0)
      while (st.c.r == 0 && st.pos < st.end && ask_extents (s, c, &st))
        ;
    give_back (s, c);
  }
  /* What isn't known is data: reading it says what is wrong. */
  if (st.pos < st.end)
    qed_collect (&st.c, st.end - st.pos, false);
  return qed_collect_end (&st.c);
}

static int
nbd_backing_prefetch (struct qed_backing *b, uint64_t offset, uint64_t length)
{
  struct source *s = (struct source *) b;
  struct conn *c = take (s);
  uint64_t end = offset + length;
  int r = 0;

  if (c == NULL)
    return -1;
  if (nbd_can_cache (c->h) > 0) {
    offset &= ~(c->min_block - 1);
    for (uint64_t n; r == 0 && offset < end; offset += n) {
      n = MIN (c->max_request, s->b.size - offset);
      n = MIN (n, (end - offset + c->min_block - 1) & ~(c->min_block - 1));
      if (nbd_cache (c->h, n, offset, 0) == -1)
        r = request_error (s, c, "prefetch", offset);
    }
  }
  give_back (s, c);
  return r;
}

/* ---- opening and closing ---- */

static void
free_source (struct source *s)
{
  for (unsigned i = 0; i < MAX_CONNS; ++i)
    disconnect (&s->conns[i]);
  pthread_cond_destroy (&s->changed);
  pthread_mutex_destroy (&s->lock);
  free (s->program);
  free (s->format);
  free (s->name);
  free (s);
}

static void
nbd_backing_close (struct qed_backing *b)
{
  free_source ((struct source *) b);
}

static const struct qed_backing_ops nbd_ops = {
  .pread = nbd_backing_pread,
  .extents = nbd_backing_extents,
  .prefetch = nbd_backing_prefetch,
  .close = nbd_backing_close,
};

/* A copy of S, which may be NULL.  *FAILED is set if there is no memory. */
static char *
copy (const char *s, bool *failed)
{
  char *r = s ? strdup (s) : NULL;

  if (s != NULL && r == NULL)
    *failed = true;
  return r;
}

static struct source *
new_source (const char *name, const char *format, const char *program,
            bool trusted)
{
  struct source *s = calloc (1, sizeof *s);
  bool failed = false;

  if (s == NULL) {
    qed_error (errno, "%s: %m", name);
    return NULL;
  }
  pthread_mutex_init (&s->lock, NULL);
  pthread_cond_init (&s->changed, NULL);
  s->name = copy (name, &failed);
  s->format = copy (format, &failed);
  s->program = copy (program, &failed);
  s->trusted = trusted;
  s->b = (struct qed_backing) { .ops = &nbd_ops, .name = s->name };
  if (failed) {
    qed_error (ENOMEM, "%s: %m", name);
    free_source (s);
    return NULL;
  }
  return s;
}

struct qed_backing *
qed_nbd_open_uri (const char *uri, bool trusted)
{
  struct source *s;

  if (check_parameters (uri, trusted) == -1)
    return NULL;
  s = new_source (uri, NULL, NULL, trusted);
  if (s == NULL)
    return NULL;
  if (connect_conn (s, &s->conns[0], &s->b.size, &s->multi) == -1) {
    free_source (s);
    return NULL;
  }
  s->conns[0].open = true;
  s->nr_open = 1;
  return &s->b;
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

struct qed_backing *
qed_nbd_open_file (const char *path, const char *format)
{
  char *program = find_program ("qemu-nbd");
  struct source *s;
  int r;

  if (program == NULL) {
    qed_error (errno, "%s: reading format %s takes the program qemu-nbd "
               "(on Debian in the package qemu-utils): %m", path, format);
    return NULL;
  }
  s = new_source (path, format, program, true);
  free (program);
  if (s == NULL)
    return NULL;
  r = connect_conn (s, &s->conns[0], &s->b.size, &s->multi);
  if (r == -1) {
    free_source (s);
    return NULL;
  }
  disconnect (&s->conns[0]);
  return &s->b;
}

#else /* !HAVE_LIBNBD */

const bool qed_have_libnbd = false;

static struct qed_backing *
without_libnbd (const char *name)
{
  qed_error (ENOTSUP, "%s: this takes libnbd, and nbdkit-qed was built "
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
