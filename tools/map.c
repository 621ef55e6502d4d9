/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* qed-img map.
 *
 * There may be any number of entries, so each is printed as it comes, and
 * only added to the sums for the summary.
 */

#include <config.h>

#include <inttypes.h>
#include <langinfo.h>
#include <locale.h>
#include <string.h>
#include <unistd.h>

#include <json-c/json.h>

#include "grid.h"
#include "qed-img.h"

/* The summary draws the disk as a row of this many cells. */
#define CELLS 64

/* The part of the disk that comes from one layer. */
struct layer_sums {
  char *name;                   /* NULL: nothing comes from this layer */
  uint64_t data, zero, unsound, shared; /* bytes; none counts twice */
  uint64_t cells[CELLS];        /* bytes of data, shared or not */
  bool bad_cells[CELLS], shared_cells[CELLS];
};

struct map {
  const char *file;
  uint64_t start, length;       /* the range of the disk */
  bool json, svg, totals;
  bool summary;                 /* print a summary, human-readable or JSON */
  uint64_t entries;             /* printed so far */
  uint64_t unsound;             /* bytes */

  /* For the summary: */
  struct layer_sums layers[QED_MAX_CHAIN + 1];
  uint64_t absent;              /* bytes */

  struct map_svg *drawing;      /* or NULL */
};

/* ---- qemu-img's output ---- */

static void
print_json_entry (struct map *m, const struct qed_map_entry *e)
{
  printf ("%s{ \"start\": %" PRIu64 ", \"length\": %" PRIu64
          ", \"depth\": %u, \"present\": %s, \"zero\": %s, \"data\": %s",
          m->entries++ == 0 ? "[" : ",\n", e->offset, e->length, e->depth,
          e->present ? "true" : "false", e->zero ? "true" : "false",
          e->data ? "true" : "false");
  if (e->has_offset)
    printf (", \"offset\": %" PRIu64, e->file_offset);
  if (e->shared)
    printf (", \"shared\": true");
  putchar ('}');
}

/* What a server has for a layer has no offset in a file. */
static void
print_row (const struct qed_map_entry *e)
{
  char *at = e->has_offset ? xasprintf ("%#" PRIx64, e->file_offset) :
    xasprintf ("-");

  say (stdout, "%#-16" PRIx64 "%#-16" PRIx64 "%-16s%s%s", e->offset, e->length,
       at, e->filename,
       e->shared ? " (shared with another range)" : "");
  free (at);
}

/* ---- the summary ---- */

static struct grid
cells_of (const struct map *m)
{
  return (struct grid) { m->start, m->length, CELLS };
}

static void
add_to_cells (const struct map *m, struct layer_sums *l,
              const struct qed_map_entry *e)
{
  const uint64_t end = e->offset + e->length;
  const struct grid g = cells_of (m);

  GRID_FOR_EACH (i, &g, e->offset, end) {
    const uint64_t n = grid_overlap (&g, i, e->offset, end);

    if (n == 0)
      continue;
    if (!e->unsound)
      l->cells[i] += n;
    l->bad_cells[i] |= e->unsound;
    l->shared_cells[i] |= e->shared;
  }
}

static void
sum_up (struct map *m, const struct qed_map_entry *e)
{
  struct layer_sums *l = &m->layers[e->depth];

  if (!e->present) {
    m->absent += e->length;
    return;
  }
  if (l->name == NULL)
    l->name = xasprintf ("%s", e->filename);
  *(e->unsound ? &l->unsound : e->zero ? &l->zero :
    e->shared ? &l->shared : &l->data) += e->length;
  if (e->data)
    add_to_cells (m, l, e);
}

/* ---- the human-readable summary ---- */

static void
print_sum (const struct map *m, uint64_t sum, const char *what,
           const char *name)
{
  char *size, *share;

  if (sum == 0)
    return;
  size = human_size (sum);
  share = human_percent (sum, m->length);
  say (stdout, "%10s %5s%%  %s%s", size, share, what, name);
  free (size);
  free (share);
}

/* How a cell is drawn: by the share of data in it, from NONE to FULL, or by a
 * mark, which takes precedence.
 */
enum { NONE, SOME, FULL = 4, SHARED, BAD };
static const char *const ascii[] = { ".", "-", "+", "*", "#", "=", "!" };
static const char *const blocks[] = { "·", "░", "▒", "▓", "█", "=", "!" };

static unsigned
cell_level (const struct map *m, const struct layer_sums *l, unsigned i)
{
  const struct grid g = cells_of (m);
  const uint64_t size = grid_edge (&g, i + 1) - grid_edge (&g, i);

  if (l->bad_cells[i])
    return BAD;
  if (l->shared_cells[i])
    return SHARED;
  if (l->cells[i] == 0)
    return NONE;
  if (l->cells[i] == size)
    return FULL;
  /* 2.999 and not 3: rounding must not draw a partial cell as full. */
  return SOME + (unsigned) (2.999 * ((double) l->cells[i] / (double) size));
}

/* Print the row of cells of layer L, aligned with those of other layers. */
static void
print_bar (const struct map *m, const struct layer_sums *l,
           const char *const *characters)
{
  putchar ('[');
  for (unsigned i = 0; i < CELLS; ++i)
    fputs (characters[cell_level (m, l, i)], stdout);
  say (stdout, "] %s", l->name ? l->name : m->file);
}

/* One bar for each layer that has data, and for the image itself. */
static void
print_bars (const struct map *m)
{
  bool utf8 = setlocale (LC_CTYPE, "") &&
    strcmp (nl_langinfo (CODESET), "UTF-8") == 0;
  const char *const *c = utf8 ? blocks : ascii;
  bool bad = false, shared = false;

  for (const struct layer_sums *l = m->layers;
       l <= &m->layers[QED_MAX_CHAIN]; ++l) {
    if (l == m->layers || l->data || l->unsound || l->shared)
      print_bar (m, l, c);
    bad |= l->unsound > 0;
    shared |= l->shared > 0;
  }
  say (stdout, " %s no data, %s%s%s some, %s only data%s%s", c[NONE], c[SOME],
       c[SOME + 1], c[SOME + 2], c[FULL],
       shared ? ", = shared with another range" : "",
       bad ? ", ! can't be read" : "");
}

static void
print_summary (const struct map *m)
{
  char *length = human_size (m->length);

  say (stdout, "%10s 100.0%%  from offset %#" PRIx64, length, m->start);
  free (length);
  if (m->length == 0)
    return;
  for (const struct layer_sums *l = m->layers;
       l <= &m->layers[QED_MAX_CHAIN]; ++l) {
    print_sum (m, l->data, "data in ", l->name);
    print_sum (m, l->shared, "shared with another range in ", l->name);
    print_sum (m, l->zero, "zeros in ", l->name);
    print_sum (m, l->unsound, "can't be read in ", l->name);
  }
  print_sum (m, m->absent, "nothing, which reads as zeros", "");
  print_bars (m);
}

/* ---- the summary as JSON ---- */

static json_object *
layer_json (unsigned depth, const struct layer_sums *l)
{
  json_object *o = json_object_new_object ();

  add_number (o, "depth", depth);
  add_string (o, "filename", l->name);
  add_number (o, "data", l->data);
  add_number (o, "shared", l->shared);
  add_number (o, "zero", l->zero);
  add_number (o, "unreadable", l->unsound);
  return o;
}

static void
print_json_summary (const struct map *m)
{
  json_object *o = json_object_new_object ();
  json_object *layers = json_object_new_array ();

  add_number (o, "start", m->start);
  add_number (o, "length", m->length);
  add_number (o, "absent", m->absent);
  add_json (o, "layers", layers);
  for (unsigned i = 0; i <= QED_MAX_CHAIN; ++i)
    if (m->layers[i].name &&
        json_object_array_add (layers, layer_json (i, &m->layers[i])) < 0)
      out_of_memory ();
  print_json (o);
}

/* ---- the verb ---- */

/* Is it data that a server has? */
static bool
is_served (const struct qed_map_entry *e)
{
  return !e->has_offset && !e->unsound && !e->shared;
}

static int
take_entry (void *opaque, const struct qed_map_entry *e)
{
  struct map *m = opaque;

  if (m->svg)
    map_svg_add (m->drawing, e);
  else if (m->json && !m->totals)
    print_json_entry (m, e);
  else if (!m->totals && e->data && (e->has_offset || is_served (e)))
    print_row (e);
  if (m->summary)
    sum_up (m, e);
  if (e->unsound) {
    complain ("%s: offset %#" PRIx64 ", length %#" PRIx64 " of the disk can't "
              "be read: %s is corrupt there", m->file, e->offset, e->length,
              e->filename);
    m->unsound += e->length;
  }
  return 0;
}

/* As in qemu-img, the range ends with the disk. */
static void
cut_range (struct map *m, const struct qed_image *img)
{
  const uint64_t size = qed_get_header (img)->image_size;

  if (m->start >= size)
    m->length = 0;
  else if (m->length > size - m->start)
    m->length = size - m->start;
}

static int
print_svg (struct map *m, struct qed_image *img)
{
  m->drawing = map_svg_new (img, m->file, m->start, m->length);
  if (m->drawing == NULL ||
      (m->length > 0 &&
       qed_map_layers (img, m->start, m->length, take_entry, m) == -1)) {
    complain ("%s", qed_get_error ());
    return -1;
  }
  map_svg_print (m->drawing);
  return 0;
}

/* As in qemu-img, if the range starts beyond the end of the disk the JSON
 * output has one empty entry.
 */
static int
print_map (struct map *m, struct qed_image *img)
{
  if (!m->totals && !m->json)
    puts ("Offset          Length          Mapped to       File");
  else if (!m->totals && m->length == 0)
    print_json_entry (m, &(struct qed_map_entry) { .offset = m->start });
  if (m->length > 0 &&
      qed_map_layers (img, m->start, m->length, take_entry, m) == -1) {
    complain ("%s", qed_get_error ());
    return -1;
  }
  if (m->json && !m->totals)
    puts ("]");
  if (m->json && m->totals)
    print_json_summary (m);
  else if (m->totals)
    print_summary (m);
  else if (m->summary && m->length > 0) {
    putchar ('\n');
    print_summary (m);
  }
  return 0;
}

/* The value of -s or -l. */
static uint64_t
option_offset (const char *option, const char *value)
{
  uint64_t offset;

  if (parse_size (value, &offset) == -1 || offset > INT64_MAX)
    usage_error ("%s: '%s': must be a size below 8E, as 65536, 64k or 1.5G",
                 option, value);
  return offset;
}

/* Parse the options.  Afterwards argv[optind] is the file name. */
static void
parse_args (int argc, char *argv[], struct map *m,
            struct qed_chain_options *opts)
{
  enum { OUTPUT = OPTION_OWN, TOTALS };
  static const struct option longs[] = {
    CHAIN_OPTIONS,
    { "force-share", no_argument, NULL, 'U' },
    { "format", required_argument, NULL, 'f' },
    { "help", no_argument, NULL, 'h' },
    { "max-length", required_argument, NULL, 'l' },
    { "output", required_argument, NULL, OUTPUT },
    { "start-offset", required_argument, NULL, 's' },
    { "totals", no_argument, NULL, TOTALS },
    { NULL, 0, NULL, 0 }
  };
  int c;

  while ((c = next_option (argc, argv, ":f:hl:s:U", longs)) != -1)
    switch (c) {
    case 'f':
      option_format (optarg);
      break;
    case 'l':
      m->length = option_offset ("-l", optarg);
      break;
    case OUTPUT:
      m->svg = strcmp (optarg, "svg") == 0;
      m->json = strcmp (optarg, "json") == 0;
      if (!m->svg && !m->json && strcmp (optarg, "human") != 0)
        usage_error ("--output: '%s': must be human, json or svg", optarg);
      break;
    case 's':
      m->start = option_offset ("-s", optarg);
      break;
    case TOTALS:
      m->totals = true;
      break;
    case 'U':
      opts->lock = false;
      break;
    default:
      option_chain (opts, c);
      break;
    }
  if (argc - optind != 1)
    usage_error ("expected one file name");
  if (m->svg && m->totals)
    usage_error ("--totals: can't be used with --output=svg, which has the "
                 "sums anyway");
  m->file = argv[optind];
}

static int
map (int argc, char *argv[])
{
  struct qed_chain_options opts = {
    .qed_img = true, .lock = true, .cache_size = QED_DEFAULT_CACHE_SIZE,
  };
  static struct map m = { .length = UINT64_MAX };
  struct qed_image *img;
  int r;

  parse_args (argc, argv, &m, &opts);
  m.summary = m.totals || (!m.json && !m.svg && isatty (STDOUT_FILENO));
  img = qed_open_chain (m.file, &opts);
  if (img == NULL) {
    complain_unshared ();
    return EXIT_FAILURE;
  }
  cut_range (&m, img);
  r = m.svg ? print_svg (&m, img) : print_map (&m, img);
  map_svg_free (m.drawing);
  qed_close (img);
  for (size_t i = 0; i <= QED_MAX_CHAIN; ++i)
    free (m.layers[i].name);
  if (m.unsound > 0)
    complain ("%s: %" PRIu64 " bytes in total can't be read: see qed-img "
              "check", m.file, m.unsound);
  return r == -1 || m.unsound > 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

const struct verb verb_map = {
  "map", map,
  "[--output=human|json|svg] [--totals] [-U] [-s OFFSET] [-l LENGTH] "
  CHAIN_SYNOPSIS " FILE",

  "Print which file, and which offset in it, each part of the disk is read\n"
  "from.\n"
  "\n"
  "  --output=human|json|svg\n"
  "                         the output format (default: human); svg: a\n"
  "                         drawing of the disk and of the image file\n"
  "  --totals               print only the sums and a picture of the disk; on\n"
  "                         a terminal they always follow the human output\n"
  "  -s, --start-offset=OFFSET\n"
  "  -l, --max-length=LENGTH\n"
  "                         the range of the disk (default: all of it)\n"
  CHAIN_HELP
  "  -f, --format=qed       the format of FILE: must be qed\n"
  "  -U, --force-share      take no locks: the image may be in use\n"
};
