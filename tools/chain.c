/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* An image and its backing files.
 *
 * Loading a layer only reads its header.  It takes no lock and writes nothing
 * (I10), so it works on an image in use and doesn't keep other programs from
 * opening one.  Headers are untrusted input (I9): the length of a chain is
 * limited, loops are found by device and inode, and only regular files and
 * block devices are opened.  Only the user can name an NBD export.
 *
 * Errors are stored, not printed, because they aren't fatal to all callers.
 */

#include <config.h>

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "qed-img.h"

void
chain_free (struct chain *c)
{
  for (size_t i = 0; i < c->n; ++i) {
    free (c->layers[i].path);
    free (c->layers[i].backing);
    free (c->layers[i].full_backing);
  }
  free (c->error);
}

/* Store an error message.  If IMAGE isn't NULL the message is about its
 * backing file, and starts with its name.
 */
static int __attribute__ ((format (printf, 3, 4)))
chain_error (struct chain *c, const char *image, const char *fmt, ...)
{
  va_list args;
  char *s;

  va_start (args, fmt);
  s = xvasprintf (fmt, args);
  va_end (args);
  free (c->error);
  c->error = s;
  if (image) {
    c->error = xasprintf ("%s: backing file: %s", image, s);
    free (s);
  }
  return -1;
}

/* Set the format of L to ASKED, or probe it. */
static int
decide_format (struct chain *c, struct layer *l, struct qed_storage *st,
               enum format asked, const char *image)
{
  const char *found, *packed;

  l->format = asked;
  if (asked != FORMAT_PROBE)
    return 0;

  found = qed_probe (st);
  if (found == NULL)
    return chain_error (c, image, "%s", qed_get_error ());
  l->format = strcmp (found, "qed") == 0 ? FORMAT_QED : FORMAT_RAW;
  packed = qed_packed_advice (found);
  if (packed)
    return chain_error (c, image, "%s: has the magic of format %s: %s; or -F "
                        "raw says that it is a raw disk anyway",
                        l->path, found, packed);
  if (l->format == FORMAT_RAW && strcmp (found, "raw") != 0)
    return chain_error (c, image, "%s: has the magic of format %s: a backing "
                        "file must be raw or QED: convert it first",
                        l->path, found);
  return 0;
}

/* Fill in what the system knows about the file of L, the layer after the last
 * one.
 */
static int
examine_file (struct chain *c, struct layer *l, const char *image)
{
  struct stat sb;

  l->is_file = !qed_is_nbd_uri (l->path);
  if (!l->is_file)
    return 0;
  if (stat (l->path, &sb) == -1)
    return chain_error (c, image, "%s: stat: %s", l->path, strerror (errno));
  l->dev = sb.st_dev;
  l->ino = sb.st_ino;
  l->actual_size = (uint64_t) sb.st_blocks * 512;
  for (const struct layer *above = c->layers; above < l; ++above)
    if (above->is_file && above->dev == l->dev && above->ino == l->ino)
      return chain_error (c, image, "%s: is the file %s again: a chain of "
                          "backing files can't be a loop",
                          l->path, above->path);
  return 0;
}

/* Fill in L, the layer after the last one, from its open file. */
static int
read_layer (struct chain *c, struct layer *l, struct qed_storage *st,
            enum format asked, const char *image)
{
  int64_t size;

  if (examine_file (c, l, image) == -1)
    return -1;
  if (decide_format (c, l, st, asked, image) == -1)
    return -1;
  if (l->format == FORMAT_QED) {
    if (qed_read_header (st, &l->header, &l->backing) == -1)
      return chain_error (c, image, "%s", qed_get_error ());
    l->virtual_size = l->header.image_size;
    return 0;
  }

  size = st->ops->get_size (st);
  if (size == -1)
    return chain_error (c, image, "%s: length of the file: %s", l->path,
                        strerror (errno));
  l->virtual_size = ((uint64_t) size + QED_SECTOR_SIZE - 1) &
    ~(uint64_t) (QED_SECTOR_SIZE - 1);
  return 0;
}

bool
has_no_directory (const char *image, const char *name)
{
  return qed_is_nbd_uri (image) && name[0] != '/' && !qed_has_protocol (name);
}

/* Return the path of the backing file NAME of IMAGE, or NULL: there can't be
 * one (see has_no_directory), or NAME looks like a URI or a protocol, and there
 * is no file of that name.
 */
static char *
find_backing (const char *image, const char *name)
{
  char *path;

  if (qed_is_nbd_uri (image) && name[0] != '/')
    return NULL;
  path = qed_backing_path (image, name);
  if (path == NULL)
    out_of_memory ();
  if (qed_is_nbd_uri (path)) {
    char *file = xasprintf ("./%s", path);

    free (path);
    path = file;
  }
  if (!qed_has_protocol (name) || access (path, F_OK) == 0)
    return path;
  free (path);
  return NULL;
}

/* chain_add; IMAGE, or NULL, is the image that has PATH as backing file. */
static int
add_layer (struct chain *c, const char *path, enum format asked,
           const char *image)
{
  struct layer *l = &c->layers[c->n];
  struct qed_storage *st;
  int r;

  if (c->n == QED_MAX_CHAIN)
    return chain_error (c, image, "%s: would be layer %d of the chain: at "
                        "most %d are allowed", path, QED_MAX_CHAIN + 1,
                        QED_MAX_CHAIN);
  st = qed_storage_open (path, false);
  if (st == NULL)
    return chain_error (c, image, "%s", qed_get_error ());

  *l = (struct layer) { .path = xasprintf ("%s", path) };
  r = read_layer (c, l, st, asked, image);
  qed_storage_close (st);
  if (r == -1) {
    free (l->path);
    return -1;
  }
  if (l->backing) {
    l->full_backing = find_backing (l->path, l->backing);
    if (l->full_backing == NULL && !has_no_directory (l->path, l->backing))
      l->full_backing = xasprintf ("%s", l->backing);
  }
  c->n++;
  return 0;
}

int
chain_add (struct chain *c, const char *name, enum format asked)
{
  return add_layer (c, name, asked, NULL);
}

int
chain_add_backing (struct chain *c, const char *image, const char *name,
                   enum format asked)
{
  char *path;
  int r;

  if (qed_is_nbd_uri (name))
    return chain_error (c, image, "%s: qed-img reads backing files only, and "
                        "this is an NBD URI: qed-img rebase -u -b NAME lets "
                        "the header of an image name it", name);
  if (qed_has_protocol (name))
    return chain_error (c, image, "%s: names a protocol before the colon, "
                        "and must name a file: if it is one write ./%s",
                        name, name);
  if (has_no_directory (image, name))
    return chain_error (c, image, "%s: is a relative name, and an export has "
                        "no directory where it could start: write the whole "
                        "path", name);
  path = find_backing (image, name);
  r = add_layer (c, path, asked, image);
  free (path);
  return r;
}

/* Append the backing file of L, the last layer. */
static int
add_below (struct chain *c, const struct layer *l)
{
  bool raw = l->header.features & QED_F_BACKING_FORMAT_NO_PROBE;
  char *path = find_backing (l->path, l->backing);
  int r;

  if (path == NULL)
    return chain_error (c, l->path, "%s: %s: qed-img rebase -u -b NAME lets "
                        "the header name another one", l->backing,
                        has_no_directory (l->path, l->backing) ?
                        "is relative to the directory of the image, and an "
                        "export has none" :
                        "there is no such file, and names which look like a "
                        "protocol's are not followed");
  r = add_layer (c, path, raw ? FORMAT_RAW : FORMAT_PROBE, l->path);
  free (path);
  return r;
}

int
chain_add_rest (struct chain *c)
{
  const struct layer *l;

  while (l = &c->layers[c->n - 1], l->backing != NULL)
    if (add_below (c, l) == -1)
      return -1;
  return 0;
}
