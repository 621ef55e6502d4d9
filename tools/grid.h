/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* A range in bytes, cut into cells for a picture of it.  If it has fewer bytes
 * than cells some of the cells are empty.
 */

#ifndef GRID_H
#define GRID_H

#include <stdint.h>

struct grid {
  uint64_t start, length;       /* bytes; LENGTH > 0 */
  unsigned n;                   /* cells */
};

/* The offset at which cell I begins, and the one before it ends. */
static inline uint64_t
grid_edge (const struct grid *g, unsigned i)
{
  return g->start + (uint64_t) ((unsigned __int128) g->length * i / g->n);
}

/* The cell of OFFSET, which is in the range; or the one before it. */
static inline unsigned
grid_cell (const struct grid *g, uint64_t offset)
{
  return (unsigned) ((unsigned __int128) (offset - g->start) * g->n /
                     g->length);
}

/* The bytes from *FROM to *END that are in cell I; returns how many. */
static inline uint64_t
grid_cut (const struct grid *g, unsigned i, uint64_t *from, uint64_t *end)
{
  const uint64_t first = grid_edge (g, i), last = grid_edge (g, i + 1);

  if (*from < first)
    *from = first;
  if (*end > last)
    *end = last;
  return *end > *from ? *end - *from : 0;
}

/* How many of the bytes from FROM to END are in cell I? */
static inline uint64_t
grid_overlap (const struct grid *g, unsigned i, uint64_t from, uint64_t end)
{
  return grid_cut (g, i, &from, &end);
}

/* For each cell I that has some of the bytes from FROM to END, and perhaps for
 * one before these.
 */
#define GRID_FOR_EACH(i, g, from, end)                  \
  for (unsigned i = grid_cell (g, from);                \
       i < (g)->n && grid_edge (g, i) < (end); ++i)

#endif /* GRID_H */
