/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The exports of dir=DIR: the images in DIR.
 *
 * An export has the name of an entry of DIR, which may be a symbolic link to
 * somewhere beneath DIR.  It is the file that decides, not the name: it is
 * found first, without opening it for reading, then it is asked where it is,
 * and if that is allowed the very same file is opened.  So swapping files in
 * between is in vain.
 *
 * Nothing is kept: DIR is read when a client asks for the list.  Only regular
 * files and block devices are opened for that.
 */

#include <config.h>

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "plugin.h"

/* ---- one of them ---- */

static bool
is_beneath (const char *path, const char *dir)
{
  const size_t n = strlen (dir);

  return strcmp (dir, "/") == 0 ||
    (strncmp (path, dir, n) == 0 && path[n] == '/');
}

/* Find the file NAME in DIR and set *FILE, which is to be freed, to where that
 * is.  NULL: the library has left a message.
 */
static struct qed_storage *
find (const char *dir, const char *name, char **file)
{
  struct qed_storage *st = NULL;
  char *path;

  *file = NULL;
  if (asprintf (&path, "%s/%s", strcmp (dir, "/") == 0 ? "" : dir, name) == -1)
    return NULL;
  st = qed_storage_find (path);
  if (st) {
    *file = qed_storage_resolve (st);
    if (*file == NULL) {
      qed_storage_close (st);
      st = NULL;
    }
  }
  free (path);
  return st;
}

/* Is NAME in DIR a file that is beneath it and has QED's magic? */
static bool
is_image (const char *dir, const char *name)
{
  char *file;
  struct qed_storage *st = find (dir, name, &file);
  const char *format = NULL;

  if (st && is_beneath (file, dir) && qed_storage_begin (st) == 0)
    format = qed_probe (st);
  qed_storage_close (st);
  free (file);
  return format && strcmp (format, "qed") == 0;
}

/* ---- all of them ---- */

struct names {
  char **names;
  size_t n;
};

static void
free_names (struct names *l)
{
  for (size_t i = 0; i < l->n; ++i)
    free (l->names[i]);
  free (l->names);
}

static int
add_name (struct names *l, const char *name)
{
  /* Grow when the number is a power of two. */
  if ((l->n & (l->n - 1)) == 0) {
    char **p = realloc (l->names, (l->n ? 2 * l->n : 1) * sizeof *p);

    if (p == NULL)
      return -1;
    l->names = p;
  }
  l->names[l->n] = strdup (name);
  return l->names[l->n] ? (l->n++, 0) : -1;
}

static int
compare (const void *a, const void *b)
{
  return strcmp (*(char *const *) a, *(char *const *) b);
}

/* The images in DIR, sorted. */
static int
read_names (const char *dir, struct names *l)
{
  DIR *d = opendir (dir);
  struct dirent *e;
  int r = 0;

  *l = (struct names) { .names = NULL };
  if (d == NULL) {
    complain ("dir=%s: %m", dir);
    return -1;
  }
  errno = 0;
  while (r == 0 && (e = readdir (d)) != NULL) {
    if (is_image (dir, e->d_name))
      r = add_name (l, e->d_name);
    if (r == 0)
      errno = 0;
  }
  if (errno != 0) {
    complain ("dir=%s: %m", dir);
    r = -1;
  }
  closedir (d);
  if (r == -1)
    free_names (l);
  else if (l->n > 0)
    qsort (l->names, l->n, sizeof l->names[0], compare);
  return r;
}

/* nbdkit takes no more. */
#define MAX_LISTED 10000

int
directory_list (const char *dir, struct nbdkit_exports *exports)
{
  struct names l;
  int r = 0;

  if (read_names (dir, &l) == -1)
    return -1;
  for (size_t i = 0; r == 0 && i < l.n && i < MAX_LISTED; ++i)
    r = nbdkit_add_export (exports, l.names[i], NULL);
  if (l.n > MAX_LISTED)
    complain ("dir=%s: the first %d of %zu images are listed: the others can "
              "be reached by their names", dir, MAX_LISTED, l.n);
  free_names (&l);
  return r;
}

/* ---- what a client asks for ---- */

/* A client has asked for the default export. */
static void
refuse_default (const char *dir)
{
  struct names l;

  if (read_names (dir, &l) == -1)
    return;
  complain ("dir=%s: there is no default export, as each image in the "
            "directory is an export of its name: nbdinfo --list shows the "
            "names%s%s%s%s%s%s%s", dir,
            l.n > 0 ? ": " : ", but there is no image now",
            l.n > 0 ? l.names[0] : "",
            l.n > 1 ? ", " : "", l.n > 1 ? l.names[1] : "",
            l.n > 2 ? ", " : "", l.n > 2 ? l.names[2] : "",
            l.n > 3 ? ", and more" : "");
  free_names (&l);
}

struct qed_storage *
directory_find (const char *dir, const char *name)
{
  struct qed_storage *st;
  char *file;

  if (*name == '\0') {
    refuse_default (dir);
    return NULL;
  }
  if (strchr (name, '/') || strcmp (name, ".") == 0 ||
      strcmp (name, "..") == 0) {
    complain ("dir=%s: export '%s': must be the name of an image in the "
              "directory, without '/'", dir, name);
    return NULL;
  }
  st = find (dir, name, &file);
  if (st == NULL)
    library_error ();
  else if (!is_beneath (file, dir)) {
    complain ("dir=%s: export '%s': is the file %s, which is not beneath that "
              "directory", dir, name, file);
    qed_storage_close (st);
    st = NULL;
  }
  free (file);
  return st;
}
