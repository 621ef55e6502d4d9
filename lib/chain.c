/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* An image and its backing chain: what layers.c finds on the way down is put on
 * top of each other here, from the bottom up.
 */

#include <config.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "image.h"
#include "layers.h"
#include "storage.h"

/* ---- building up ---- */

/* What has been built. */
struct building {
  struct chain c;
  struct qed_backing *bottom;   /* what the next layer goes on; or NULL */
};

/* What each of the images gets of the cache. */
static size_t
share_cache (const struct chain *c)
{
  size_t images = c->layers[c->n - 1].qed ? c->n : c->n - 1;
  size_t size = c->opts->cache_size / images;

  return images > 1 && size < QED_MIN_CACHE_SIZE ? QED_MIN_CACHE_SIZE : size;
}

/* Open L as an image on top of B->bottom, which it gets. */
static struct qed_image *
open_image (struct building *b, struct layer *l)
{
  struct qed_image *img = qed_open_overlay (l->st, b->bottom,
                                            share_cache (&b->c));

  if (img) {
    l->st = NULL;
    b->bottom = NULL;
    img->salvage = b->c.opts->salvage;
  }
  return img;
}

/* Put the layer L on top of B->bottom, which it becomes. */
static int
raise_bottom (struct building *b, struct layer *l)
{
  if (l->served) {
    b->bottom = l->served;
    l->served = NULL;
  }
  else if (l->qed) {
    struct qed_image *img = open_image (b, l);

    if (img == NULL)
      return -1;
    b->bottom = qed_backing_image (img);
    if (b->bottom == NULL)
      qed_close (img);
  }
  else {
    b->bottom = qed_backing_raw (l->st);
    if (b->bottom)
      l->st = NULL;
  }
  return b->bottom ? 0 : -1;
}

/* Put the layers from FIRST on to before END on top of each other and of
 * B->bottom.
 */
static int
build (struct building *b, size_t first, size_t end)
{
  struct layer *layers = b->c.layers;

  for (struct layer *l = &layers[end - 1]; l >= &layers[first]; --l)
    if (raise_bottom (b, l) == -1)
      return qed_backing_error ((l - 1)->path, "");
  return 0;
}

/* Close what no image has taken over. */
static void
clear (struct building *b)
{
  qed_layers_close (&b->c);
  qed_backing_close (b->bottom);
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
  struct building b = { .c.opts = opts };
  struct qed_image *img = NULL;

  if (qed_layers_open (&b.c, st, SIZE_MAX) == 0 && build (&b, 1, b.c.n) == 0)
    img = open_image (&b, &b.c.layers[0]);
  clear (&b);
  return img;
}

/* ---- pairs ---- */

/* Can the layer L, the base that the user means, be written? */
static int
check_base (const struct layer *l)
{
  return !l->served ? 0 :
    qed_error (ENOTSUP, "%s: backing file: %s: is neither raw nor QED: only "
               "such a file can be committed to", (l - 1)->path,
               l->served->name);
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
    (st && l->st && st->device == l->st->device &&
     st->inode == l->st->inode);
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
  struct qed_storage *st;
  size_t found = name ? 0 : 1;
  int r = 0;

  if (c->n == 1)
    return qed_error (EINVAL, "%s: has no backing file, so there is nothing "
                      "to commit to", c->layers[0].path);
  st = name ? qed_storage_find (name) : NULL;
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
build_pair (struct building *b, size_t i, struct qed_pair *pair)
{
  struct layer *l = &b->c.layers[i];

  if (build (b, i + 1, b->c.n) == -1)
    return -1;
  if (l->qed) {
    pair->base = open_image (b, l);
    if (pair->base == NULL)
      return qed_backing_error ((l - 1)->path, "");
  }
  else {
    pair->raw = l->st;
    l->st = NULL;
  }
  if (build (b, 1, i) == -1)
    return -1;
  pair->img = open_image (b, &b->c.layers[0]);
  return pair->img ? 0 : -1;
}

int
qed_open_pair (const char *name, const char *base,
               const struct qed_chain_options *opts, struct qed_pair *pair)
{
  struct building b = { .c.opts = opts, .c.writes = true };
  size_t i = 0;
  int r;

  *pair = (struct qed_pair) { .img = NULL };
  r = qed_layers_open (&b.c, qed_storage_find_named (name), SIZE_MAX) == -1 ||
    find_layer (&b.c, base, &i) == -1 ||
    check_base (&b.c.layers[i]) == -1 ||
    build_pair (&b, i, pair) == -1 ? -1 : 0;
  if (r == -1)
    qed_close_pair (pair);
  clear (&b);
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
