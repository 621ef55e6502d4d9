/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The names of backing files, as headers and users give them.  Which of them
 * are followed is decided in layers.c.
 */

#include <config.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "error.h"
#include "qed.h"

bool
qed_has_protocol (const char *name)
{
  return name[strcspn (name, ":/")] == ':';
}

bool
qed_is_nbd_uri (const char *name)
{
  static const char *const starts[] = {
    "nbd://", "nbds://", "nbd+unix://", "nbds+unix://",
  };

  for (size_t i = 0; i < sizeof starts / sizeof starts[0]; ++i)
    if (strncasecmp (name, starts[i], strlen (starts[i])) == 0)
      return true;
  return false;
}

char *
qed_backing_path (const char *image, const char *name)
{
  const char *slash = strrchr (image, '/');
  char *path;

  if (slash == NULL || name[0] == '/')
    path = strdup (name);
  else if (asprintf (&path, "%.*s/%s", (int) (slash - image), image,
                     name) == -1)
    path = NULL;
  if (path == NULL)
    qed_error (ENOMEM, "%s: %m", image);
  return path;
}
