/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* An NBD server, seen through a pool of connections by libnbd.
 *
 * The pool: the first connection is opened in the constructor, where errors can
 * be seen, and it fixes what the server offers.  A request takes the connection
 * with the fewest requests.  When all of them have many, another one is opened,
 * if the server promises that all connections see the same (multi-conn).
 *
 * Requests of several threads share a connection.  One of the threads leads: it
 * waits for the socket, and what it receives completes requests of its own and
 * of others.  When its own request is complete it hands the lead to one that
 * waits.  So a thread alone on its connection makes the same system calls as
 * it would without others, and no thread is needed for receiving.
 *
 * Locking: S->lock guards the pool and the counts of writes, and the handle of
 * a connection without users.  C->lock guards the requests of a connection, and
 * its handle while it has users; only whether that is dead is asked without it,
 * since libnbd has a lock of its own.  S->lock isn't taken under C->lock, nor
 * the other way round.  Neither is held while waiting for the server, nor while
 * a connection is opened or closed.
 *
 * Lost connections: all requests under way on it fail with EIO.  The others
 * aren't used any more.  The next request connects again, but not more often
 * than once a second: in between requests fail at once.  A server that comes
 * back with another size, or offers less, isn't used.  An idle connection is
 * looked at before it is used, so that no request is given to a server that has
 * gone.
 *
 * I5: writes that the server has acknowledged are counted, and so are those
 * that a flush has made durable.  If the numbers differ when a connection is
 * lost, an acknowledged write may be lost, too.  If a write is under way
 * then, the server may still do it, after a later one in the same place.
 * In both cases no more is written: S->over.  A flush that succeeds then, on a
 * connection to a new server, says nothing of these writes.
 *
 * A server may go and come back without our knowing: a connection to the old
 * one seems to be slow, and another one, opened meanwhile, is to the new one.
 * So a flush takes the oldest connection: if it was to the old one the flush
 * doesn't succeed.
 *
 * A server that hangs makes its requests hang, as a disk would, until the
 * process is about to end (qed_hurry).  Then a server that doesn't answer for
 * some seconds is given up, with all its connections.
 *
 * Built only if there is libnbd.
 */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "error.h"
#include "nbd-connection.h"

/* How soon a lost server is connected to again. */
#define RETRY_SECONDS 1

/* As many requests share a connection before another one is opened.  Fewer
 * would cost more: the server, and we, find the next one there without waiting.
 */
#define NBD_BUSY 8

/* ---- the pool: all with S->lock ---- */

static bool
is_alive (const struct nbd_conn *c)
{
  return nbd_aio_is_dead (c->h) == 0 && nbd_aio_is_closed (c->h) == 0;
}

/* Has the server gone while C was idle?  It sends nothing then, but TLS may. */
static bool
is_still_connected (struct nbd_conn *c)
{
  struct pollfd p = { .fd = c->fd, .events = POLLIN };

  if (poll (&p, 1, 0) == 1)
    nbd_aio_notify_read (c->h);
  return is_alive (c);
}

static struct nbd_conn *
oldest (struct nbd_server *s)
{
  struct nbd_conn *best = NULL;

  for (struct nbd_conn *c = s->conns; c < s->conns + NBD_MAX_CONNS; ++c)
    if (c->ready && (best == NULL || c->number < best->number))
      best = c;
  return best;
}

static struct nbd_conn *
least_used (struct nbd_server *s)
{
  struct nbd_conn *best = NULL;

  for (struct nbd_conn *c = s->conns; c < s->conns + NBD_MAX_CONNS; ++c)
    if (c->ready && (best == NULL || c->users < best->users))
      best = c;
  return best;
}

/* How many writes aren't known to be durable: those that the server has
 * acknowledged, and those under way.
 */
static uint64_t
writes_in_doubt (const struct nbd_server *s)
{
  uint64_t n = s->written - s->flushed;

  for (const struct nbd_conn *c = s->conns; c < s->conns + NBD_MAX_CONNS; ++c)
    n += c->writers;
  return n;
}

/* Nothing more is written (I5). */
static void
end_writing (struct nbd_server *s)
{
  if (!s->over)
    s->in_doubt = writes_in_doubt (s);
  s->over = true;
}

/* C is dead.  The others probably are, too, or are connected to a server that
 * is ending, and what a new one acknowledges is no concern of theirs.
 */
static void
mark_lost (struct nbd_server *s, struct nbd_conn *c)
{
  if (c->lost)
    return;
  c->lost = true;
  if (c->writers > 0 || (!c->stale && s->written != s->flushed))
    end_writing (s);
  for (struct nbd_conn *o = s->conns; o < s->conns + NBD_MAX_CONNS; ++o)
    if (o->ready) {
      o->ready = false;
      o->stale = o != c;
    }
}

/* C has been closed, or couldn't be opened. */
static void
forget (struct nbd_server *s, struct nbd_conn *c)
{
  c->open = c->lost = c->stale = false;
  s->nr_open--;
  pthread_cond_broadcast (&s->changed);
}

/* Close C, which has no users and isn't ready.  Lets go of the lock meanwhile.
 */
static void
close_conn (struct nbd_server *s, struct nbd_conn *c)
{
  c->lost = c->stale = false;   /* no other thread closes it */
  pthread_mutex_unlock (&s->lock);
  qed_nbd_disconnect (c);
  pthread_mutex_lock (&s->lock);
  forget (s, c);
}

/* Close all that are lost or stale, and have no users. */
static void
close_unused (struct nbd_server *s)
{
  for (struct nbd_conn *c = s->conns; c < s->conns + NBD_MAX_CONNS; ++c)
    if ((c->lost || c->stale) && c->users == 0)
      close_conn (s, c);
}

/* Open another connection, or return NULL.  Lets go of the lock meanwhile. */
static struct nbd_conn *
open_another (struct nbd_server *s)
{
  struct nbd_conn *c = s->conns;
  bool first, multi = false;
  int r;

  while (c->open)
    ++c;
  c->open = true;
  s->nr_open++;
  s->opening = true;
  pthread_mutex_unlock (&s->lock);
  r = qed_nbd_reconnect (s, c, &multi);
  pthread_mutex_lock (&s->lock);
  first = oldest (s) == NULL;   /* those that there were may be lost now */
  if (r == 0 && !first && !multi) { /* another server than theirs */
    pthread_mutex_unlock (&s->lock);
    qed_nbd_disconnect (c);
    pthread_mutex_lock (&s->lock);
    r = -1;
  }
  s->opening = false;

  /* A server that refuses another connection now isn't asked again while it
   * serves those that it has.
   */
  if (first || r == -1)
    s->multi = multi && r == 0;
  if (r == 0) {
    c->ready = true;
    c->number = ++s->last_number;
    pthread_cond_broadcast (&s->changed);
    return c;
  }
  if (first)
    s->retry_at = qed_nbd_now () + RETRY_SECONDS;
  forget (s, c);
  return NULL;
}

int
qed_nbd_over_error (const struct nbd_server *s)
{
  return qed_error (EIO, "%s: the connection to the server was lost, and what "
                    "was written since the last flush may be lost, too "
                    "(requests: %" PRIu64 "): nothing more is written there "
                    "until it is opened again", s->name, s->in_doubt);
}

/* May a request be made?  Else a message says why not. */
static int
check_usable (struct nbd_server *s, bool writes)
{
  if (s->given_up)
    return qed_error (EIO, "%s: the server doesn't answer, and is given up "
                      "because this process is ending", s->name);
  return writes && s->over ? qed_nbd_over_error (s) : 0;
}

/* Find a connection to use, or open one.  NULL: EIO, with a message. */
static struct nbd_conn *
find_connection (struct nbd_server *s, bool writes, bool flushes)
{
  for (;;) {
    struct nbd_conn *c = flushes ? oldest (s) : least_used (s);

    if (check_usable (s, writes) == -1)
      return NULL;
    if (c != NULL && c->users == 0) {
      if (is_still_connected (c))
        return c;
      mark_lost (s, c);
      close_unused (s);
    }
    else if (c != NULL && (flushes || c->users < NBD_BUSY || !s->multi ||
                           s->opening || s->nr_open == NBD_MAX_CONNS))
      return c;
    else if (s->opening || s->nr_open == NBD_MAX_CONNS)
      pthread_cond_wait (&s->changed, &s->lock);
    else if (c == NULL && qed_nbd_now () < s->retry_at) {
      qed_error (EIO, "%s: the connection was lost a moment ago", s->name);
      return NULL;
    }
    else {
      struct nbd_conn *another = open_another (s);

      if (another != NULL || c == NULL)
        return another;
    }
  }
}

static struct nbd_conn *
take (struct nbd_server *s, bool writes, bool flushes)
{
  struct nbd_conn *c;

  pthread_mutex_lock (&s->lock);
  c = find_connection (s, writes, flushes);
  if (c != NULL) {
    c->users++;
    c->writers += writes;
  }
  pthread_mutex_unlock (&s->lock);
  if (c == NULL)
    errno = EIO;
  return c;
}

struct nbd_conn *
qed_nbd_take (struct nbd_server *s, bool writes)
{
  return take (s, writes, false);
}

struct nbd_conn *
qed_nbd_take_oldest (struct nbd_server *s)
{
  return take (s, false, true);
}

void
qed_nbd_give_back (struct nbd_server *s, struct nbd_conn *c, bool writes,
                   bool written)
{
  int err = errno;

  pthread_mutex_lock (&s->lock);
  s->written += written;
  if (!is_alive (c))
    mark_lost (s, c);
  if (written && c->stale) /* by a server that may not be the one we use now */
    end_writing (s);
  c->users--;
  c->writers -= writes;
  close_unused (s);
  pthread_mutex_unlock (&s->lock);
  errno = err;
}

/* ---- requests ---- */

static void
add_request (struct nbd_conn *c, struct nbd_request *r)
{
  r->next = c->requests;
  if (r->next)
    r->next->prev = r;
  c->requests = r;
}

/* R is complete.  Its thread needn't take C->lock to go on, so that the one
 * that leads can go on too.  Called with C->lock.
 */
static void
complete_request (struct nbd_conn *c, struct nbd_request *r, int err)
{
  if (r->prev)
    r->prev->next = r->next;
  else
    c->requests = r->next;
  if (r->next)
    r->next->prev = r->prev;
  c->completed++;
  r->err = err;
  r->done = true;
  sem_post (&r->wake);
}

struct completion {
  struct nbd_conn *c;
  struct nbd_request *r;
};

/* Called by libnbd, in a thread that holds C->lock.  libnbd frees what it knows
 * of the request if 1 is returned.  The function that begins the request, when
 * it finds the connection lost, looks at that once more, so it must stay until
 * the function has returned.
 */
static int
complete (void *opaque, int *error)
{
  const struct completion *completion = opaque;
  const bool begun = completion->r->begun;

  complete_request (completion->c, completion->r, *error);
  return begun;
}

/* Begin R on C, with C->lock.  R may be complete afterwards. */
static void
begin_request (struct nbd_conn *c, struct nbd_request *r,
               qed_nbd_begin_fn *begin, void *opaque,
               struct completion *completion)
{
  int64_t cookie;

  add_request (c, r);
  cookie = begin (c->h, opaque, (nbd_completion_callback) {
      .callback = complete, .user_data = completion,
    });
  r->begun = true;
  /* After a failure the request may have been completed or not. */
  if (cookie == -1 && !r->done)
    complete_request (c, r, nbd_get_errno () ? : EIO);
  else if (cookie != -1 && r->done)
    nbd_aio_command_completed (c->h, (uint64_t) cookie);
}

/* How long a thread has waited for any request to be completed. */
struct patience {
  uint64_t completed;           /* C->completed ... */
  time_t since;                 /* ... and when it became that */
  time_t asked;                 /* when it was asked whether there is a hurry */
};

/* Give the server up if it takes too long while the process is ending.  Called
 * with C->lock.
 */
static void
lose_patience (struct nbd_server *s, struct nbd_conn *c, struct patience *p)
{
  const time_t t = qed_nbd_now ();

  if (c->completed != p->completed) {
    p->completed = c->completed;
    p->since = t;
  }
  if (t - p->asked < 1)
    return;
  p->asked = t;
  if (qed_nbd_in_hurry () && t - p->since >= NBD_PATIENCE_SECONDS &&
      is_alive (c)) {
    atomic_store (&s->given_up, true);
    shutdown (c->fd, SHUT_RDWR);
  }
}

/* Let libnbd send and receive what it can.  Called with C->lock. */
static void
advance (struct nbd_conn *c, int events)
{
  unsigned dir = nbd_aio_get_direction (c->h);

  if (dir & LIBNBD_AIO_DIRECTION_READ && events & ~POLLOUT)
    nbd_aio_notify_read (c->h);
  else if (dir & LIBNBD_AIO_DIRECTION_WRITE && events)
    nbd_aio_notify_write (c->h);

  /* libnbd has completed all requests of a dead connection, if it is right. */
  if (!is_alive (c))
    while (c->requests)
      complete_request (c, c->requests, ENOTCONN);
}

/* Wait for the socket until R is complete.  Called with C->lock, which it drops
 * meanwhile.
 */
static void
lead (struct nbd_server *s, struct nbd_conn *c, const struct nbd_request *r)
{
  const time_t start = qed_nbd_now ();
  struct patience p = { c->completed, start, start };

  while (!r->done) {
    unsigned dir = nbd_aio_get_direction (c->h);
    struct pollfd fds[] = {
      { .fd = c->fd },
      { .fd = c->kick, .events = POLLIN },
    };
    uint64_t count;
    int n;

    c->sending = dir & LIBNBD_AIO_DIRECTION_WRITE;
    fds[0].events = (short) ((dir & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
                             (c->sending ? POLLOUT : 0));
    pthread_mutex_unlock (&c->lock);
    n = poll (fds, 2, 1000);
    if (n > 0 && fds[1].revents && read (c->kick, &count, sizeof count) == -1)
      n = errno == EAGAIN ? n : -1;
    pthread_mutex_lock (&c->lock);
    if (n > 0 && fds[0].revents)
      advance (c, fds[0].revents);
    lose_patience (s, c, &p);
  }
}

/* A thread has led until its request was complete: let another one lead. */
static void
hand_over (struct nbd_conn *c)
{
  struct nbd_request *r = c->requests;

  c->led = r != NULL;
  if (r != NULL) {
    r->leads = true;
    sem_post (&r->wake);
  }
}

/* Let the thread of R, which has been begun, lead if no other does.  Called
 * with C->lock.
 */
static void
choose_leader (struct nbd_conn *c, struct nbd_request *r)
{
  if (r->done)
    return;
  if (!c->led)
    r->leads = c->led = true;
  else if (!c->sending &&
           nbd_aio_get_direction (c->h) & LIBNBD_AIO_DIRECTION_WRITE)
    /* The thread that leads must wait for more.  The value can't overflow. */
    (void) !write (c->kick, &(uint64_t) { 1 }, sizeof (uint64_t));
}

/* Wait until R is complete.  LEADS: it leads from the start.  Called without
 * C->lock.
 */
static void
wait_for (struct nbd_server *s, struct nbd_conn *c, struct nbd_request *r,
          bool leads)
{
  if (!leads) {
    while (sem_wait (&r->wake) == -1)
      ;
    /* Another thread set this before it woke us, or never does. */
    if (!r->leads)
      return;
  }
  pthread_mutex_lock (&c->lock);
  lead (s, c, r);
  hand_over (c);
  pthread_mutex_unlock (&c->lock);
}

/* The server hasn't answered while the process was ending. */
static int
given_up_error (struct nbd_server *s, const char *what, uint64_t offset)
{
  uint64_t in_doubt;

  pthread_mutex_lock (&s->lock);
  in_doubt = s->over ? s->in_doubt : writes_in_doubt (s);
  pthread_mutex_unlock (&s->lock);
  return qed_error (EIO, "%s: %s at %" PRIu64 ": the server hasn't answered "
                    "for %d seconds, and this process is ending: %" PRIu64
                    " writes since the last flush are not known to be durable",
                    s->name, what, offset, NBD_PATIENCE_SECONDS, in_doubt);
}

static int
request_error (struct nbd_server *s, struct nbd_conn *c, int err,
               const char *what, uint64_t offset)
{
  const char *why = strerror (err);

  if (is_alive (c))
    return qed_error (err == ENOSPC || err == ENOTSUP ? err : EIO,
                      "%s: %s at %" PRIu64 ": the server says: %s",
                      s->name, what, offset, why);
  if (atomic_load (&s->given_up))
    return given_up_error (s, what, offset);
  return qed_error (EIO, "%s: %s at %" PRIu64 ": %s", s->name, what,
                    offset, s->format ? "qemu-nbd has ended" :
                    s->argv ? "the command has ended" :
                    "the connection to the server is lost");
}

int
qed_nbd_do (struct nbd_server *s, struct nbd_conn *c, qed_nbd_begin_fn *begin,
            void *opaque, const char *what, uint64_t offset)
{
  struct nbd_request r = { .done = false };
  struct completion completion = { c, &r };
  bool leads;

  sem_init (&r.wake, 0, 0);
  pthread_mutex_lock (&c->lock);
  begin_request (c, &r, begin, opaque, &completion);
  choose_leader (c, &r);
  leads = r.leads;
  pthread_mutex_unlock (&c->lock);

  wait_for (s, c, &r, leads);
  sem_destroy (&r.wake);
  return r.err == 0 ? 0 : request_error (s, c, r.err, what, offset);
}

/* ---- opening and closing ---- */

void
qed_nbd_free (struct nbd_server *s)
{
  for (struct nbd_conn *c = s->conns; c < s->conns + NBD_MAX_CONNS; ++c) {
    if (c->open)
      qed_nbd_disconnect (c);
    pthread_mutex_destroy (&c->lock);
  }
  pthread_rwlock_destroy (&s->blocks);
  pthread_cond_destroy (&s->changed);
  pthread_mutex_destroy (&s->lock);
  for (char **p = s->argv; p && *p; ++p)
    free (*p);
  free (s->argv);
  if (s->directory >= 0)
    close (s->directory);
  free (s->format);
  free (s->name);
}

void
qed_nbd_give_up (struct nbd_server *s)
{
  atomic_store (&s->given_up, true);
  pthread_mutex_lock (&s->lock);
  for (struct nbd_conn *c = s->conns; c < s->conns + NBD_MAX_CONNS; ++c)
    if (c->users > 0)           /* so it isn't being closed */
      shutdown (c->fd, SHUT_RDWR);
  pthread_mutex_unlock (&s->lock);
}

void
qed_nbd_restart (struct nbd_server *s)
{
  pthread_mutex_lock (&s->lock);
  for (struct nbd_conn *c = s->conns; c < s->conns + NBD_MAX_CONNS; ++c)
    if (s->argv && c->open) {
      /* The process that forked has a copy of the socket and may go on. */
      shutdown (c->fd, SHUT_RDWR);
      c->ready = false;
      close_conn (s, c);
    }
  pthread_mutex_unlock (&s->lock);
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

static char **
copy_list (const char *const list[], bool *failed)
{
  size_t n = 0;
  char **r;

  while (list && list[n])
    ++n;
  r = n > 0 ? calloc (n + 1, sizeof *r) : NULL;
  if (r == NULL) {
    *failed |= n > 0;
    return NULL;
  }
  for (size_t i = 0; i < n; ++i)
    r[i] = copy (list[i], failed);
  return r;
}

static int
init_server (struct nbd_server *s, const char *name, const char *format,
             const char *const argv[], bool trusted)
{
  bool failed = false;

  *s = (struct nbd_server) { .trusted = trusted, .directory = -1 };
  pthread_mutex_init (&s->lock, NULL);
  pthread_cond_init (&s->changed, NULL);
  pthread_rwlock_init (&s->blocks, NULL);
  for (struct nbd_conn *c = s->conns; c < s->conns + NBD_MAX_CONNS; ++c) {
    pthread_mutex_init (&c->lock, NULL);
    c->kick = -1;
  }
  s->name = copy (name, &failed);
  s->format = copy (format, &failed);
  s->argv = copy_list (argv, &failed);
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
  struct nbd_conn *c = &s->conns[0];

  if (qed_nbd_connect (s, c, &s->offer, &s->multi) == -1) {
    int err = errno;

    qed_nbd_free (s);
    errno = err;
    return -1;
  }
  c->open = c->ready = true;
  s->nr_open = 1;
  return 0;
}

int
qed_nbd_init_uri (struct nbd_server *s, const char *uri, bool trusted)
{
  return qed_nbd_check_uri (uri, trusted) == -1 ||
    init_server (s, uri, NULL, NULL, trusted) == -1 ? -1 : connect_first (s);
}

/* The words of a command in one string, to be freed, or NULL. */
static char *
join (const char *const argv[])
{
  char *s = strdup (argv[0]), *longer;

  for (size_t i = 1; s != NULL && argv[i]; ++i) {
    if (asprintf (&longer, "%s %s", s, argv[i]) == -1)
      longer = NULL;
    free (s);
    s = longer;
  }
  return s;
}

int
qed_nbd_init_command (struct nbd_server *s, const char *const argv[])
{
  char *name = join (argv);
  int r;

  if (name == NULL)
    return qed_error (ENOMEM, "%s: %m", argv[0]);
  r = init_server (s, name, NULL, argv, true);
  free (name);
  if (r == -1)
    return -1;
  s->directory = open (".", O_PATH | O_DIRECTORY | O_CLOEXEC);
  return connect_first (s);
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
  const char *const argv[] = { program, "-r", "-f", format, path, NULL };
  int r;

  if (program == NULL)
    return qed_error (errno, "%s: reading format %s needs the program "
                      "qemu-nbd (on Debian in the package qemu-utils): %m",
                      path, format);
  r = init_server (s, path, format, argv, true);
  free (program);
  if (r == -1 || connect_first (s) == -1)
    return -1;
  qed_nbd_restart (s);
  return 0;
}
