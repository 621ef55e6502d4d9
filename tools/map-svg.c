/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* qed-img map --output=svg: three pictures of an image, each a grid of cells
 * that is the same for a disk of any size.
 *
 *     the disk      in its order: which layer its data comes from
 *     the file      in its order: what it is used for
 *     the mapping   from left to right the disk, from top to bottom the file
 *
 * Everything is added up first, so that nothing is printed if the image can't
 * be read.  A cell shows what it has most of, but damage, sharing and leaks
 * however small they are.
 */

#include <config.h>

#include <inttypes.h>
#include <string.h>

#include "grid.h"
#include "qed-img.h"
#include "svg.h"

#define COLUMNS 128
#define CELLS (32 * COLUMNS)

/* The cells of the mapping are half as wide and high. */
#define MAPPING_COLUMNS 256
#define MAPPING_ROWS 64
#define MAPPING_CELL 4

/* The layers that have a look of their own, and one for all below them. */
#define LAYERS (LOOK_DEEPER - LOOK_LAYER + 1)

/* Reading shorter pieces takes a hard disk longer to seek than to read. */
#define LONG_PIECE (UINT64_C (1) << 20)

/* Pixels. */
#define WIDTH 1200
#define LEFT 88
#define PICTURE_WIDTH (COLUMNS * SVG_CELL)
#define PICTURE_HEIGHT (CELLS / COLUMNS * SVG_CELL)
#define LINE 20
#define HEADING 16

/* Bytes of the disk. */
struct disk_sums {
  uint64_t data[LAYERS], zero, absent, shared, damaged;
};

/* Bytes of the file; DAMAGED: entries. */
struct file_sums {
  uint64_t header, tables, data, pieces, shared, leaked, unused, damaged;
};

struct mapping {
  uint64_t cells[MAPPING_COLUMNS][MAPPING_ROWS]; /* bytes */
  uint64_t columns[MAPPING_COLUMNS];
};

struct map_svg {
  const char *name;
  const struct qed_header *h;

  struct grid disk, mapping_disk; /* LENGTH may be 0 */
  struct disk_sums disk_cells[CELLS], disk_sum;
  char *layers[LAYERS];         /* names; or NULL */
  unsigned deepest;             /* layer with data */

  struct qed_usage usage;
  struct grid file, mapping_file;
  struct file_sums file_cells[CELLS], file_sum;
  uint64_t nr_pieces;           /* of data, of any length */

  struct mapping mapping;
};

/* ---- the disk ---- */

static void
add_mapping (struct map_svg *s, const struct qed_map_entry *e)
{
  const uint64_t end = e->offset + e->length;

  if (e->file_offset >= s->usage.file_size)
    return; /* the file has changed meanwhile */
  GRID_FOR_EACH (x, &s->mapping_disk, e->offset, end) {
    uint64_t from = e->offset, to = end, at;

    if (grid_cut (&s->mapping_disk, x, &from, &to) == 0)
      continue;
    at = e->file_offset + (from - e->offset);
    s->mapping.columns[x] += to - from;
    GRID_FOR_EACH (y, &s->mapping_file, at, at + (to - from))
      s->mapping.cells[x][y] +=
        grid_overlap (&s->mapping_file, y, at, at + (to - from));
  }
}

/* The sum in SUMS that the bytes of E belong to. */
static uint64_t *
disk_sum_of (struct disk_sums *sums, const struct qed_map_entry *e)
{
  return e->unsound ? &sums->damaged :
    !e->present ? &sums->absent :
    e->zero ? &sums->zero :
    e->shared ? &sums->shared :
    &sums->data[e->depth < LAYERS ? e->depth : LAYERS - 1];
}

void
map_svg_add (struct map_svg *s, const struct qed_map_entry *e)
{
  const uint64_t end = e->offset + e->length;
  char **name = &s->layers[e->depth < LAYERS ? e->depth : LAYERS - 1];

  *disk_sum_of (&s->disk_sum, e) += e->length;
  GRID_FOR_EACH (i, &s->disk, e->offset, end)
    *disk_sum_of (&s->disk_cells[i], e) +=
      grid_overlap (&s->disk, i, e->offset, end);
  if (e->data && e->filename && *name == NULL)
    *name = xasprintf ("%s", e->filename);
  if (e->data && e->depth > s->deepest)
    s->deepest = e->depth;
  if (e->depth == 0 && e->data && e->has_offset)
    add_mapping (s, e);
}

static struct cell
disk_cell (const struct disk_sums *c, uint64_t size)
{
  struct cell cell = { .look = LOOK_NONE, .level = LEVELS - 1 };
  uint64_t data = 0, most = 0;
  unsigned top = LOOK_NONE;

  for (unsigned i = LAYERS; i-- > 0; ) {
    data += c->data[i];
    if (c->data[i] > 0)
      top = LOOK_LAYER + i;
    if (c->data[i] > 0 && c->data[i] >= most) {
      most = c->data[i];
      cell.look = (uint8_t) (LOOK_LAYER + i);
    }
  }
  if (data > 0)
    cell.level = data < size / 3 ? 0 : data < size - size / 3 ? 1 : 2;
  else if (c->zero > 0 && c->zero >= c->absent)
    cell.look = LOOK_ZERO;
  if (c->shared > 0 || c->damaged > 0) {
    cell.look = c->damaged > 0 ? LOOK_DAMAGED : LOOK_SHARED;
    cell.level = LEVELS - 1;
    if (c->damaged > 0 && c->shared > 0)
      top = LOOK_SHARED;
  }
  if (top != cell.look)
    cell.foot = (uint8_t) top;
  return cell;
}

/* ---- the file ---- */

static uint64_t *
file_sum_of (struct file_sums *sums, enum qed_use use, bool is_long)
{
  return use == QED_USE_HEADER ? &sums->header :
    use == QED_USE_TABLE ? &sums->tables :
    use == QED_USE_SHARED ? &sums->shared :
    is_long ? &sums->data : &sums->pieces;
}

static void
add_use (void *opaque, enum qed_use use, uint64_t offset, uint64_t length)
{
  struct map_svg *s = opaque;
  const bool is_long = length >= LONG_PIECE;

  if (s->file.length == 0) {
    s->file = (struct grid) { 0, s->usage.file_size, CELLS };
    s->mapping_file = (struct grid) { 0, s->usage.file_size, MAPPING_ROWS };
  }
  if (use == QED_USE_DAMAGED) {
    s->file_sum.damaged++;
    GRID_FOR_EACH (i, &s->file, offset, offset + length)
      if (grid_overlap (&s->file, i, offset, offset + length) > 0)
        s->file_cells[i].damaged++;
    return;
  }
  s->nr_pieces += use == QED_USE_DATA;
  *file_sum_of (&s->file_sum, use, is_long) += length;
  GRID_FOR_EACH (i, &s->file, offset, offset + length)
    *file_sum_of (&s->file_cells[i], use, is_long) +=
      grid_overlap (&s->file, i, offset, offset + length);
}

/* What nothing was told about, of a cell or the file: up to END it's leaked. */
static void
add_rest (struct file_sums *sums, uint64_t from, uint64_t to, uint64_t end)
{
  const uint64_t used = sums->header + sums->tables + sums->data +
    sums->pieces + sums->shared;
  const uint64_t before = end <= from ? 0 : (end < to ? end : to) - from;

  sums->leaked = before < used ? 0 : before - used;
  sums->unused = to - from - before;
}

static struct cell
file_cell (const struct file_sums *c)
{
  const struct {
    enum look look;
    uint64_t bytes;
    bool foot;                  /* to be seen in any case */
  } parts[] = {
    { LOOK_SHARED, c->shared, true }, { LOOK_LEAKED, c->leaked, true },
    { LOOK_HEADER, c->header, true }, { LOOK_TABLE, c->tables, true },
    { LOOK_DATA, c->data, false }, { LOOK_PIECES, c->pieces, false },
  };
  struct cell cell = { .look = LOOK_NONE, .level = LEVELS - 1 };
  uint64_t most = 0;

  for (unsigned i = 0; i < sizeof parts / sizeof parts[0]; ++i)
    if (parts[i].bytes > most) {
      most = parts[i].bytes;
      cell.look = (uint8_t) parts[i].look;
    }
  if (c->shared > 0)
    cell.look = LOOK_SHARED;
  if (c->damaged > 0)
    cell.look = LOOK_DAMAGED;
  for (unsigned i = sizeof parts / sizeof parts[0]; i-- > 0; )
    if (parts[i].foot && parts[i].bytes > 0 && parts[i].look != cell.look)
      cell.foot = (uint8_t) parts[i].look;
  return cell;
}

/* ---- the page: text ---- */

static void
put_text (unsigned x, unsigned y, const char *attributes, const char *text)
{
  printf ("<text x=\"%u\" y=\"%u\"%s>", x, y, attributes);
  svg_text (text, 200);
  puts ("</text>");
}

#define SMALL " class=\"s\""
#define RIGHT " class=\"s\" text-anchor=\"end\""

static void
put_size (unsigned x, unsigned y, const char *attributes, uint64_t bytes)
{
  char *size = human_size (bytes);

  put_text (x, y, attributes, size);
  free (size);
}

/* A swatch of a legend. */
static void
put_swatch (unsigned x, unsigned y, enum look look, unsigned level)
{
  printf ("<rect x=\"%u\" y=\"%u\" width=\"16\" height=\"16\" fill=\"#fff\" "
          "stroke=\"#999\"/><path", x, y);
  svg_fill (look, level);
  printf (" d=\"M%u %uh16v16h-16z\"/>\n", x, y);
}

struct row {
  enum look look;
  uint64_t bytes;
  const char *label, *name;     /* NAME follows LABEL, and may be NULL */
  uint64_t count;               /* shown instead of BYTES, unless it's 0 */
};

struct legend {
  struct row rows[LAYERS + 4];
  size_t n;
  uint64_t whole;               /* bytes */
};

static void
put_row (const struct row *row, uint64_t whole, unsigned x, unsigned y)
{
  char *amount = row->count ? xasprintf ("%" PRIu64, row->count) :
    human_size (row->bytes);
  char *percent = human_percent (row->bytes, whole);

  puts ("<g>");
  if (row->name) {
    fputs ("<title>", stdout);
    svg_text (row->name, 1024);
    puts ("</title>");
  }
  put_swatch (x, y, row->look, LEVELS - 1);
  put_text (x + 100, y + 13, " text-anchor=\"end\"", amount);
  if (row->count == 0) {
    printf ("<text x=\"%u\" y=\"%u\" text-anchor=\"end\">", x + 158, y + 13);
    svg_text (percent, 10);
    puts ("%</text>");
  }
  printf ("<text x=\"%u\" y=\"%u\">%s", x + 170, y + 13, row->label);
  if (row->name)
    svg_text (row->name, 34);
  puts ("</text>\n</g>");
  free (amount);
  free (percent);
}

static bool
is_empty (const struct row *row)
{
  return row->bytes == 0 && row->count == 0;
}

/* The rows in each of the two columns of a legend. */
static unsigned
legend_rows (const struct legend *l)
{
  unsigned n = 0;

  for (size_t i = 0; i < l->n; ++i)
    n += !is_empty (&l->rows[i]);
  return (n + 1) / 2;
}

static void
put_legend (const struct legend *l, unsigned y)
{
  const unsigned half = legend_rows (l);
  unsigned n = 0;

  for (const struct row *r = l->rows; r < l->rows + l->n; ++r)
    if (!is_empty (r)) {
      put_row (r, l->whole, n < half ? LEFT : LEFT + PICTURE_WIDTH / 2,
               y + n % half * LINE);
      n++;
    }
}

static void
make_disk_legend (const struct map_svg *s, struct legend *l)
{
  const struct disk_sums *d = &s->disk_sum;
  const struct row rows[] = {
    { LOOK_ZERO, d->zero, "zeros", NULL, 0 },
    { LOOK_NONE, d->absent, "nothing, which reads as zeros", NULL, 0 },
    { LOOK_SHARED, d->shared, "shared with another range", NULL, 0 },
    { LOOK_DAMAGED, d->damaged, "damaged: can't be read", NULL, 0 },
  };

  for (unsigned i = 0; i < LAYERS; ++i)
    l->rows[i] = (struct row) {
      LOOK_LAYER + i, d->data[i], "data in ", s->layers[i], 0
    };
  if (s->deepest >= LAYERS) {
    l->rows[LAYERS - 1].label = "data in the layers below these";
    l->rows[LAYERS - 1].name = NULL;
  }
  memcpy (l->rows + LAYERS, rows, sizeof rows);
  l->n = LAYERS + sizeof rows / sizeof rows[0];
  l->whole = s->disk.length;
}

static void
make_file_legend (const struct map_svg *s, struct legend *l)
{
  const struct file_sums *f = &s->file_sum;
  const struct row rows[] = {
    { LOOK_HEADER, f->header, "header", NULL, 0 },
    { LOOK_TABLE, f->tables, "L1 and L2 tables", NULL, 0 },
    { LOOK_DATA, f->data, "data in pieces of 1 MiB or more", NULL, 0 },
    { LOOK_PIECES, f->pieces, "data in shorter pieces", NULL, 0 },
    { LOOK_LEAKED, f->leaked, "leaked: nothing refers to it", NULL, 0 },
    { LOOK_SHARED, f->shared, "shared: several entries refer to it", NULL, 0 },
    { LOOK_DAMAGED, 0, "damaged table entries", NULL, f->damaged },
    { LOOK_NONE, f->unused, "not used, behind the image", NULL, 0 },
  };

  _Static_assert (sizeof rows <= sizeof l->rows, "too many rows");
  memcpy (l->rows, rows, sizeof rows);
  l->n = sizeof rows / sizeof rows[0];
  l->whole = s->file.length;
}

static void
put_heading (unsigned y, const char *title, const char *text)
{
  printf ("<text x=\"%u\" y=\"%u\"><tspan class=\"h\">%s</tspan>"
          " <tspan dx=\"8\">%s</tspan></text>\n", LEFT, y, title, text);
}

/* ---- the page: pictures ---- */

/* The frame of a picture, and sizes beside it. */
static void
put_frame (const struct grid *g, unsigned y)
{
  printf ("<rect x=\"%u\" y=\"%u\" width=\"%u\" height=\"%u\" class=\"f\"/>\n",
          LEFT - 1, y - 1, PICTURE_WIDTH + 2, PICTURE_HEIGHT + 2);
  for (unsigned i = 0; g->length > 0 && i < 4; ++i)
    put_size (LEFT - 8, y + i * PICTURE_HEIGHT / 4 + 9, RIGHT,
              grid_edge (g, g->n / 4 * i));
}

/* Point at the rows that have a cell of this look. */
static void
put_pointers (const struct cell *cells, enum look look, unsigned x, unsigned y)
{
  bool any = false;

  for (unsigned i = 0; i < CELLS; ++i) {
    if (cells[i].look != look && cells[i].foot != look)
      continue;
    if (!any)
      printf ("<path fill=\"%s\" stroke=\"#000\" d=\"",
              svg_ground (look));
    any = true;
    printf ("M%u %ul8-4v8z", x, y + i / COLUMNS * SVG_CELL + SVG_CELL / 2);
    i |= COLUMNS - 1;
  }
  if (any)
    puts ("\"/>");
}

static void
put_cells (const struct grid *g, const struct cell *cells, const char *note,
           unsigned y)
{
  char *cell = human_size ((g->length + CELLS - 1) / CELLS);
  char *text = xasprintf ("A cell is %s. %s", cell, note);

  put_frame (g, y);
  svg_cells (cells, CELLS, COLUMNS, LEFT, y);
  put_pointers (cells, LOOK_DAMAGED, LEFT + PICTURE_WIDTH + 6, y);
  put_pointers (cells, LOOK_SHARED, LEFT + PICTURE_WIDTH + 18, y);
  put_text (LEFT, y + PICTURE_HEIGHT + 16, SMALL, text);
  free (text);
  free (cell);
}

/* What the lightness of a cell means, at the right end of a line. */
static void
put_levels (unsigned y)
{
  static const char *const texts[LEVELS] = {
    "up to a third", "up to two thirds", "more of a cell is data",
  };

  for (unsigned i = 0, x = LEFT + PICTURE_WIDTH - 414; i < LEVELS; ++i) {
    put_swatch (x, y - 13, LOOK_LAYER, i);
    put_text (x + 22, y, "", texts[i]);
    x += i == 0 ? 116 : 134;
  }
}

static void
put_disk_heading (const struct map_svg *s, unsigned y)
{
  const bool all = s->disk.length == s->h->image_size;
  char *size = human_size (s->disk.length);
  char *text = all ? xasprintf ("in its order, row by row") :
    xasprintf ("only %s from offset %#" PRIx64 " on, row by row", size,
               s->disk.start);

  put_heading (y, "The disk", text);
  free (text);
  free (size);
}

#define BELOW_PICTURE (PICTURE_HEIGHT + 28)

static void
put_disk (const struct map_svg *s, const struct legend *legend, unsigned y)
{
  struct cell cells[CELLS];

  put_disk_heading (s, y);
  put_levels (y);
  y += HEADING;
  if (s->disk.length == 0) {
    put_frame (&s->disk, y);
    put_text (LEFT, y + PICTURE_HEIGHT + 16, SMALL, "The range is empty.");
    return;
  }
  for (unsigned i = CELLS; i-- > 0; ) {
    uint64_t size = grid_edge (&s->disk, i + 1) - grid_edge (&s->disk, i);

    /* Only if there are more cells than bytes is one of them empty. */
    cells[i] = size == 0 ? cells[i + 1] :
      disk_cell (&s->disk_cells[i], size);
  }
  put_cells (&s->disk, cells, "It shows damage or sharing, however little of "
             "it there is; else the file that most of its data is in, and a "
             "strip at its foot if one above that has some, too.", y);
  put_legend (legend, y + BELOW_PICTURE);
}

static void
put_file (const struct map_svg *s, const struct legend *legend, unsigned y)
{
  struct cell cells[CELLS];

  put_heading (y, "The image file", "in its order, row by row");
  y += HEADING;
  for (unsigned i = 0; i < CELLS; ++i)
    cells[i] = file_cell (&s->file_cells[i]);
  put_cells (&s->file, cells, "It shows damage or sharing, however little of "
             "it there is; else what takes most of it, and a strip at its foot "
             "for leaked space, a header or tables.", y);
  put_legend (legend, y + BELOW_PICTURE);
}

/* How dark is a cell of the mapping?  As its share of its column's data is
 * large: random mapping is pale, that in order is a dark line.
 */
static unsigned
mapping_level (uint64_t cell, uint64_t column)
{
  return cell >= column / 4 ? 2 : cell >= column / 16 ? 1 : 0;
}

/* The number of cells in row Y from X on that have this level. */
static unsigned
mapping_run (const struct mapping *m, unsigned x, unsigned y, unsigned level)
{
  unsigned i = x;

  while (i < MAPPING_COLUMNS && m->cells[i][y] > 0 &&
         mapping_level (m->cells[i][y], m->columns[i]) == level)
    i++;
  return i - x;
}

static void
put_mapping_level (const struct mapping *m, unsigned level, unsigned top)
{
  fputs ("<path", stdout);
  svg_stroke (LOOK_DATA, level, MAPPING_CELL);
  fputs (" d=\"", stdout);
  for (unsigned y = 0; y < MAPPING_ROWS; ++y) {
    unsigned at = MAPPING_COLUMNS; /* where the path is in this row */

    for (unsigned x = 0, n; x < MAPPING_COLUMNS; x += n + 1) {
      n = mapping_run (m, x, y, level);
      if (n == 0)
        continue;
      if (at == MAPPING_COLUMNS)
        printf ("M%u %u", LEFT + x * MAPPING_CELL,
                top + y * MAPPING_CELL + MAPPING_CELL / 2);
      else
        printf ("m%u 0", (x - at) * MAPPING_CELL);
      printf ("h%u", n * MAPPING_CELL);
      at = x + n;
    }
  }
  puts ("\"/>");
}

static void
put_mapping (const struct map_svg *s, unsigned y)
{
  put_heading (y, "Where in the image file the data of the disk is",
               "from left to right the disk, from top to bottom the file");
  y += HEADING;
  put_frame (&s->file, y);
  if (s->disk.length == 0)
    return;
  for (unsigned level = 0; level < LEVELS; ++level)
    put_mapping_level (&s->mapping, level, y);
  y += PICTURE_HEIGHT + 16;
  for (unsigned i = 0; i <= 4; ++i)
    put_size (LEFT + i * PICTURE_WIDTH / 4, y,
              i == 0 ? SMALL : i == 4 ? RIGHT :
              " class=\"s\" text-anchor=\"middle\"",
              grid_edge (&s->disk, CELLS / 4 * i));
  put_text (LEFT, y + 18, SMALL, "A line that falls from left to right: in "
            "order. Marks all over: fragmented.");
}

/* ---- the page ---- */

#define STYLE                                                           \
  "text{font:13px Helvetica,Arial,'DejaVu Sans',sans-serif;fill:#222}"  \
  "text.t{font-size:24px;font-weight:bold}"                             \
  "tspan.h{font-size:16px;font-weight:bold}"                            \
  "text.b{font-weight:bold}"                                            \
  "text.s{font-size:11px;fill:#444}"                                    \
  ".f{fill:none;stroke:#999}"

static void
put_title (const struct map_svg *s)
{
  char *disk = human_size (s->h->image_size);
  char *file = human_size (s->file.length);
  char *cluster = human_size (s->h->cluster_size);
  char *facts = xasprintf ("QED image: disk %s, file %s, clusters of %s, "
                           "tables of %" PRIu32 " cluster%s%s", disk, file,
                           cluster, s->h->table_size,
                           s->h->table_size > 1 ? "s" : "",
                           s->h->features & QED_F_NEED_CHECK ?
                           "; in use, or not closed properly" : "");

  printf ("<text class=\"t\" x=\"%u\" y=\"48\">", LEFT);
  svg_text (s->name, 60);
  puts ("</text>");
  put_text (LEFT, 72, "", facts);
  free (facts);
  free (cluster);
  free (file);
  free (disk);
}

/* What the pictures show, in words. */
struct findings {
  char *damage, *leaks, *pieces;
};

/* Append SEPARATOR and CLAUSE, which is freed, to the sentence *S; or begin it
 * with CLAUSE, if it is NULL.
 */
static void
add_clause (char **s, const char *separator, char *clause)
{
  char *longer = xasprintf ("%s%s%s", *s ? *s : "", *s ? separator : "",
                            clause);

  free (*s);
  free (clause);
  *s = longer;
}

static char *
damage_text (const struct map_svg *s)
{
  const struct file_sums *f = &s->file_sum;
  char *unreadable = human_size (s->disk_sum.damaged);
  char *shared = human_size (f->shared), *r = NULL;

  if (f->damaged)
    add_clause (&r, "", xasprintf ("%" PRIu64 " damaged table %s", f->damaged,
                                   f->damaged == 1 ? "entry" : "entries"));
  if (s->disk_sum.damaged)
    add_clause (&r, ", ", xasprintf ("%s of the disk can't be read",
                                     unreadable));
  if (f->shared)
    add_clause (&r, ", ", xasprintf ("%s of the file shared", shared));
  if (r)
    add_clause (&r, ": ", xasprintf ("see qed-img check"));
  else
    r = xasprintf ("none found");
  free (unreadable);
  free (shared);
  return r;
}

static char *
leaks_text (const struct map_svg *s)
{
  char *size = human_size (s->file_sum.leaked);
  char *share = human_percent (s->file_sum.leaked, s->file.length);
  char *r = s->file_sum.leaked == 0 ? xasprintf ("none") :
    xasprintf ("%s, %s%% of the file: see qed-img check", size, share);

  free (size);
  free (share);
  return r;
}

static char *
pieces_text (const struct map_svg *s)
{
  const uint64_t data = s->file_sum.data + s->file_sum.pieces;
  char *mean, *share, *r;

  if (data == 0)
    return xasprintf ("none: there is no data in this file");
  mean = human_size (data / s->nr_pieces);
  share = human_percent (s->file_sum.pieces, data);
  r = s->nr_pieces == 1 ? xasprintf ("none: data in one piece of %s", mean) :
    xasprintf ("data in %" PRIu64 " pieces of %s on average, %s%% of it in "
               "pieces of less than 1 MiB", s->nr_pieces, mean, share);
  free (mean);
  free (share);
  return r;
}

static void
put_finding (unsigned y, enum look look, const char *title, const char *text)
{
  if (look != LOOK_NONE)
    put_swatch (LEFT - 24, y - 13, look, LEVELS - 1);
  put_text (LEFT, y, " class=\"b\"", title);
  put_text (LEFT + 120, y, "", text);
}

static void
put_findings (const struct map_svg *s, const struct findings *r)
{
  const struct file_sums *f = &s->file_sum;

  put_finding (104, f->damaged + s->disk_sum.damaged ? LOOK_DAMAGED :
               f->shared ? LOOK_SHARED : LOOK_NONE, "Damage", r->damage);
  put_finding (124, f->leaked ? LOOK_LEAKED : LOOK_NONE, "Leaks", r->leaks);
  put_finding (144, s->nr_pieces > 1 && f->pieces > f->data ?
               LOOK_PIECES : LOOK_NONE,
               "Fragmentation", r->pieces);
}

/* Everything up to the first visible element. */
static void
put_head (const struct map_svg *s, const struct findings *r, unsigned height)
{
  printf ("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
          "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%u\" "
          "height=\"%u\" viewBox=\"0 0 %u %u\">\n<title>",
          WIDTH, height, WIDTH, height);
  svg_text (s->name, 1024);
  fputs ("</title>\n<desc>Map of a QED image. ", stdout);
  printf ("Damage: %s. Leaks: ", r->damage);
  svg_text (r->leaks, 1024);
  fputs (". Fragmentation: ", stdout);
  svg_text (r->pieces, 1024);
  puts (".</desc>\n<style>" STYLE "</style>");
  svg_define_looks ();
  printf ("<rect width=\"%u\" height=\"%u\" fill=\"#fff\"/>\n", WIDTH, height);
}

void
map_svg_print (const struct map_svg *s)
{
  const unsigned gap = 40, disk_y = 192;
  struct findings r = { damage_text (s), leaks_text (s), pieces_text (s) };
  struct legend disk, file;
  unsigned file_y, mapping_y;

  make_disk_legend (s, &disk);
  make_file_legend (s, &file);
  file_y = disk_y + HEADING + BELOW_PICTURE + legend_rows (&disk) * LINE + gap;
  mapping_y = file_y + HEADING + BELOW_PICTURE + legend_rows (&file) * LINE +
    gap;
  put_head (s, &r, mapping_y + HEADING + PICTURE_HEIGHT + 64);
  put_title (s);
  put_findings (s, &r);
  puts ("<g id=\"disk\">");
  put_disk (s, &disk, disk_y);
  puts ("</g>\n<g id=\"file\">");
  put_file (s, &file, file_y);
  puts ("</g>\n<g id=\"mapping\">");
  put_mapping (s, mapping_y);
  puts ("</g>\n</svg>");
  free (r.damage);
  free (r.leaks);
  free (r.pieces);
}

/* ---- the call ---- */

struct map_svg *
map_svg_new (const struct qed_image *img, const char *name, uint64_t start,
             uint64_t length)
{
  struct map_svg *s = calloc (1, sizeof *s);

  if (s == NULL)
    out_of_memory ();
  s->name = name;
  s->h = qed_get_header (img);
  s->disk = (struct grid) { start, length, CELLS };
  s->mapping_disk = (struct grid) { start, length, MAPPING_COLUMNS };
  if (qed_file_usage (img, add_use, s, &s->usage) == -1) {
    free (s);
    return NULL;
  }
  add_rest (&s->file_sum, 0, s->file.length, s->usage.end);
  for (unsigned i = 0; i < CELLS; ++i)
    add_rest (&s->file_cells[i], grid_edge (&s->file, i),
              grid_edge (&s->file, i + 1), s->usage.end);
  return s;
}

void
map_svg_free (struct map_svg *s)
{
  if (s == NULL)
    return;
  for (unsigned i = 0; i < LAYERS; ++i)
    free (s->layers[i]);
  free (s);
}
