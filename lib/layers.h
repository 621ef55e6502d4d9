/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The layers of a backing chain, found and opened from the top down (layers.c).
 * chain.c puts them on top of each other, examine.c describes them.
 */

#ifndef QED_LAYERS_H
#define QED_LAYERS_H

#include "qed.h"

struct layer {
  char *path;                   /* as it was reached, or a URI */
  char *file;                   /* what file that is: see file_of */
  const char *format;           /* "qed", "raw", or one that qemu-nbd reads */
  bool qed;                     /* an image; otherwise the last layer */

  /* It is read over NBD; or NULL.  Then ST is NULL (an export), or the file
   * that qemu-nbd reads, which was found but isn't open.
   */
  struct qed_backing *served;
  struct qed_storage *st;

  /* Of an image: */
  struct qed_header h;
  char *backing;                /* the name in the header, or NULL */
  char *dirs[2];                /* see set_directories; or NULL */
};

struct chain {
  const struct qed_chain_options *opts;
  bool writes;                  /* one of them is going to be written */
  struct layer layers[QED_MAX_CHAIN];
  size_t n;
};

/* Go down from the image in ST, which C owns from now on, also on failure, to
 * the end of the chain; or stop when BELOW layers below it were added.  NULL:
 * it couldn't be found.  The layers from before a failure (-1) stay in C.
 */
extern int qed_layers_open (struct chain *c, struct qed_storage *st,
                            size_t below);

/* The same for an image that doesn't exist yet.  The first layer has only its
 * name, PATH, and the options say what is below it.
 */
extern int qed_layers_open_below (struct chain *c, const char *path);

/* Close what is still in C. */
extern void qed_layers_close (struct chain *c);

/* The path of what the header of L names.  It may be beside a file only, and
 * isn't an NBD URI.  NULL: no memory.  To be freed.
 */
extern char *qed_layer_backing_path (const struct layer *l);

/* Is the name in the header of L relative, but L has no directory, like an
 * export?
 */
extern bool qed_layer_lacks_directory (const struct layer *l);

/* The last error is about the backing file of IMAGE: say so, and after it MORE.
 */
extern int qed_backing_error (const char *image, const char *more);

#endif /* QED_LAYERS_H */
