/* nbdkit-qed
 * Copyright (C) 2026 nbdkit-qed authors
 *
 * Redistribution and use in source and binary forms, with or without
 * modification, are permitted provided that the following conditions are
 * met:
 *
 * * Redistributions of source code must retain the above copyright
 * notice, this list of conditions and the following disclaimer.
 *
 * * Redistributions in binary form must reproduce the above copyright
 * notice, this list of conditions and the following disclaimer in the
 * documentation and/or other materials provided with the distribution.
 *
 * * Neither the name of nbdkit-qed nor the names of its contributors may be
 * used to endorse or promote products derived from this software without
 * specific prior written permission.
 *
 * THIS SOFTWARE IS PROVIDED BY THE AUTHORS AND CONTRIBUTORS ''AS IS'' AND
 * ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO,
 * THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A
 * PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE AUTHORS OR
 * CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
 * SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT
 * LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF
 * USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND
 * ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY,
 * OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT
 * OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF
 * SUCH DAMAGE.
 */

/* Backing files that are read over NBD, with libnbd.  See nbd.c. */

#ifndef QED_NBD_H
#define QED_NBD_H

#include "qed.h"

/* Both fail with ENOTSUP if the library was built without libnbd. */

/* Read from the export that URI names: nbd, nbds, nbd+unix or nbds+unix.
 * TRUSTED: it comes from the user, not from an image's header, so it may
 * point to files with keys and certificates on this machine.
 */
extern struct qed_backing *qed_nbd_open_uri (const char *uri, bool trusted);

/* Read from the disk image at PATH, which begins with '/', in a FORMAT that
 * qemu-nbd knows, through a qemu-nbd of our own.  What that image has below
 * it, qemu-nbd opens, whatever it may be: FORMAT is for the user to say.
 */
extern struct qed_backing *qed_nbd_open_file (const char *path,
                                              const char *format);

#endif /* QED_NBD_H */
