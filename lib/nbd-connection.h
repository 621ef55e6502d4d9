/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Connections to an NBD server.  See nbd-connection.c.  Only to be included if
 * there is libnbd.
 */

#ifndef QED_NBD_CONNECTION_H
#define QED_NBD_CONNECTION_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include <libnbd.h>

/* More connections than these make nothing faster. */
#define NBD_MAX_CONNS 4

/* As many requests share a connection before another one is opened.  Fewer
 * would cost more: the server, and we, find the next one there without waiting.
 */
#define NBD_BUSY 8

/* A request under way.  It lives on the stack of its thread, which waits for
 * WAKE: it is complete, and not in the list any more, or it is to lead.
 */
struct nbd_request {
  struct nbd_request *prev, *next; /* of the same connection */
  sem_t wake;
  bool begun;                   /* libnbd's function has returned */
  bool done;
  bool leads;                   /* its thread waits for the socket */
  int err;                      /* DONE: an errno, or 0 */
};

struct nbd_keeper;

struct nbd_conn {
  /* Guarded by the server's lock. */
  bool open;                    /* or being opened or closed */
  bool ready;                   /* requests may take it */
  bool lost;                    /* it is dead */
  bool stale;                   /* another one was lost, and this one is to be
                                   closed when it has no users */
  uint64_t number;              /* those opened later have greater ones */
  unsigned users;               /* requests that have taken it ... */
  unsigned writers;             /* ... and change what is exported */

  /* Constant while READY. */
  struct nbd_handle *h;
  struct nbd_keeper *keeper;    /* of the program, or NULL: it is a URI */
  int fd;                       /* the socket; owned by H */
  int kick;                     /* an eventfd that wakes the thread that leads;
                                   owned */

  pthread_mutex_t lock;         /* guards H and the rest */
  struct nbd_request *requests; /* those that aren't complete */
  uint64_t completed;           /* how many have been */
  bool led;                     /* one of them leads ... */
  bool sending;                 /* ... and waits to send, too */
};

/* What a server offers: fixed by the first connection. */
struct nbd_offer {
  uint64_t size;                /* bytes, the export's */
  uint64_t min_block;           /* a power of 2 */
  uint64_t max_request;         /* a multiple of it */
  bool read_only;
  bool flush, zero, fast_zero, trim, cache, extents;
  bool rotational;
};

struct nbd_server {
  char *name;                   /* for messages: a URI, a path, a command */
  char **argv;                  /* the program to start, or NULL: NAME is a
                                   URI */
  char *format;                 /* the program is qemu-nbd, and NAME the path of
                                   a file in this format; or NULL */
  int directory;                /* a command starts here, always; or -1 */
  bool trusted;                 /* the URI may name files with keys */
  struct nbd_offer offer;

  /* A write of whole blocks is a reader, and one of a part of a block, which
   * reads the block first, is the writer.  Only taken if OFFER.min_block is
   * more than 1.
   */
  pthread_rwlock_t blocks;

  pthread_mutex_t lock;         /* guards the rest */
  pthread_cond_t changed;       /* a connection was opened or closed */
  struct nbd_conn conns[NBD_MAX_CONNS];
  unsigned nr_open;
  uint64_t last_number;         /* of those opened so far */
  bool opening;                 /* a thread opens one */
  bool multi;                   /* more than one connection may be opened */
  time_t retry_at;              /* don't connect before; monotonic */
  uint64_t written;             /* writes that were acknowledged */
  uint64_t flushed;             /* of these, those that are durable */
  bool over;                    /* see nbd-connection.c, I5 ... */
  uint64_t in_doubt;            /* ... for the sake of so many writes */
  atomic_bool given_up;         /* it hung while the process was ending; also
                                   read without the lock */
};

/* Fill S and connect to the export that URI names, to a qemu-nbd of our own
 * that serves the file at PATH, or to the program ARGV, which takes a socket as
 * systemd passes it.  For the other arguments see nbd.h.  If that fails, S
 * needn't be freed.
 */
extern int qed_nbd_init_uri (struct nbd_server *s, const char *uri,
                             bool trusted);
extern int qed_nbd_init_file (struct nbd_server *s, const char *path,
                              const char *format);
extern int qed_nbd_init_command (struct nbd_server *s,
                                 const char *const argv[]);

/* Close all connections and free what S points to, but not S.  No request may
 * be under way.
 */
extern void qed_nbd_free (struct nbd_server *s);

/* End the program, if there is one.  The next request starts it again.  No
 * request may be under way.
 */
extern void qed_nbd_restart (struct nbd_server *s);

/* Get a connection to work with.  NULL: EIO, with a message.  WRITES: for a
 * request that changes what is exported; it is refused when S->over.
 */
extern struct nbd_conn *qed_nbd_take (struct nbd_server *s, bool writes);

/* The same, for a flush: the connection that was opened first. */
extern struct nbd_conn *qed_nbd_take_oldest (struct nbd_server *s);

/* Begin a request on C: BEGIN calls one of libnbd's asynchronous functions,
 * with COMPLETION, and returns what that does.  Wait for its end.  Returns 0;
 * or -1 with errno, which libnbd or the server says, and a message that begins
 * with WHAT and OFFSET.
 */
typedef int64_t qed_nbd_begin_fn (struct nbd_handle *h, void *opaque,
                                  nbd_completion_callback completion);
extern int qed_nbd_do (struct nbd_server *s, struct nbd_conn *c,
                       qed_nbd_begin_fn *begin, void *opaque,
                       const char *what, uint64_t offset);

/* Give C back.  WRITES: as when it was taken.  WRITTEN: the server has
 * acknowledged a write.  errno and message stay.
 */
extern void qed_nbd_give_back (struct nbd_server *s, struct nbd_conn *c,
                               bool writes, bool written);

/* Leave the message that S->over is set.  Returns -1 with EIO. */
extern int qed_nbd_over_error (const struct nbd_server *s);

#endif /* QED_NBD_CONNECTION_H */
