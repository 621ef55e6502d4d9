/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* What a backing chain consists of.  The layers are found and opened as for
 * reading the disk (layers.c), but nothing is read except headers.
 *
 * Each layer keeps its file open, so that whoever looks at it once more sees
 * the file that was judged, whatever has become of its name.  What is read over
 * NBD is closed: its size is all that there is to know.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "layers.h"
#include "storage.h"

/* The name that leads to the backing file of L: NULL if nothing does. */
static int
find_backing (const struct layer *l, char **found)
{
  const bool protocol = qed_has_protocol (l->backing);
  char *path;

  *found = NULL;
  if (qed_layer_lacks_directory (l) && !protocol)
    return 0;
  path = qed_layer_lacks_directory (l) ? NULL : qed_layer_backing_path (l);
  if (protocol && (path == NULL || access (path, F_OK) == -1)) {
    free (path);
    path = strdup (l->backing);
  }
  *found = path;
  return path ? 0 : qed_error (ENOMEM, "%s: %m", l->path);
}

static uint64_t
whole_sectors (uint64_t size)
{
  const uint64_t rest = QED_SECTOR_SIZE - 1;

  return (size + rest) & ~rest;
}

/* Set what follows from the file of L, or the server. */
static int
describe_file (const struct layer *l, struct qed_layer *d)
{
  int64_t size = 0;

  d->is_file = l->st && qed_storage_is_file (l->st);
  if (d->is_file) {
    d->device = l->st->device;
    d->inode = l->st->inode;
    size = qed_storage_space (l->st);
    d->actual_size = (uint64_t) size;
  }
  if (size == -1)
    return -1;
  if (l->qed)
    d->virtual_size = l->h.image_size;
  else if (l->served)
    d->virtual_size = whole_sectors (l->served->size);
  else {
    size = qed_storage_size (l->st);
    d->virtual_size = whole_sectors ((uint64_t) size);
  }
  return size == -1 ? -1 : 0;
}

/* Fill D, which takes over what it needs from L. */
static int
describe (struct layer *l, struct qed_layer *d)
{
  d->format = strdup (l->format);
  d->qed = l->qed;
  d->header = l->h;
  if (d->format == NULL)
    return qed_error (ENOMEM, "%s: %m", l->path);
  if (describe_file (l, d) == -1 ||
      (l->backing && find_backing (l, &d->full_backing) == -1))
    return -1;
  d->path = l->path;
  d->backing = l->backing;
  l->path = l->backing = NULL;
  if (!l->served) {
    d->st = l->st;
    l->st = NULL;
  }
  return 0;
}

/* R says whether all layers were opened.  Fill ALL with those that were, from
 * FIRST on.
 */
static int
describe_all (struct chain *c, int r, size_t first, struct qed_layers *all)
{
  if (c->n <= first)
    return r == -1 ? -1 : qed_error (EINVAL, "%s: has no backing file",
                                     c->layers[0].path);
  if (r == -1) {
    all->error = strdup (qed_get_error ());
    if (all->error == NULL)
      return qed_error (ENOMEM, "%s: %m", c->layers[0].path);
  }
  for (size_t i = first; i < c->n; ++i)
    if (describe (&c->layers[i], &all->layers[all->n++]) == -1)
      return -1;
  return 0;
}

/* The same, in new memory, and close the rest. */
static struct qed_layers *
finish (struct chain *c, int r, size_t first)
{
  struct qed_layers *all = calloc (1, sizeof *all);

  r = all ? describe_all (c, r, first, all) : qed_error (errno, "%m");
  qed_layers_close (c);
  if (r == 0)
    return all;
  qed_free_layers (all);
  return NULL;
}

struct qed_layers *
qed_examine_chain (const char *name, const struct qed_chain_options *opts,
                   size_t below)
{
  struct chain c = { .opts = opts };
  int r = qed_layers_open (&c, qed_storage_find_named (name), below);

  return finish (&c, r, 0);
}

struct qed_layers *
qed_examine_new (const char *name, const struct qed_chain_options *opts)
{
  struct chain c = { .opts = opts };
  int r = qed_layers_open_below (&c, name);

  return finish (&c, r, 1);
}

void
qed_free_layers (struct qed_layers *all)
{
  for (size_t i = 0; all && i < all->n; ++i) {
    struct qed_layer *d = &all->layers[i];

    qed_storage_close (d->st);
    free (d->path);
    free (d->format);
    free (d->backing);
    free (d->full_backing);
  }
  if (all)
    free (all->error);
  free (all);
}
