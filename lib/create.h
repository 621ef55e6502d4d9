/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The header of a new image.  See create.c. */

#ifndef QED_CREATE_H
#define QED_CREATE_H

#include "qed.h"

/* Fill H for a new image, checked.  NAME is for messages.  EINVAL: the sizes
 * break a rule.
 */
extern int qed_make_header (const struct qed_create_options *opts,
                            const char *name, struct qed_header *h);

#endif /* QED_CREATE_H */
