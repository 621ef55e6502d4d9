/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* What an overlay can be on top of: files in memory with content that tells
 * its place, opened as backing and as a model.
 */

#ifndef BELOW_H
#define BELOW_H

#include "model.h"

enum below_kind {
  BELOW_NONE,                   /* no overlay */
  BELOW_LOST,                   /* the header names one, but there is none */
  BELOW_FULL,                   /* raw, longer than the disk; not named */
  BELOW_SHORT,                  /* raw, ends in the midst of a sector */
  BELOW_HOLES,                  /* raw, with holes of all sizes */
  BELOW_CHAIN,                  /* image over image over a short raw file */
  NR_BELOW
};

struct below {
  enum below_kind kind;
  size_t n;                     /* files; the uppermost is the last one */
  struct mem_file *files[3];
  struct model models[3];
  bool opened;
  uint64_t hashes[3];           /* of the files when it was opened first */
};

/* For a disk of SIZE bytes.  Raw files that are short, and the one below the
 * images, have SHORT_SIZE bytes.
 */
extern void below_init (struct below *b, enum below_kind kind, uint64_t size,
                        uint64_t short_size);

/* Put content into a range (all is holes before), until it's opened.  What is
 * past the end of a file is left out.
 */
extern void below_fill (struct below *b, uint64_t offset, uint64_t length);

/* Make M, a new image, one that is on top of it. */
extern void below_name (const struct below *b, struct model *m);

/* M->below, and what to open an image on. */
extern const struct model *below_model (const struct below *b);
extern struct qed_backing *below_open (struct below *b);

/* Nothing was written there (I10) since it was opened, and all is closed. */
extern void below_check (struct below *b);
extern void below_free (struct below *b);

#endif /* BELOW_H */
