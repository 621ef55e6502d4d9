/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Requests to an NBD server: see nbd-request.c.  Only to be included if there
 * is libnbd.
 */

#ifndef QED_NBD_REQUEST_H
#define QED_NBD_REQUEST_H

#include "nbd-connection.h"
#include "qed.h"

/* All ranges are inside the export, and may have any length and alignment.  All
 * calls may be made from many threads at once.  They return 0, or -1 with a
 * message and errno: EIO, or, as the server says, ENOSPC or ENOTSUP.
 */
extern int qed_nbd_pread (struct nbd_server *s, void *buf, uint64_t count,
                          uint64_t offset);
extern int qed_nbd_pwrite (struct nbd_server *s, const void *buf,
                           uint64_t count, uint64_t offset);

/* Make a range read as zeros.  FLAGS are libnbd's for nbd_zero.  ENOTSUP: the
 * server doesn't offer that, or not for this range.
 */
extern int qed_nbd_zero (struct nbd_server *s, uint64_t count,
                         uint64_t offset, uint32_t flags);

/* The content of a range isn't needed any more, whatever it reads as then: what
 * isn't a whole block is left as it is.  ENOTSUP: the server doesn't offer
 * that.
 */
extern int qed_nbd_trim (struct nbd_server *s, uint64_t count,
                         uint64_t offset);

/* Make all durable whose call has returned.  The server offers that. */
extern int qed_nbd_flush (struct nbd_server *s);

/* The range will be read soon.  Nothing is done if the server doesn't offer
 * that.
 */
extern int qed_nbd_cache (struct nbd_server *s, uint64_t count,
                          uint64_t offset);

/* What the server says of a part of the export, in order without gaps. */
#define NBD_MAX_EXTENTS 512
struct nbd_extents {
  uint64_t offset;              /* where the first one begins */
  size_t n;                     /* 0: nothing is known */
  struct {
    uint32_t length;
    bool zero;                  /* reads as zeros */
  } extents[NBD_MAX_EXTENTS];
};

/* Ask for the extents from OFFSET on, of LENGTH bytes, more or less.  The first
 * one begins at OFFSET or before, and ends after it.
 */
extern void qed_nbd_extents (struct nbd_server *s, uint64_t offset,
                             uint64_t length, struct nbd_extents *e);

#endif /* QED_NBD_REQUEST_H */
