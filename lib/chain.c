/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* An image and its backing chain.
 *
 * On the way down each layer is found, judged, opened, locked, and its
 * header read; then images are put on top of each other from the bottom up.
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
#include <strings.h>
#include <sys/stat.h>

#include "error.h"
#include "image.h"
#include "nbd.h"
#include "storage.h"

struct layer {
  char *path;                   /* as it was reached */
  char *file;                   /* what file that is: see file_of */
  struct qed_storage *st;
  bool qed;                     /* an image; otherwise the last layer */

  /* Of an image: */
  struct qed_header h;
  char *backing;                /* the name in the header, or NULL */
  char *dirs[2];                /* see set_directories; or NULL */
};

struct chain {
  const struct qed_chain_options *opts;
  struct layer layers[QED_MAX_CHAIN];
  size_t n;

  /* The backing file of the last layer, if it isn't a layer; or NULL. */
  struct qed_backing *bottom;
};

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

/* The last error is about the backing file of IMAGE: say so, and after it
 * MORE.
 */
static int
backing_error (const char *image, const char *more)
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
static int
check_format_name (const char *format)
{
  const char *s = format;

  while (islower ((unsigned char) *s) || isdigit ((unsigned char) *s) ||
         (s > format && (*s == '-' || *s == '_')))
    s++;
  if (s == format || *s != '\0')
    return qed_error (EINVAL, "backing-format=%s: must be raw, qed, auto or "
                      "the name of a format of QEMU's", format);
  return 0;
}

/* Decide whether L, which ABOVE names, is an image. */
static int
decide_format (const struct chain *c, const struct layer *above,
               struct layer *l)
{
  const char *format = asked_format (c, above), *packed;

  if (strcmp (format, "auto") == 0)
    format = qed_probe (l->st);
  if (format == NULL)
    return -1;
  l->qed = strcmp (format, "qed") == 0;
  if (is_native (format))
    return 0;
  packed = qed_packed_advice (format);
  if (packed)
    return qed_error (ENOTSUP, "%s: has the magic of format %s: %s%s", l->path,
                      format, packed, c->opts->qed_img ?
                      "; if it is a raw disk anyway, qed-img rebase -u -b "
                      "NAME -F raw makes the header say so" :
                      above == c->layers ? "; if it is a raw disk anyway, add "
                      "backing-format=raw" : "");
  if (c->opts->qed_img)
    return qed_error (ENOTSUP, "%s: has the magic of format %s: qed-img reads "
                      "raw and QED backing files only: convert it; if it is "
                      "a raw disk anyway, qed-img rebase -u -b NAME -F raw "
                      "makes the header say so", l->path, format);
  if (above == c->layers)
    return qed_error (ENOTSUP, "%s: has the magic of format %s: add "
                      "backing-format=%s, or backing-format=raw if it is "
                      "a raw disk anyway", l->path, format, format);
  return qed_error (ENOTSUP, "%s: has the magic of format %s, which can be "
                    "read only right below the image that is served: convert "
                    "it", l->path, format);
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
  free (l->path);
  free (l->file);
  free (l->backing);
  free (l->dirs[0]);
  free (l->dirs[1]);
}

static int
check_loop (const struct chain *c, const struct layer *l)
{
  for (size_t i = 0; i < c->n; ++i)
    if (qed_storage_is_file (l->st) &&
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
  if (above == NULL)
    l->qed = true;
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

    c->bottom = file ? qed_nbd_open_file (file, format) : NULL;
    return c->bottom ? 0 : -1;
  }
  if (open_layer (c, above, l) == -1)
    return -1;
  c->layers[c->n++] = *l;
  *l = (struct layer) { .path = NULL };
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

  if (format && strcmp (format, "raw") != 0 && strcmp (format, "auto") != 0)
    qed_error (EINVAL, "%s: backing-format=%s: what an NBD server exports is "
               "read as raw", uri, format);
  else
    c->bottom = qed_nbd_open_uri (uri, named_by_user (c, above));
  return c->bottom ? 0 : backing_error (above->path, "");
}

/* ABOVE's header names a file that isn't there. */
static int
add_missing (struct chain *c, const struct layer *above)
{
  const char *name = above->backing;

  if (!qed_has_protocol (name))
    return backing_error (above->path, advise_other (c));
  if (!qed_is_nbd_uri (name))
    return qed_error (EPERM, "%s: backing file: %s: there is no such file, "
                      "and names which look like a protocol's are never "
                      "followed from an image's header%s", above->path, name,
                      advise_other (c));
  if (!c->opts->backing_uri)
    return qed_error (EPERM, "%s: backing file: %s: an NBD URI is not "
                      "followed from an image's header%s%s", above->path, name,
                      advice (c, ": if that is wanted add backing-uri=true",
                              ": qed-img reads files only"),
                      advise_other (c));
  return add_uri (c, above, name);
}

/* A relative name starts at the directory of ABOVE, which an export, for
 * instance, doesn't have.
 */
static int
check_relative (const struct chain *c, const struct layer *above)
{
  const char *name = above->backing;

  if (qed_storage_has_path (above->st) || name[0] == '/' ||
      qed_has_protocol (name))
    return 0;
  return qed_error (EPERM, "%s: backing file: %s: is relative to the directory "
                    "of the image, and %s has none%s", above->path, name,
                    qed_storage_is_file (above->st) ? "a file without a path" :
                    "an export", advise_other (c));
}

/* Append the backing file of the image ABOVE. */
static int
add_below (struct chain *c, struct layer *above)
{
  bool user = named_by_user (c, above);
  const char *name = user ? c->opts->backing : above->backing;
  char *path;
  int r;

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
  if (user && qed_is_nbd_uri (name))
    return add_uri (c, above, name);

  if (!user && (set_directories (c, above) == -1 ||
                check_relative (c, above) == -1))
    return -1;
  path = user ? strdup (name) : qed_backing_path (above->path, name);
  if (path == NULL)
    return qed_error (ENOMEM, "%s: %m", above->path);
  r = add_file (c, above, path);
  free (path);
  if (r == 1 && !user)
    return add_missing (c, above);
  return r != 0 ? backing_error (above->path, "") : 0;
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

/* Go all the way down from the image in ST, which is closed by close_layers, or
 * NULL: it couldn't be found.
 */
static int
open_layers (struct chain *c, struct qed_storage *st)
{
  int r;

  if (st == NULL)
    return -1;
  if (c->opts->backing_format &&
      check_format_name (c->opts->backing_format) == -1) {
    qed_storage_close (st);
    return -1;
  }
  r = add_top (c, st);
  for (size_t i = 0; r == 0 && i < c->n && c->layers[i].qed; ++i)
    r = add_below (c, &c->layers[i]);
  return r == 0 ? 0 : -1;
}

/* Close what no image has taken over. */
static void
close_layers (struct chain *c)
{
  for (size_t i = 0; i < c->n; ++i)
    layer_free (&c->layers[i]);
  qed_backing_close (c->bottom);
}

/* ---- building up ---- */

/* What each of the images gets of the cache. */
static size_t
share_cache (const struct chain *c)
{
  size_t images = c->layers[c->n - 1].qed ? c->n : c->n - 1;
  size_t size = c->opts->cache_size / images;

  return images > 1 && size < QED_MIN_CACHE_SIZE ? QED_MIN_CACHE_SIZE : size;
}

/* Open L as an image on top of C->bottom, which it gets. */
static struct qed_image *
open_image (struct chain *c, struct layer *l)
{
  struct qed_image *img = qed_open_overlay (l->st, c->bottom, share_cache (c));

  if (img) {
    l->st = NULL;
    c->bottom = NULL;
    img->salvage = c->opts->salvage;
  }
  return img;
}

/* Put the layer L on top of C->bottom, which it becomes. */
static int
raise_bottom (struct chain *c, struct layer *l)
{
  if (l->qed) {
    struct qed_image *img = open_image (c, l);

    if (img == NULL)
      return -1;
    c->bottom = qed_backing_image (img);
    if (c->bottom == NULL)
      qed_close (img);
  }
  else {
    c->bottom = qed_backing_raw (l->st);
    if (c->bottom)
      l->st = NULL;
  }
  return c->bottom ? 0 : -1;
}

/* Put the layers from FIRST on to before END on top of each other and of
 * C->bottom.
 */
static int
build (struct chain *c, size_t first, size_t end)
{
  for (struct layer *l = &c->layers[end - 1]; l >= &c->layers[first]; --l)
    if (raise_bottom (c, l) == -1)
      return backing_error ((l - 1)->path, "");
  return 0;
}

struct qed_image *
qed_open_chain (const char *name, const struct qed_chain_options *opts)
{
  return qed_open_chain_in (qed_storage_find_named (name), opts);
}

struct qed_image *
qed_open_chain_in (struct qed_storage *st,
                   const struct qed_chain_options *opts)
{
  struct chain c = { .opts = opts };
  struct qed_image *img = NULL;

  if (open_layers (&c, st) == 0 && build (&c, 1, c.n) == 0)
    img = open_image (&c, &c.layers[0]);
  close_layers (&c);
  return img;
}

/* ---- pairs ---- */

/* The layers were opened: is the backing file of the first one a file that can
 * be written?
 */
static int
check_pair (const struct chain *c)
{
  const struct layer *top = &c->layers[0];

  if (c->n == 1 && c->bottom)
    return qed_error (ENOTSUP, "%s: backing file: %s: is neither raw nor QED: "
                      "only such a file can be committed to", top->path,
                      c->bottom->name);
  if (c->n == 1)
    return qed_error (EINVAL, "%s: has no backing file, so there is nothing "
                      "to commit to", top->path);
  return 0;
}

/* Does the user, with NAME, which is the file ST (NULL: it is none), mean the
 * layer L, which isn't the first one?
 */
static bool
is_named (const struct layer *l, const char *name,
          const struct qed_storage *st)
{
  const char *in_header = (l - 1)->backing;

  return strcmp (name, l->path) == 0 ||
    (in_header && strcmp (name, in_header) == 0) ||
    (st && st->device == l->st->device && st->inode == l->st->inode);
}

/* No layer is NAME. */
static int
no_layer (const struct chain *c, const char *name)
{
  char *list = NULL, *longer;

  for (size_t i = 1; i < c->n; ++i) {
    if (asprintf (&longer, "%s%s%s", list ? list : "", list ? ", " : "",
                  c->layers[i].path) == -1)
      longer = NULL;
    free (list);
    list = longer;
  }
  qed_error (EINVAL, "%s: backing file '%s': is not in the chain of the image, "
             "which has these: %s", c->layers[0].path, name, list ? list : "");
  free (list);
  return -1;
}

/* Set *I to the layer that the user means with NAME (NULL: the backing file of
 * the first one).  It is going to be written, so there must be no doubt.
 */
static int
find_layer (const struct chain *c, const char *name, size_t *i)
{
  struct qed_storage *st = name ? qed_storage_find (name) : NULL;
  size_t found = name ? 0 : 1;
  int r = 0;

  for (size_t k = 1; name && r == 0 && k < c->n; ++k)
    if (is_named (&c->layers[k], name, st)) {
      if (found > 0)
        r = qed_error (EINVAL, "%s: backing file '%s': is both %s and %s: "
                       "write the directory too", c->layers[0].path, name,
                       c->layers[found].path, c->layers[k].path);
      found = k;
    }
  qed_storage_close (st);
  if (r == 0 && found == 0)
    r = no_layer (c, name);
  *i = found;
  return r;
}

/* The layers were opened, and layer I is going to be written. */
static int
build_pair (struct chain *c, size_t i, struct qed_pair *pair)
{
  struct layer *l = &c->layers[i];

  if (build (c, i + 1, c->n) == -1)
    return -1;
  if (l->qed) {
    pair->base = open_image (c, l);
    if (pair->base == NULL)
      return backing_error ((l - 1)->path, "");
  }
  else {
    pair->raw = l->st;
    l->st = NULL;
  }
  if (build (c, 1, i) == -1)
    return -1;
  pair->img = open_image (c, &c->layers[0]);
  return pair->img ? 0 : -1;
}

int
qed_open_pair (const char *name, const char *base,
               const struct qed_chain_options *opts, struct qed_pair *pair)
{
  struct chain c = { .opts = opts };
  size_t i;
  int r;

  *pair = (struct qed_pair) { .img = NULL };
  r = open_layers (&c, qed_storage_find_named (name)) == -1 ||
    check_pair (&c) == -1 || find_layer (&c, base, &i) == -1 ||
    build_pair (&c, i, pair) == -1 ? -1 : 0;
  if (r == -1)
    qed_close_pair (pair);
  close_layers (&c);
  return r;
}

void
qed_close_pair (struct qed_pair *pair)
{
  (void) qed_close (pair->img); /* nothing to be written */
  (void) qed_close (pair->base);
  qed_storage_close (pair->raw);
  *pair = (struct qed_pair) { .img = NULL };
}
