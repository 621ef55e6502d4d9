/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Messages to nbdkit's log; and parsing a value, which logs what is wrong.
 *
 * File names in them may come from an untrusted image, and names of exports
 * from a client.  So the control characters in them are masked, as the library
 * does in its own messages.
 */

#include <config.h>

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "plugin.h"

static char * __attribute__ ((format (printf, 1, 0)))
masked_message (const char *fmt, va_list args)
{
  char *s;

  if (vasprintf (&s, fmt, args) == -1)
    return NULL;
  qed_mask_controls (s);
  return s;
}

void
complain (const char *fmt, ...)
{
  va_list args;
  char *s;

  va_start (args, fmt);
  s = masked_message (fmt, args);
  va_end (args);
  nbdkit_error ("%s", s ? s : "out of memory");
  free (s);
}

void
debug (const char *fmt, ...)
{
  va_list args;
  char *s;

  va_start (args, fmt);
  s = masked_message (fmt, args);
  va_end (args);
  nbdkit_debug ("%s", s ? s : "out of memory");
  free (s);
}

int
parse_bool (const char *value, bool *b)
{
  int r = nbdkit_parse_bool (value);

  if (r == -1)
    return -1;
  *b = r;
  return 0;
}

/* The NBD protocol has only a few error codes.  nbdkit turns any other, such
 * as an ESTALE from the host's filesystem, into EINVAL, which would blame the
 * request; hence EIO for those.
 */
int
library_error (void)
{
  int err = errno;

  switch (err) {
  case EINVAL: case EIO: case ENOMEM: case ENOSPC: case ENOTSUP:
  case EOVERFLOW: case EPERM: case ESHUTDOWN:
  case EDQUOT: case EFBIG: case EROFS: /* nbdkit translates these */
    break;
  default:
    err = EIO;
  }

  nbdkit_error ("%s", qed_get_error ());
  errno = err;
  return -1;
}
