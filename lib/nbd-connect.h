/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* An NBD server, its connections, and connecting.  See nbd-connect.c, and
 * nbd-connection.c for how requests use them.  Only to be included if there is
 * libnbd.
 */

#ifndef QED_NBD_CONNECT_H
#define QED_NBD_CONNECT_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include <libnbd.h>

/* More connections than these make nothing faster. */
#define NBD_MAX_CONNS 4

/* How long a server may be silent while the process is ending. */
#define NBD_PATIENCE_SECONDS 3

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
  atomic_bool given_up;         /* it hung while the process was ending, or it
                                   is going to be closed; also
                                   read without the lock */
};

/* Has a URI only parameters that are allowed?  In an image's header that is
 * the socket only, because the others name files with keys.  Names must be
 * absolute, because nbdkit changes its directory before we connect again.
 * Returns 0, or -1 with EPERM or EINVAL.
 */
extern int qed_nbd_check_uri (const char *uri, bool trusted);

/* Connect C, which this thread opens.  *OFFER is set to what the server offers,
 * and *MULTI to whether there may be several connections.  Returns 0, or -1
 * with an errno and a message; C needn't be disconnected then.
 */
extern int qed_nbd_connect (struct nbd_server *s, struct nbd_conn *c,
                            struct nbd_offer *offer, bool *multi);

/* The same, but what the server offers must be what S->offer says. */
extern int qed_nbd_reconnect (struct nbd_server *s, struct nbd_conn *c,
                              bool *multi);

/* Close C, and end its program.  errno is kept. */
extern void qed_nbd_disconnect (struct nbd_conn *c);

/* A server has been silent for a second.  Is there no time to wait? */
extern bool qed_nbd_in_hurry (void);

/* Seconds, monotonic. */
extern time_t qed_nbd_now (void);

#endif /* QED_NBD_CONNECT_H */
