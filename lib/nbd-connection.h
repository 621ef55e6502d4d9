/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Requests on the connections to an NBD server.  See nbd-connection.c.  Only to
 * be included if there is libnbd.
 */

#ifndef QED_NBD_CONNECTION_H
#define QED_NBD_CONNECTION_H

#include "nbd-connect.h"

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

/* All requests fail, those under way and later ones.  May be called from any
 * thread.
 */
extern void qed_nbd_give_up (struct nbd_server *s);

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
