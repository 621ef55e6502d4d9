/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Backing files for tests of overlays: files in memory whose content depends
 * on its offset, which the library opens as a struct qed_backing and the tests
 * read as a struct model.
 *
 * One thread sets a struct below up, opens, checks and frees it.  The backing
 * file that below_open returns may be read from many threads.
 */

#ifndef BELOW_H
#define BELOW_H

#include "model.h"

enum below_kind {
  BELOW_NONE,                   /* not an overlay */
  BELOW_LOST,                   /* the header names a backing file that
                                   doesn't exist */
  BELOW_FULL,                   /* raw, longer than the disk; not named */
  BELOW_SHORT,                  /* raw, ends within a sector */
  BELOW_HOLES,                  /* raw, with holes of all sizes */
  BELOW_CHAIN,                  /* an image over an image over a short raw
                                   file */
  NR_BELOW
};

/* All members are read-only for callers. */
struct below {
  enum below_kind kind;
  size_t n;                     /* files, the lowest first */
  struct mem_file *files[3];
  struct model models[3];
  bool opened;
  uint64_t hashes[3];           /* of the files at the first below_open */
};

/* Set *B up for an overlay whose disk has SIZE bytes.  SHORT_SIZE is the
 * length in bytes of the raw file of BELOW_SHORT and BELOW_CHAIN; the other
 * kinds ignore it.  The files belong to *B: call below_free.  M->below of an
 * overlay points into *B, so *B must not be copied or moved.
 */
extern void below_init (struct below *b, enum below_kind kind, uint64_t size,
                        uint64_t short_size);

/* Put content into a range, in bytes, of each file; all of them are holes
 * before.  The part of the range past the end of a file is ignored.  Call it
 * before the first below_open only.
 */
extern void below_fill (struct below *b, uint64_t offset, uint64_t length);

/* Make M, a new image, an overlay on these files.  Names the backing file in
 * its header if the kind says so, and sets M->below, which *B goes on owning.
 */
extern void below_name (const struct below *b, struct model *m);

/* The model of the backing file, owned by *B; NULL if there is no file. */
extern const struct model *below_model (const struct below *b);

/* Open the files as the backing file of an image.  The caller owns the result
 * and closes it, or passes it on to qed_open_overlay.  NULL if there is no
 * file.  May be called again after that.
 */
extern struct qed_backing *below_open (struct below *b);

/* Check that all storages are closed and that nothing was written to the
 * files or synced since the first below_open (I10).
 */
extern void below_check (struct below *b);

/* Free the files, whose storages must be closed; *B itself is the caller's. */
extern void below_free (struct below *b);

#endif /* BELOW_H */
