/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* How the library's modules report a failure. */

#ifndef QED_ERROR_H
#define QED_ERROR_H

#include "qed.h"

/* Set errno to ERR, keep the formatted message for this thread's
 * qed_get_error, and return -1.  In FMT, %m is the text of ERR.  The message
 * is copied; it replaces the previous one, which must not be an argument.
 */
extern int qed_error (int err, const char *fmt, ...)
  __attribute__ ((format (printf, 2, 3)));

#endif /* QED_ERROR_H */
