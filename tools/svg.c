/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Drawing in SVG on stdout.
 *
 * The colours are those of Okabe and Ito, which people with any colour vision
 * tell apart.  Each also has a pattern of its own, for a print in grey.
 *
 * Size: all cells that look the same are one path, in which neighbours in a row
 * are one rectangle, and full rows below each other, too.  That is 14 bytes or
 * so for each cell at most.
 */

#include <config.h>

#include <string.h>

#include "qed-img.h"
#include "svg.h"

/* ---- text ---- */

/* The next character at S is N bytes long.  May it be shown?  Not if it isn't
 * valid, not allowed in XML (U+FFFE, U+FFFF), or a control character.
 */
static bool
is_shown (const char *s, size_t *n)
{
  if ((*n = qed_control_length (s)) > 0)
    return false;
  if ((*n = utf8_length (s)) == 0) {
    *n = 1;
    return false;
  }
  return strncmp (s, "\xef\xbf\xbe", 3) != 0 &&
    strncmp (s, "\xef\xbf\xbf", 3) != 0;
}

/* The width of this character in Latin letters, or a bit more. */
static unsigned
width_of (const char *s, size_t n, bool shown)
{
  return !shown ? 4 * (unsigned) n : (unsigned char) *s >= 0xe1 ? 2 : 1;
}

static void
put_character (const char *s, size_t n, bool shown)
{
  static const char special[] = "&<>\"'";
  static const char *const names[] = { "amp", "lt", "gt", "quot", "apos" };
  const char *p = n == 1 ? strchr (special, *s) : NULL;

  if (!shown)
    for (; n > 0; --n)
      printf ("\\x%02x", (unsigned char) *s++);
  else if (p)
    printf ("&%s;", names[p - special]);
  else
    fwrite (s, 1, n, stdout);
}

void
svg_text (const char *s, unsigned width)
{
  uint64_t total = 0;
  size_t n;

  for (const char *p = s; *p; p += n) {
    bool shown = is_shown (p, &n);

    total += width_of (p, n, shown);
  }
  if (total > width)
    fputs ("…", stdout);
  for (bool cut = total > width; *s; s += n) {
    bool shown = is_shown (s, &n);

    if (cut && total >= width)
      total -= width_of (s, n, shown);
    else
      put_character (s, n, shown);
  }
}

/* ---- looks ---- */

/* A fill is a tile of a cell's size: its ground and what is drawn on that. */
static const struct {
  const char *ground, *marks;
} tiles[NR_LOOKS] = {
  [LOOK_NONE] = { "#fff", "" },
  [LOOK_ZERO] = {
    "#eee", "<path d=\"M3 3h2v2h-2z\" fill=\"#777\"/>" },
  [LOOK_LAYER] = { "#0072b2", "" },
  [LOOK_LAYER1] = {
    "#009e73", "<path d=\"M-1 5l6-6M3 9l6-6\" stroke=\"#fff\"/>" },
  [LOOK_LAYER2] = {
    "#cc79a7", "<path d=\"M0 2h8M0 6h8\" stroke=\"#602848\"/>" },
  [LOOK_LAYER3] = {
    "#56b4e9", "<path d=\"M2 0v8M6 0v8\" stroke=\"#123f5c\"/>" },
  [LOOK_DEEPER] = {
    "#999", "<path d=\"M1 1h2v2h-2zM5 5h2v2h-2z\" fill=\"#fff\"/>" },
  [LOOK_DATA] = { "#0072b2", "" },
  [LOOK_PIECES] = {
    "#9fd4f3", "<path d=\"M-1 5l6-6M-1 9l10-10M3 9l6-6\" stroke=\"#0072b2\" "
    "stroke-width=\"1.6\"/>" },
  [LOOK_TABLE] = {
    "#444", "<path d=\"M3 1h2v2h-2zM3 5h2v2h-2z\" fill=\"#fff\"/>" },
  [LOOK_HEADER] = { "#000", "" },
  [LOOK_LEAKED] = {
    "#e69f00", "<path d=\"M2 0v8M6 0v8\" stroke=\"#000\" "
    "stroke-width=\"1.6\"/>" },
  [LOOK_SHARED] = {
    "#f0e442", "<path d=\"M1 3h6M1 5.5h6\" stroke=\"#000\"/>" },
  [LOOK_DAMAGED] = {
    "#d55e00", "<path d=\"M1 1l6 6M7 1l-6 6\" stroke=\"#000\" "
    "stroke-width=\"1.5\"/>" },
};

void
svg_define_looks (void)
{
  puts ("<defs>");
  for (unsigned i = LOOK_ZERO; i < NR_LOOKS; ++i)
    if (*tiles[i].marks)
      printf ("<pattern id=\"f%u\" width=\"8\" height=\"8\" "
              "patternUnits=\"userSpaceOnUse\">"
              "<path d=\"M0 0h8v8h-8z\" fill=\"%s\"/>%s</pattern>\n", i,
              tiles[i].ground, tiles[i].marks);
  puts ("</defs>");
}

static const char *const opacities[LEVELS] = {
  " opacity=\".3\"", " opacity=\".6\"", "",
};

void
svg_fill (enum look look, unsigned level)
{
  if (*tiles[look].marks)
    printf (" fill=\"url(#f%u)\"", look);
  else
    printf (" fill=\"%s\"", tiles[look].ground);
  fputs (opacities[level], stdout);
  /* What matters most is drawn larger than it is. */
  if (look == LOOK_DAMAGED)
    fputs (" stroke=\"#000\" stroke-width=\"2\"", stdout);
}

void
svg_stroke (enum look look, unsigned level, unsigned width)
{
  printf (" stroke=\"%s\" stroke-width=\"%u\"%s", tiles[look].ground, width,
          opacities[level]);
}

const char *
svg_ground (enum look look)
{
  return tiles[look].ground;
}

/* ---- cells ---- */

struct picture {
  const struct cell *cells;
  unsigned n, columns, x, y;
};

/* What one path draws: cells, a halo around them, or the feet of cells. */
struct part {
  enum look look;
  unsigned level;
  enum { BODY, HALO, FOOT } what;
};

static bool
has_part (const struct cell *c, const struct part *p)
{
  return p->what == FOOT ? c->foot == p->look :
    c->look == p->look && c->level == p->level;
}

/* The number of cells from I on, in its row, that have the part. */
static unsigned
run_length (const struct picture *pic, unsigned i, const struct part *p)
{
  const unsigned row_end = (i / pic->columns + 1) * pic->columns;
  unsigned j = i;

  while (j < row_end && j < pic->n && has_part (&pic->cells[j], p))
    j++;
  return j - i;
}

static void
begin_path (const struct part *p)
{
  fputs ("<path", stdout);
  if (p->what == HALO)
    fputs (" stroke=\"#fff\" stroke-width=\"7\"", stdout);
  else
    svg_fill (p->look, p->level);
  fputs (" d=\"", stdout);
}

/* Add a rectangle of cells, from cell I on, to the path, which is at cell *AT,
 * or which it begins if *AT is N.
 */
static void
put_rectangle (const struct picture *pic, const struct part *p, unsigned *at,
               unsigned i, unsigned columns, unsigned rows)
{
  const unsigned top = p->what == FOOT ? SVG_CELL - 3 : 0;
  const int x = (int) (i % pic->columns), y = (int) (i / pic->columns);
  const int width = (int) columns * SVG_CELL;

  if (*at == pic->n) {
    begin_path (p);
    printf ("M%u %u", pic->x + (unsigned) x * SVG_CELL,
            pic->y + (unsigned) y * SVG_CELL + top);
  }
  else
    printf ("m%d %d", (x - (int) (*at % pic->columns)) * SVG_CELL,
            (y - (int) (*at / pic->columns)) * SVG_CELL);
  printf ("h%dv%uh-%dz", width, rows * SVG_CELL - top, width);
  *at = i;
}

static void
put_part (const struct picture *pic, const struct part *p)
{
  unsigned at = pic->n;

  for (unsigned i = 0; i < pic->n; ) {
    unsigned columns = run_length (pic, i, p), rows = 1;

    if (columns == 0) {
      i++;
      continue;
    }
    if (columns == pic->columns && p->what != FOOT)
      while (run_length (pic, i + rows * columns, p) == columns)
        rows++;
    put_rectangle (pic, p, &at, i, columns, rows);
    i += columns * rows;
  }
  if (at < pic->n)
    puts ("\"/>");
}

void
svg_cells (const struct cell *cells, unsigned n, unsigned columns, unsigned x,
           unsigned y)
{
  const struct picture pic = { cells, n, columns, x, y };

  for (unsigned look = LOOK_ZERO; look < NR_LOOKS; ++look) {
    if (look == LOOK_DAMAGED)
      put_part (&pic, &(struct part) { look, LEVELS - 1, HALO });
    for (unsigned level = 0; level < LEVELS; ++level)
      put_part (&pic, &(struct part) { look, level, BODY });
  }
  for (unsigned look = LOOK_ZERO; look < NR_LOOKS; ++look)
    put_part (&pic, &(struct part) { look, LEVELS - 1, FOOT });
}
