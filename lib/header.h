/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Reading and writing the header of an image file: see header.c and, for
 * qed_read_header, qed.h.
 */

#ifndef QED_HEADER_H
#define QED_HEADER_H

#include "qed.h"

/* As qed_read_header.  *FILE_SIZE is the length of the file, in bytes, that
 * the header was validated against.
 */
extern int qed_read_header_of (struct qed_storage *st, struct qed_header *h,
                               char **backing, uint64_t *file_size);

/* Write the 64 bytes of the header, at once and not durably. */
extern int qed_write_header (struct qed_storage *st,
                             const struct qed_header *h);

#endif /* QED_HEADER_H */
