/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Backing files that are read over NBD, with libnbd: backing-nbd.c. */

#ifndef QED_NBD_H
#define QED_NBD_H

#include "qed.h"

/* Both functions fail with ENOTSUP if the library was built without libnbd. */

/* Read from the export that URI names: nbd, nbds, nbd+unix or nbds+unix.
 * TRUSTED: the URI comes from the user, not from an image's header, so it may
 * point to files with keys and certificates on this machine.
 */
extern struct qed_backing *qed_nbd_open_uri (const char *uri, bool trusted);

/* Read from the disk image at PATH, which begins with '/', in a FORMAT that
 * qemu-nbd knows, through a qemu-nbd of our own.  qemu-nbd opens that image's
 * own backing file, whatever that may be, so FORMAT must come from the user.
 */
extern struct qed_backing *qed_nbd_open_file (const char *path,
                                              const char *format);

#endif /* QED_NBD_H */
