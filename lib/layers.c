/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The way down a backing chain: each layer is found, judged, opened, locked,
 * and its header read.  Files in other formats, and exports, are read over NBD
 * (nbd.h), and nothing is known of what is below them.
 *
 * A header is input from a stranger (I9), and what it names is followed only
 * to a regular file or block device beneath a directory that is allowed: the
 * one of the image that names it, and those the user adds.  It is the file
 * that decides, not the name: it is found first, without opening it for
 * reading, then it is asked where it is, and if that is allowed the very same
 * file is opened.  So symbolic links and ".." need no rules, and swapping
 * files in between is in vain.
 *
 * The directory of an image is the one in its name, which is where relative
 * names start, and the one it really is in, if the name is a symbolic
 * link.  The former counts only if the user gave the name, or it is allowed
 * by itself: from a header, /elsewhere/link must not open /elsewhere.
 * Devices have none: otherwise an image in /dev/sdb could name sda.
 *
 * A chain ends (QED_MAX_CHAIN), and no file is in it twice.
 */

#include <config.h>

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "error.h"
#include "layers.h"
#include "nbd.h"
#include "storage.h"

/* ---- directories ---- */

/* The directory in which PATH names the file ST, resolved.  That it still does
 * so is looked at afterwards: the owner of a directory on the way may lead
 * elsewhere meanwhile.
 */
static char *
directory_of (const char *path, const struct qed_storage *st)
{
  const char *slash = strrchr (path, '/');
  char *dir = NULL, *resolved = NULL, *again = NULL;
  struct stat sb;

  dir = slash ? strndup (path, (size_t) (slash - path) + 1) : strdup (".");
  if (dir)
    resolved = realpath (dir, NULL);
  if (resolved && asprintf (&again, "%s/%s", resolved,
                            slash ? slash + 1 : path) == -1)
    again = NULL;
  if (again == NULL || stat (again, &sb) == -1)
    qed_error (errno, "%s: its directory: %m", path);
  else if (sb.st_dev == st->device && sb.st_ino == st->inode)
    goto out;
  else
    qed_error (ESTALE, "%s: its directory: the file has just been moved or "
               "replaced: try again", path);
  free (resolved);
  resolved = NULL;
 out:
  free (dir);
  free (again);
  return resolved;
}

/* ---- errors ---- */

int
qed_backing_error (const char *image, const char *more)
{
  int err = errno;
  char *s = strdup (qed_get_error ());

  qed_error (err, "%s: backing file: %s%s", image, s ? s : "", more);
  free (s);
  return -1;
}

/* The advice for a user of the plugin, or of qed-img. */
static const char *
advice (const struct chain *c, const char *plugin, const char *qed_img)
{
  return c->opts->qed_img ? qed_img : plugin;
}

static const char *
advise_other (const struct chain *c)
{
  return advice (c, ": backing=NAME puts something else below the image that "
                 "is served",
                 ": qed-img rebase -u -b NAME lets the header name another "
                 "one");
}

/* How the user says which format the backing file of the image has: what comes
 * before its name.
 */
static const char *
format_option (const struct chain *c)
{
  return advice (c, "backing-format=",
                 c->opts->backing ? "-F " : "--backing-format=");
}

/* ---- formats ---- */

const char *
qed_probe (struct qed_storage *st)
{
  uint8_t buf[QED_MAGIC_BYTES];
  const char *format;
  size_t n = 0;
  ssize_t r;

  do {
    r = st->ops->pread (st, buf + n, sizeof buf - n, n);
    if (r > 0)
      n += (size_t) r;
  } while ((r > 0 && n < sizeof buf) || (r == -1 && errno == EINTR));
  if (r == -1) {
    qed_error (errno, "%s: read: %m", st->name);
    return NULL;
  }

  format = qed_find_magic (buf, n);
  return format ? format : "raw";
}

/* Does the user name the backing file of ABOVE, or (NULL) the top image? */
static bool
named_by_user (const struct chain *c, const struct layer *above)
{
  return above == NULL || (above == c->layers && c->opts->backing);
}

/* How the backing file of the layer ABOVE is to be read.  The bit in a header
 * speaks of the file that this header names, and of no other.
 */
static const char *
asked_format (const struct chain *c, const struct layer *above)
{
  const char *asked = above == c->layers ? c->opts->backing_format : NULL;

  if (asked && strcmp (asked, "auto") != 0)
    return asked;
  return !named_by_user (c, above) &&
    above->h.features & QED_F_BACKING_FORMAT_NO_PROBE ? "raw" : "auto";
}

static bool
is_native (const char *format)
{
  return strcmp (format, "raw") == 0 || strcmp (format, "qed") == 0 ||
    strcmp (format, "auto") == 0;
}

/* The name becomes an argument of another program. */
bool
qed_is_format_name (const char *format)
{
  const char *s = format;

  while (islower ((unsigned char) *s) || isdigit ((unsigned char) *s) ||
         (s > format && (*s == '-' || *s == '_')))
    s++;
  return s > format && *s == '\0';
}

static int
check_format_option (const struct chain *c)
{
  const char *format = c->opts->backing_format;

  if (format == NULL || qed_is_format_name (format))
    return 0;
  return qed_error (EINVAL, "%s%s: must be raw, qed, auto or the name of a "
                    "format of QEMU's", format_option (c), format);
}

/* L, the backing file of the image itself, has the magic of its format, which
 * the user has to confirm.
 */
static int
unconfirmed_format (const struct chain *c, const struct layer *l)
{
  const char *packed = qed_packed_advice (l->format);
  const char *option = format_option (c);

  if (packed == NULL && c->writes)
    packed = "only a raw or QED file can be committed to: convert it";
  if (packed)
    return qed_error (ENOTSUP, "%s: has the magic of format %s: %s; if it is a "
                      "raw disk anyway, add %sraw", l->path, l->format, packed,
                      option);
  return qed_error (ENOTSUP, "%s: has the magic of format %s: add %s%s, or "
                    "%sraw if it is a raw disk anyway", l->path, l->format,
                    option, l->format, option);
}

/* The same for L further down, where no option reaches it. */
static int
unreadable_format (const struct chain *c, const struct layer *l)
{
  const char *todo = qed_packed_advice (l->format);

  if (todo == NULL)
    todo = advice (c, "it can be read only right below the image that is "
                   "served: convert it",
                   "it can be read only right below the image: convert it");
  return qed_error (ENOTSUP, "%s: has the magic of format %s: %s%s", l->path,
                    l->format, todo,
                    advice (c, "", "; if it is a raw disk anyway, qed-img "
                            "rebase -u -b NAME -F raw makes the header say "
                            "so"));
}

/* Decide whether L, which ABOVE names, is an image. */
static int
decide_format (const struct chain *c, const struct layer *above,
               struct layer *l)
{
  l->format = asked_format (c, above);
  if (strcmp (l->format, "auto") == 0)
    l->format = qed_probe (l->st);
  if (l->format == NULL)
    return -1;
  l->qed = strcmp (l->format, "qed") == 0;
  return is_native (l->format) ? 0 :
    above == c->layers ? unconfirmed_format (c, l) : unreadable_format (c, l);
}

/* ---- what a header may name ---- */

/* Is PATH beneath DIR, or DIR itself?  Both are resolved. */
static bool
is_beneath (const char *path, const char *dir)
{
  size_t n = strlen (dir);

  return strcmp (dir, "/") == 0 ||
    (strncmp (path, dir, n) == 0 && (path[n] == '/' || path[n] == '\0'));
}

static bool
is_allowed (const struct chain *c, const struct layer *image,
            const char *path)
{
  for (size_t i = 0; i < 2; ++i)
    if (image->dirs[i] && is_beneath (path, image->dirs[i]))
      return true;

  for (size_t i = 0; i < c->opts->nr_backing_dirs; ++i) {
    char *dir = realpath (c->opts->backing_dirs[i], NULL);
    bool found = dir && is_beneath (path, dir);

    free (dir);
    if (found)
      return true;
  }
  return false;
}

/* Where the file of L is, resolved: once, because files can be moved. */
static const char *
file_of (struct layer *l)
{
  if (l->file == NULL)
    l->file = qed_storage_resolve (l->st);
  return l->file;
}

/* May IMAGE's header name L, which was found? */
static int
judge (const struct chain *c, const struct layer *image, struct layer *l)
{
  const char *file = file_of (l), *slash;

  if (file == NULL)
    return -1;
  if (is_allowed (c, image, file))
    return 0;
  slash = strrchr (file, '/');
  return qed_error (EPERM, "%s: is the file %s, %s%s: if that is wanted add "
                    "%s=%.*s%s", l->path, file,
                    image->dirs[0] ? "not beneath the image's directory " :
                    image->st->fixed_size ?
                    "and an image in a device or an export has no directory "
                    "for such files" :
                    "and an image without a path has no directory for such "
                    "files",
                    image->dirs[0] ? image->dirs[0] : "",
                    advice (c, "backing-dir", "--backing-dir"),
                    slash == file ? 1 : (int) (slash - file), file,
                    image == c->layers && !c->opts->qed_img ?
                    ", or backing=NAME with the name to read" : "");
}

/* Set the directories of L, an image of the chain: see above. */
static int
set_directories (const struct chain *c, struct layer *l)
{
  const struct layer *above = l == c->layers ? NULL : l - 1;
  const char *file = file_of (l);

  if (file == NULL)
    return -1;
  if (l->st->fixed_size || !qed_storage_has_path (l->st))
    return 0;
  l->dirs[0] = directory_of (l->path, l->st);
  l->dirs[1] = l->dirs[0] ? directory_of (file, l->st) : NULL;
  if (l->dirs[1] == NULL)
    return -1;
  if (!named_by_user (c, above) && !is_allowed (c, above, l->dirs[0])) {
    free (l->dirs[0]);
    l->dirs[0] = l->dirs[1];
    l->dirs[1] = NULL;
  }
  return 0;
}

/* ---- going down ---- */

static void
layer_free (struct layer *l)
{
  qed_storage_close (l->st);
  qed_backing_close (l->served);
  free (l->path);
  free (l->file);
  free (l->backing);
  free (l->dirs[0]);
  free (l->dirs[1]);
}

static void
append (struct chain *c, struct layer *l)
{
  c->layers[c->n++] = *l;
  *l = (struct layer) { .path = NULL };
}

static int
check_loop (const struct chain *c, const struct layer *l)
{
  for (size_t i = 0; i < c->n; ++i)
    if (qed_storage_is_file (l->st) && c->layers[i].st &&
        c->layers[i].st->device == l->st->device &&
        c->layers[i].st->inode == l->st->inode)
      return qed_error (ELOOP, "%s: is the file %s again: a chain of backing "
                        "files can't be a loop", l->path, c->layers[i].path);
  return 0;
}

/* L was found, and may be read. */
static int
open_layer (const struct chain *c, const struct layer *above,
            struct layer *l)
{
  if (qed_storage_begin (l->st) == -1)
    return -1;
  if (above == NULL) {
    l->format = "qed";
    l->qed = true;
  }
  else if (decide_format (c, above, l) == -1)
    return -1;
  if (c->opts->lock && !(above && c->opts->share_backing) &&
      qed_storage_lock (l->st, l->qed ? QED_READS_IMAGE : QED_READS_RAW) == -1)
    return -1;
  return l->qed ? qed_read_header (l->st, &l->h, &l->backing) : 0;
}

/* Append the layer L, which was found, or leave it to qemu-nbd. */
static int
add_found (struct chain *c, const struct layer *above, struct layer *l)
{
  const char *format = above ? asked_format (c, above) : "qed";

  if (check_loop (c, l) == -1)
    return -1;
  if (!named_by_user (c, above) && judge (c, above, l) == -1)
    return -1;

  if (!is_native (format)) {
    const char *file = file_of (l);

    l->format = format;
    l->served = file ? qed_nbd_open_file (file, format) : NULL;
    if (l->served == NULL)
      return -1;
    l->served->device = l->st->device;
    l->served->inode = l->st->inode;
  }
  else if (open_layer (c, above, l) == -1)
    return -1;
  append (c, l);
  return 0;
}

/* Append the file PATH, the backing file of ABOVE.  1: there is none; a
 * message says so.
 */
static int
add_file (struct chain *c, const struct layer *above, const char *path)
{
  struct layer l = { .path = strdup (path) };
  int r;

  if (l.path == NULL)
    return qed_error (ENOMEM, "%s: %m", path);
  l.st = qed_storage_find (path);
  if (l.st)
    r = add_found (c, above, &l);
  else
    r = errno == ENOENT || errno == ENOTDIR || errno == ENAMETOOLONG ? 1 : -1;
  layer_free (&l);
  return r;
}

static int
add_uri (struct chain *c, const struct layer *above, const char *uri)
{
  const char *format = above == c->layers ? c->opts->backing_format : NULL;
  struct layer l = { .path = strdup (uri), .format = "raw" };

  if (l.path == NULL)
    qed_error (ENOMEM, "%s: %m", uri);
  else if (format && strcmp (format, "raw") != 0 &&
           strcmp (format, "auto") != 0)
    qed_error (EINVAL, "%s: %s%s: what an NBD server exports is read as raw",
               uri, format_option (c), format);
  else
    l.served = qed_nbd_open_uri (uri, named_by_user (c, above));
  if (l.served) {
    append (c, &l);
    return 0;
  }
  layer_free (&l);
  return qed_backing_error (above->path, "");
}

/* ABOVE's header names a file that isn't there. */
static int
add_missing (struct chain *c, const struct layer *above)
{
  const char *name = above->backing;

  if (!qed_has_protocol (name))
    return qed_backing_error (above->path, advise_other (c));
  if (!qed_is_nbd_uri (name))
    return qed_error (EPERM, "%s: backing file: %s: there is no such file, "
                      "and names which look like a protocol's are never "
                      "followed from an image's header%s", above->path, name,
                      advise_other (c));
  if (!c->opts->backing_uri)
    return qed_error (EPERM, "%s: backing file: %s: an NBD URI is not "
                      "followed from an image's header%s%s", above->path, name,
                      advice (c, ": if that is wanted add backing-uri=true",
                              ": if that is wanted add --backing-uri"),
                      advise_other (c));
  return add_uri (c, above, name);
}

bool
qed_layer_lacks_directory (const struct layer *l)
{
  return l->backing[0] != '/' && !qed_storage_has_path (l->st);
}

char *
qed_layer_backing_path (const struct layer *l)
{
  char *path = qed_backing_path (l->path, l->backing), *file = NULL;

  if (path == NULL || !qed_is_nbd_uri (path))
    return path;
  if (asprintf (&file, "./%s", path) == -1) {
    file = NULL;
    qed_error (ENOMEM, "%s: %m", path);
  }
  free (path);
  return file;
}

/* ABOVE's header names a file relative to the directory of ABOVE, which an
 * export, for instance, doesn't have.
 */
static int
no_directory (struct chain *c, const struct layer *above)
{
  const char *name = above->backing;

  if (qed_has_protocol (name))
    return add_missing (c, above);
  return qed_error (EPERM, "%s: backing file: %s: is relative to the directory "
                    "of the image, and %s has none%s", above->path, name,
                    qed_storage_is_file (above->st) ? "a file without a path" :
                    "an export", advise_other (c));
}

/* Append the file that ABOVE's header names. */
static int
add_named (struct chain *c, struct layer *above)
{
  char *path;
  int r;

  if (set_directories (c, above) == -1)
    return -1;
  if (qed_layer_lacks_directory (above))
    return no_directory (c, above);
  path = qed_layer_backing_path (above);
  if (path == NULL)
    return -1;
  r = add_file (c, above, path);
  free (path);
  return r == 1 ? add_missing (c, above) :
    r == -1 ? qed_backing_error (above->path, "") : 0;
}

/* Append the backing file of the image ABOVE. */
static int
add_below (struct chain *c, struct layer *above)
{
  bool user = named_by_user (c, above);
  const char *name = user ? c->opts->backing : above->backing;

  if (name == NULL || (user && strcmp (name, "none") == 0)) {
    if (above == c->layers && c->opts->backing_format && qed_debug)
      qed_debug ("%s: has no backing file, so backing-format=%s means nothing",
                 above->path, c->opts->backing_format);
    return 0;
  }
  if (c->n == QED_MAX_CHAIN)
    return qed_error (EINVAL, "%s: backing file: %s: would be layer %d of the "
                      "chain: at most %d are allowed", above->path, name,
                      QED_MAX_CHAIN + 1, QED_MAX_CHAIN);
  if (!user)
    return add_named (c, above);
  if (qed_is_nbd_uri (name))
    return add_uri (c, above, name);
  return add_file (c, above, name) == 0 ? 0 :
    qed_backing_error (above->path, "");
}

/* The first layer is the image in ST, which the chain owns from now on. */
static int
add_top (struct chain *c, struct qed_storage *st)
{
  struct layer l = { .path = strdup (st->name), .st = st };
  int r;

  r = l.path == NULL ? qed_error (ENOMEM, "%s: %m", st->name) :
    add_found (c, NULL, &l);
  layer_free (&l);
  return r;
}

int
qed_layers_open (struct chain *c, struct qed_storage *st, size_t below)
{
  int r;

  if (st == NULL)
    return -1;
  if (check_format_option (c) == -1) {
    qed_storage_close (st);
    return -1;
  }
  r = add_top (c, st);
  for (size_t i = 0; r == 0 && i < below && i < c->n && c->layers[i].qed; ++i)
    r = add_below (c, &c->layers[i]);
  return r == 0 ? 0 : -1;
}

int
qed_layers_open_below (struct chain *c, const char *path)
{
  struct layer l = { .path = strdup (path), .qed = true };
  int r = check_format_option (c);

  if (l.path == NULL)
    return qed_error (ENOMEM, "%s: %m", path);
  append (c, &l);
  for (size_t i = 0; r == 0 && i < c->n && c->layers[i].qed; ++i)
    r = add_below (c, &c->layers[i]);
  return r;
}

void
qed_layers_close (struct chain *c)
{
  for (size_t i = 0; i < c->n; ++i)
    layer_free (&c->layers[i]);
}
