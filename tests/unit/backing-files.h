/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Backing files for tests of overlays: files in memory whose content depends
 * on its offset, which the library opens as a struct qed_backing and the tests
 * read as a struct model.
 *
 * One thread sets a struct backing up, opens, checks and frees it.  The backing
 * file that backing_open returns may be read from many threads.
 */

#ifndef BACKING_FILES_H
#define BACKING_FILES_H

#include "model.h"

enum backing_kind {
  BACKING_NONE,                 /* not an overlay */
  BACKING_LOST,                 /* the header names a backing file that
                                   doesn't exist */
  BACKING_FULL,                 /* raw, longer than the disk; not named */
  BACKING_SHORT,                /* raw, ends within a sector */
  BACKING_HOLES,                /* raw, with holes of all sizes */
  BACKING_CHAIN,                /* an image over an image over a short raw
                                   file */
  NR_BACKING
};

/* All members are read-only for callers. */
struct backing {
  enum backing_kind kind;
  size_t n;                     /* files, the lowest first */
  struct mem_file *files[3];
  struct model models[3];
  bool opened;
  uint64_t hashes[3];           /* of the files at the first backing_open */
};

/* Set *B up for an overlay whose disk has SIZE bytes.  SHORT_SIZE is the
 * length in bytes of the raw file of BACKING_SHORT and BACKING_CHAIN; the other
 * kinds ignore it.  The files belong to *B: call backing_free.  M->backing of
 * an overlay points into *B, so *B must not be copied or moved.
 */
extern void backing_init (struct backing *b, enum backing_kind kind,
                          uint64_t size, uint64_t short_size);

/* Put content into a range, in bytes, of each file; all of them are holes
 * before.  The part of the range past the end of a file is ignored.  Call it
 * before the first backing_open only.
 */
extern void backing_fill (struct backing *b, uint64_t offset, uint64_t length);

/* Make M, a new image, an overlay on these files.  Names the backing file in
 * its header if the kind says so, and sets M->backing, which *B goes on owning.
 */
extern void backing_name (const struct backing *b, struct model *m);

/* The model of the backing file, owned by *B; NULL if there is no file. */
extern const struct model *backing_model (const struct backing *b);

/* Open the files as the backing file of an image.  The caller owns the result
 * and closes it, or passes it on to qed_open_overlay.  NULL if there is no
 * file.  May be called again after that.
 */
extern struct qed_backing *backing_open (struct backing *b);

/* Check that all storages are closed and that nothing was written to the
 * files or synced since the first backing_open (I10).
 */
extern void backing_check (struct backing *b);

/* Free the files, whose storages must be closed; *B itself is the caller's. */
extern void backing_free (struct backing *b);

#endif /* BACKING_FILES_H */
