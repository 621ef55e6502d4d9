/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* What a user names: a file or device by its path, or an export by an NBD URI.
 */

#include <config.h>

#include <errno.h>

#include "storage.h"

struct qed_storage *
qed_storage_find_named (const char *name)
{
  return qed_is_nbd_uri (name) ? qed_storage_open_uri (name) :
    qed_storage_find (name);
}

struct qed_storage *
qed_storage_open (const char *name, bool lock)
{
  struct qed_storage *st = qed_storage_find_named (name);
  int err;

  if (st && (qed_storage_begin (st) == -1 ||
             (lock && qed_storage_lock (st, QED_READS_IMAGE) == -1))) {
    err = errno;
    qed_storage_close (st);
    errno = err;
    return NULL;
  }
  return st;
}
