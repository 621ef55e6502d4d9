/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Connections to an NBD server.  See nbd-connection.c.  Only to be included if
 * there is libnbd.
 */

#ifndef QED_NBD_CONNECTION_H
#define QED_NBD_CONNECTION_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include <libnbd.h>

/* More connections than these make nothing faster. */
#define NBD_MAX_CONNS 4

struct nbd_conn {
  /* Guarded by the server's lock. */
  bool open;                    /* or being opened or closed */
  bool busy;
  bool stale;                   /* to be closed when it isn't busy */

  /* The owner's, while it is busy. */
  struct nbd_handle *h;
  uint64_t min_block;           /* a power of 2 */
  uint64_t max_request;         /* a multiple of it */
  uint8_t *bounce;              /* a block; NULL if blocks are bytes */
};

struct nbd_server {
  char *name;                   /* a URI, or if there is a format a path */
  char *format;                 /* NULL: not qemu-nbd */
  char *program;                /* qemu-nbd's path */
  bool trusted;                 /* the URI may name files with keys */
  uint64_t size;                /* the export's, fixed by the constructor */

  pthread_mutex_t lock;         /* guards the rest */
  pthread_cond_t changed;       /* a connection became free, or was closed */
  struct nbd_conn conns[NBD_MAX_CONNS];
  unsigned nr_open;
  bool multi;                   /* more than one connection may be opened */
  time_t retry_at;              /* don't connect before; monotonic */
};

/* Fill S and connect to the export that URI names, or to a qemu-nbd of our own
 * that serves the file at PATH.  For the arguments see nbd.h.  If that fails,
 * S needn't be freed.
 */
extern int qed_nbd_init_uri (struct nbd_server *s, const char *uri,
                             bool trusted);
extern int qed_nbd_init_file (struct nbd_server *s, const char *path,
                              const char *format);

/* Close all connections and free what S points to, but not S.  No request may
 * be under way.
 */
extern void qed_nbd_free (struct nbd_server *s);

/* Get a connection to work with: a free one, a new one, or the next to become
 * free.  NULL: EIO, with a message.
 */
extern struct nbd_conn *qed_nbd_take (struct nbd_server *s);

/* Give C back.  If a request on it has failed, leave its message first. */
extern void qed_nbd_give_back (struct nbd_server *s, struct nbd_conn *c);

/* Leave a message, with libnbd's in it, for a request on C that has failed.
 * Returns -1 with EIO.
 */
extern int qed_nbd_request_error (struct nbd_server *s, struct nbd_conn *c,
                                  const char *what, uint64_t offset);

#endif /* QED_NBD_CONNECTION_H */
