/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Drawing in SVG on stdout: text, fills that differ in more than hue, and
 * pictures made of cells.  See svg.c.
 */

#ifndef SVG_H
#define SVG_H

#include <stdbool.h>
#include <stdint.h>

/* How something is filled.  Of those that are drawn over each other the later
 * one is on top.
 */
enum look {
  LOOK_NONE,                    /* white */
  LOOK_ZERO,
  LOOK_LAYER,                   /* data of the image, */
  LOOK_LAYER1,                  /* of its backing file, */
  LOOK_LAYER2,                  /* and so on, */
  LOOK_LAYER3,
  LOOK_DEEPER,                  /* of all layers below these */
  LOOK_DATA,                    /* the image's, in long pieces */
  LOOK_PIECES,                  /* in short ones */
  LOOK_TABLE,
  LOOK_HEADER,
  LOOK_LEAKED,
  LOOK_SHARED,
  LOOK_DAMAGED,
  NR_LOOKS
};

#define LEVELS 3

struct cell {
  uint8_t look;                 /* enum look */
  uint8_t level;                /* 0: the lightest, LEVELS - 1: full colour */
  uint8_t foot;                 /* look of a strip at its lower edge */
};

/* Print S as text, for an element or an attribute: any bytes.  If it is wider
 * than WIDTH Latin letters its end is printed.
 */
extern void svg_text (const char *s, unsigned width);

/* Print the fills of all looks, once before anything is drawn. */
extern void svg_define_looks (void);

/* Print the attributes of a fill; those of a line, WIDTH wide, in the colour of
 * a fill, without its pattern; and return this colour.
 */
extern void svg_fill (enum look look, unsigned level);
extern void svg_stroke (enum look look, unsigned level, unsigned width);
extern const char *svg_ground (enum look look);

/* Draw N cells in rows of COLUMNS, each SVG_CELL wide and high, from X, Y on.
 */
#define SVG_CELL 8
extern void svg_cells (const struct cell *cells, unsigned n, unsigned columns,
                       unsigned x, unsigned y);

#endif /* SVG_H */
