/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* A backing file that the user names for an image, with -b and -F.  Unlike one
 * that a header names it may be anywhere.
 */

#include <config.h>

#include <string.h>

#include "qed-img.h"

const char *
option_backing_format (const char *value)
{
  if (!qed_is_format_name (value) || strcmp (value, "auto") == 0)
    usage_error ("-F: backing format '%s': must be raw, qed or the name of a "
                 "format of QEMU's, such as qcow2", value);
  return value;
}

bool
has_no_directory (const char *image, const char *name)
{
  return qed_is_nbd_uri (image) && name[0] != '/' && !qed_has_protocol (name);
}

/* complain, with the start that all messages here have. */
static void
complain_backing (const char *image, const char *name, const char *why)
{
  complain ("%s: backing file: %s: %s", image, name, why);
}

char *
find_named (const char *image, const char *name)
{
  char *path;

  if (qed_is_nbd_uri (name))
    return xasprintf ("%s", name);
  if (qed_has_protocol (name)) {
    complain ("%s: backing file: %s: names a protocol before the colon, and "
              "must name a file or an NBD server: if it is a file write ./%s",
              image, name, name);
    return NULL;
  }
  if (has_no_directory (image, name)) {
    complain_backing (image, name, "is a relative name, and an export has no "
                      "directory where it could start: write the whole path");
    return NULL;
  }
  path = qed_backing_path (image, name);
  if (path == NULL)
    out_of_memory ();
  if (strcmp (path, "none") == 0) { /* to the library: no backing file */
    free (path);
    path = xasprintf ("./none");
  }
  return path;
}

void
note_taken_as_raw (const char *image, const char *path)
{
  complain_backing (image, path, "has no known format's magic, so it is taken "
                    "as raw: add -F raw to say so");
}

void
note_unknown (const char *image, const char *name, const char *why)
{
  complain ("%s: backing file: %s: %s, so its format will be probed when it is "
            "opened: add -F to set it", image, name, why);
}
