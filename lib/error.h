/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The message of a failure: how the library's modules leave it. */

#ifndef QED_ERROR_H
#define QED_ERROR_H

#include "qed.h"

/* Set errno to ERR, keep the formatted message for qed_get_error in this
 * thread, and return -1.  %m is the text of ERR.
 */
extern int qed_error (int err, const char *fmt, ...)
  __attribute__ ((format (printf, 2, 3)));

#endif /* QED_ERROR_H */
