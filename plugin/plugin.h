/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* What the files of the plugin share.  A function that fails has logged why. */

#ifndef QED_PLUGIN_H
#define QED_PLUGIN_H

#include <stdbool.h>
#include <stdint.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "qed.h"

#define UNUSED __attribute__ ((unused))

/* ---- messages.c ---- */

extern void complain (const char *fmt, ...)
  __attribute__ ((format (printf, 1, 2)));
extern void debug (const char *fmt, ...)
  __attribute__ ((format (printf, 1, 2)));

/* The value of a parameter that is true or false. */
extern int parse_bool (const char *value, bool *b);

/* Log the library's message, set errno for the client, and return -1. */
extern int library_error (void);

/* ---- ending.c ---- */

/* From now on the library stops what is in vain. */
extern void ending_watch (void);

/* Close an image, or log why that failed. */
extern void ending_close (struct qed_image *img);

/* ---- salvage.c ---- */

/* Log the ranges of the disk that can't be read, once. */
extern int report_all_damage (struct qed_image *img);

/* ---- source.c: file=, uri=, command=, arg=, fd= and dir= ---- */

/* Take a parameter.  1: it is none of these. */
extern int source_config (const char *key, const char *value);
extern int source_config_complete (void);
extern void source_unload (void);

/* The directory of dir=, resolved.  NULL: there is one image. */
extern const char *source_directory (void);

/* The image that the parameters name, for qed_open_chain_in.  NULL: the
 * library has left a message.
 */
extern struct qed_storage *source_find (void);

/* ---- directory.c: the exports of dir= ---- */

/* The image that is the export NAME. */
extern struct qed_storage *directory_find (const char *dir, const char *name);

extern int directory_list (const char *dir, struct nbdkit_exports *exports);

/* ---- copying.c: copy-on-read=, stream= and stream-rate= ---- */

/* Take a parameter.  1: it is none of these. */
extern int copying_config (const char *key, const char *value);
extern int copying_config_complete (void);

/* Is anything to be copied?  Then images must be writable. */
extern bool copying_is_wanted (void);

/* Make IMG writable, and see whether it can be copied to. */
extern int copying_prepare (struct qed_image *img,
                            const struct qed_write_options *opts);

/* Begin.  IMG is writable.  NULL: that failed. */
extern struct qed_copier *copying_start (struct qed_image *img);

/* ---- engine.c: the images that are open ---- */

struct engine;

struct engine_options {
  const struct qed_chain_options *chain;

  /* How the image is made writable if it is copied to.  Otherwise the first
   * connection that may write does that.
   */
  struct qed_write_options write;
};

/* The engine of the image in ST, which is closed or becomes the engine's: one
 * that is there, or a new one.  NULL for ST: finding it failed.  Copying begins
 * at once, or in engine_begin if OPTS->write.before_fork.
 */
extern struct engine *engine_open (struct qed_storage *st,
                                   const struct engine_options *opts);

/* This process, which may have FORKED, is the one that serves the image. */
extern int engine_begin (struct engine *e, bool forked);

/* Each use ends with engine_close, the last of which closes the image. */
extern void engine_use (struct engine *e);
extern void engine_close (struct engine *e);

/* Close all images, used or not: nbdkit is ending, and no connection is left.
 */
extern void engine_close_all (void);

/* A connection's handle, which belongs to the engine, as there are only two. */
struct handle {
  struct engine *engine;
  struct qed_image *image;
  struct qed_copier *copier;    /* NULL: nothing is copied */
  bool writable;                /* may this connection write? */
};
extern struct handle *engine_handle (struct engine *e, bool writable);

extern struct qed_image *engine_image (const struct engine *e);

#endif /* QED_PLUGIN_H */
