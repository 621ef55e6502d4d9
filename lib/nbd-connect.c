/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Connecting to an NBD server with libnbd: to an export that a URI names, or to
 * a program of our own that serves one: qemu-nbd for a file in a format that
 * this library doesn't read, or the command of the user.
 *
 * Connecting gives up after some seconds, and sooner when the process is about
 * to end (qed_hurry).
 *
 * Programs: libnbd starts them with a socket that they inherit (systemd socket
 * activation).  A qemu-nbd ends when its only client goes away, so none stays
 * behind, however we end, and each connection has one of its own.  A command is
 * one process with one connection, and it is ended when that is closed, by
 * force if need be.  libnbd lets the kernel end a program when the thread that
 * started it does.  A request's thread may end any time, so a program has a
 * thread of its own, its keeper, which starts it and ends it.  No
 * process is kept when the process that started it goes into the
 * background: it would not be a child of the one that goes on, and would keep a
 * terminal or pipe open that nbdkit has closed.
 *
 * Locking: a connection belongs to the thread that opens or closes it.
 *
 * This file knows nothing of what is read and written, or what for.  What
 * the server says about sizes is only believed as far as it makes sense (I9).
 *
 * Built only if there is libnbd.
 */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "error.h"
#include "nbd-connect.h"

#define MIN(a, b) ((a) < (b) ? (a) : (b))

#define CONNECT_SECONDS 10

/* A program that doesn't end when it is told to is killed after this time, and
 * left to itself if even that does nothing.
 */
#define END_SECONDS 2

/* Any server takes requests of this length unless it says otherwise.  The
 * other is NBD's limit for the blocks that a server may insist on.
 */
#define MAX_REQUEST (UINT64_C (32) << 20)
#define MAX_MIN_BLOCK (UINT64_C (64) << 10)

static atomic_bool hurry;

void
qed_hurry (void)
{
  atomic_store (&hurry, true);
}

bool (*qed_is_ending) (void);

bool
qed_nbd_in_hurry (void)
{
  if (!atomic_load (&hurry) && qed_is_ending && qed_is_ending ())
    qed_hurry ();
  return atomic_load (&hurry);
}

time_t
qed_nbd_now (void)
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
  if (s->argv)
    return qed_error (EIO, "%s: the command doesn't serve NBD on the socket "
                      "that it inherits, see its own message if there is one: "
                      "%s", s->name, why);
  return qed_error (err ? err : EIO, "%s: %s", s->name, why);
}

int
qed_nbd_check_uri (const char *uri, bool trusted)
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
set_up_uri (struct nbd_server *s, struct nbd_handle *h)
{
  if (nbd_set_uri_allow_transports (h, LIBNBD_ALLOW_TRANSPORT_TCP |
                                    LIBNBD_ALLOW_TRANSPORT_UNIX) == -1 ||
      nbd_set_uri_allow_tls (h, LIBNBD_TLS_ALLOW) == -1 ||
      nbd_set_uri_allow_local_file (h, s->trusted) == -1)
    return -1;
  return nbd_aio_connect_uri (h, s->name);
}

static int
start_uri (struct nbd_server *s, struct nbd_handle *h)
{
  return set_up_uri (s, h) == -1 ?
    connect_error (s, nbd_get_errno (), nbd_message ()) : 0;
}

/* ---- programs ---- */

struct nbd_keeper {
  struct nbd_handle *h;
  char **argv;                  /* only until STARTED */
  int directory;                /* borrowed; or -1 */
  pthread_t thread;
  pid_t process;                /* whose thread it is */
  sem_t started, to_end;
  int r, err;                   /* of starting ... */
  char why[256];                /* ... and libnbd's message */
};

/* Does the program of this thread, its only child, still run? */
static bool
runs (void)
{
  siginfo_t info = { .si_pid = 0 };

  return waitid (P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT | __WNOTHREAD)
    == 0 && info.si_pid == 0;
}

/* Close the handle of a program, and end that. */
static void *
end_program (void *h)
{
  const time_t start = qed_nbd_now ();

  nbd_kill_subprocess (h, SIGTERM);
  while (runs () && qed_nbd_now () - start < END_SECONDS)
    poll (NULL, 0, 10);
  if (runs ())
    nbd_kill_subprocess (h, SIGKILL);
  nbd_close (h);
  return NULL;
}

static void *
keep (void *opaque)
{
  struct nbd_keeper *k = opaque;

  /* nbdkit changes its directory in between.  This thread gets one of its own.
   */
  if (k->directory >= 0 &&
      (unshare (CLONE_FS) == -1 || fchdir (k->directory) == -1) && qed_debug)
    qed_debug ("%s: starts in another directory: %m", k->argv[0]);
  k->r = nbd_aio_connect_systemd_socket_activation (k->h, k->argv);
  if (k->r == -1) {
    k->err = nbd_get_errno ();
    snprintf (k->why, sizeof k->why, "%s", nbd_message ());
  }
  sem_post (&k->started);

  while (sem_wait (&k->to_end) == -1)
    ;
  end_program (k->h);
  sem_destroy (&k->started);
  sem_destroy (&k->to_end);
  free (k);
  return NULL;
}

/* Start the program of S for C, whose handle was created. */
static int
start_program (struct nbd_server *s, struct nbd_conn *c)
{
  struct nbd_keeper *k = calloc (1, sizeof *k);

  if (k == NULL)
    return qed_error (errno, "%s: %m", s->name);
  k->h = c->h;
  k->argv = s->argv;
  k->directory = s->directory;
  k->process = getpid ();
  sem_init (&k->started, 0, 0);
  sem_init (&k->to_end, 0, 0);
  errno = pthread_create (&k->thread, NULL, keep, k);
  if (errno != 0) {
    sem_destroy (&k->started);
    sem_destroy (&k->to_end);
    free (k);
    return qed_error (errno, "%s: pthread_create: %m", s->name);
  }
  c->keeper = k;
  while (sem_wait (&k->started) == -1)
    ;
  return k->r == -1 ? connect_error (s, k->err, k->why) : 0;
}

/* Let C's keeper end the program, which may take for ever. */
static void
close_program (struct nbd_conn *c)
{
  struct nbd_keeper *k = c->keeper;
  pthread_t thread = k->thread;
  struct timespec until;

  c->keeper = NULL;
  if (k->process != getpid ()) {
    /* The process has forked, and the keeper is in the other one.  libnbd
     * sends the signal, and can't wait for a program that isn't our child.
     */
    free (k);
    nbd_close (c->h);
    return;
  }
  sem_post (&k->to_end);
  clock_gettime (CLOCK_REALTIME, &until);
  until.tv_sec += END_SECONDS + 1;
  if (pthread_timedjoin_np (thread, NULL, &until) != 0)
    pthread_detach (thread);
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
  time_t start = qed_nbd_now ();
  int r;

  while (nbd_aio_is_connecting (h)) {
    const bool ending = atomic_load (&hurry);

    if (atomic_load (&s->given_up))
      return connect_error (s, EIO, "the server is given up");
    if (qed_nbd_now () - start >=
        (ending ? NBD_PATIENCE_SECONDS : CONNECT_SECONDS)) {
      if (ending)
        atomic_store (&s->given_up, true);
      return connect_error (s, ETIMEDOUT, "the server doesn't answer");
    }
    r = nbd_poll (h, 1000);
    if (r == -1)
      break;
    if (r == 0)
      (void) qed_nbd_in_hurry ();
  }
  if (nbd_aio_is_ready (h))
    return 0;
  return connect_error (s, nbd_get_errno (), nbd_message ());
}

/* The server gets no notice, because it needs none, and nbd_aio_disconnect of
 * libnbd 1.14 uses freed memory if the server has gone.
 */
void
qed_nbd_disconnect (struct nbd_conn *c)
{
  int err = errno;

  if (c->keeper)
    close_program (c);
  else
    nbd_close (c->h);
  if (c->kick >= 0)
    close (c->kick);
  c->h = NULL;
  c->kick = -1;
  errno = err;
}

/* ---- opening ---- */

static int
get_block_sizes (struct nbd_server *s, struct nbd_handle *h,
                 struct nbd_offer *o)
{
  int64_t min = nbd_get_block_size (h, LIBNBD_SIZE_MINIMUM);
  int64_t max = nbd_get_block_size (h, LIBNBD_SIZE_MAXIMUM);

  o->min_block = min > 0 ? (uint64_t) min : 1;
  if (o->min_block > MAX_MIN_BLOCK || (o->min_block & (o->min_block - 1)))
    return qed_error (EINVAL, "%s: the server wants blocks of %" PRIu64
                      " bytes: they must be a power of 2, at most %" PRIu64,
                      s->name, o->min_block, MAX_MIN_BLOCK);
  o->max_request = max > 0 ? MIN ((uint64_t) max, MAX_REQUEST) : MAX_REQUEST;
  o->max_request &= ~(o->min_block - 1);
  if (o->max_request == 0)
    o->max_request = o->min_block;
  return 0;
}

/* Fill O with what the server offers. */
static int
get_offer (struct nbd_server *s, struct nbd_handle *h, struct nbd_offer *o)
{
  int64_t size = nbd_get_size (h);

  if (size < 0)
    return qed_error (EINVAL, "%s: size: %s", s->name, nbd_message ());
  *o = (struct nbd_offer) {
    .size = (uint64_t) size,
    .read_only = nbd_is_read_only (h) > 0,
    .flush = nbd_can_flush (h) > 0,
    .zero = nbd_can_zero (h) > 0,
    .fast_zero = nbd_can_fast_zero (h) > 0,
    .trim = nbd_can_trim (h) > 0,
    .cache = nbd_can_cache (h) > 0,
    .extents = nbd_can_meta_context (h, LIBNBD_CONTEXT_BASE_ALLOCATION) > 0,
    .rotational = nbd_is_rotational (h) > 0,
  };
  return get_block_sizes (s, h, o);
}

/* Set up C's handle and connect it. */
static int
connect_handle (struct nbd_server *s, struct nbd_conn *c)
{
  struct nbd_handle *h = c->h = nbd_create ();
  int r;

  /* The last block of an export may be smaller than the server's smallest
   * block.  Let the server decide about requests for it.
   *
   * Buffers aren't zeroed first, which takes as long as copying: a read whose
   * reply isn't as long as the request fails.
   */
  if (h == NULL || nbd_add_meta_context (h, LIBNBD_CONTEXT_BASE_ALLOCATION) ||
      nbd_set_strict_mode (h, nbd_get_strict_mode (h) & ~LIBNBD_STRICT_ALIGN)
      || nbd_set_pread_initialize (h, false) == -1)
    return qed_error (ENOMEM, "%s: %s", s->name, nbd_message ());

  r = s->argv ? start_program (s, c) : start_uri (s, h);
  if (r == 0)
    r = finish_connecting (s, h);
  if (r == 0 && s->argv)
    remove_socket (h);
  return r;
}

int
qed_nbd_connect (struct nbd_server *s, struct nbd_conn *c,
                 struct nbd_offer *o, bool *multi)
{
  c->kick = -1;
  if (connect_handle (s, c) == -1 || get_offer (s, c->h, o) == -1)
    goto fail;
  c->fd = nbd_aio_get_fd (c->h);
  c->kick = eventfd (0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (c->kick == -1) {
    qed_error (errno, "%s: eventfd: %m", s->name);
    goto fail;
  }
  *multi = s->format || (!s->argv && nbd_can_multi_conn (c->h) > 0);
  return 0;

 fail:
  qed_nbd_disconnect (c);
  return -1;
}

/* Does a server that offers O refuse requests that it took when it offered WAS?
 */
static bool
offers_less (const struct nbd_offer *o, const struct nbd_offer *was)
{
  return o->max_request < was->max_request || o->flush < was->flush ||
    o->zero < was->zero || o->fast_zero < was->fast_zero ||
    o->trim < was->trim || o->cache < was->cache || o->extents < was->extents;
}

int
qed_nbd_reconnect (struct nbd_server *s, struct nbd_conn *c, bool *multi)
{
  const struct nbd_offer *was = &s->offer;
  struct nbd_offer o;

  if (qed_nbd_connect (s, c, &o, multi) == -1)
    return -1;
  if (o.size != was->size)
    qed_error (EIO, "%s: the size was %" PRIu64 " bytes when this was "
               "opened and is %" PRIu64 " now", s->name, was->size, o.size);
  else if (o.min_block != was->min_block || o.read_only != was->read_only ||
           offers_less (&o, was))
    qed_error (EIO, "%s: the server offers less than when this was opened, or "
               "wants other blocks", s->name);
  else
    return 0;
  qed_nbd_disconnect (c);
  errno = EIO;
  return -1;
}
