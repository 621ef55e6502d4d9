/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* qed-img info. */

#include <config.h>

#include <inttypes.h>
#include <string.h>

#include <json-c/json.h>

#include "qed-img.h"

/* ---- how much an image has in its backing file ---- */

/* How much of the disk of L, a layer of C, may its backing file have?  The end
 * of a disk that is longer than the backing file counts unless the layer below
 * is known.
 */
static uint64_t
may_be_below (const struct qed_layers *c, const struct qed_layer *l)
{
  uint64_t count = l->backing ? l->virtual_size : 0;

  if (l + 1 < c->layers + c->n && l[1].virtual_size < count)
    count = l[1].virtual_size;
  return count;
}

/* How much of its disk does L read from its backing file, as far as its file
 * says now?  STATS know it, unless they are NULL.  False: it has none, or its
 * tables can't be read.
 */
static bool
bytes_in_backing (const struct qed_layers *c, const struct qed_layer *l,
                  const struct stats *stats, uint64_t *bytes)
{
  if (l->backing == NULL)
    return false;
  if (stats == NULL)
    return qed_bytes_unallocated (l->st, may_be_below (c, l), bytes) == 0;
  *bytes = stats->check.unallocated;
  return true;
}

/* ---- statistics ---- */

struct args {
  struct qed_chain_options chain;
  const char *file;
  bool json, whole_chain;
  bool stats;                   /* --stats */
  bool failed;                  /* some statistics couldn't be read */
};

/* Option --stats: fill S with those of layer L.  Returns S, or NULL: they
 * aren't wanted, L isn't an image, or they can't be read.
 */
static const struct stats *
find_stats (const struct qed_layers *c, const struct qed_layer *l,
            struct args *args, struct stats *s)
{
  if (!args->stats || !l->qed)
    return NULL;
  if (stats_read (l->st, &l->header, may_be_below (c, l), s) == 0)
    return s;
  complain ("%s", qed_get_error ());
  args->failed = true;
  return NULL;
}

/* ---- human-readable output: qemu-img's lines ---- */

static void
print_features (uint64_t features)
{
  static const struct {
    uint64_t bit;
    const char *name;
  } known[] = {
    { QED_F_BACKING_FILE, "backing file" },
    { QED_F_NEED_CHECK, "need check" },
    { QED_F_BACKING_FORMAT_NO_PROBE, "raw backing file" },
  };
  char *names = NULL;

  /* An image with any other feature bit isn't opened. */
  for (size_t i = 0; i < sizeof known / sizeof known[0]; ++i)
    if (features & known[i].bit) {
      char *longer = xasprintf ("%s%s%s", names ? names : "",
                                names ? ", " : " (", known[i].name);

      free (names);
      names = longer;
    }
  say (stdout, "    features: 0x%" PRIx64 "%s%s", features,
       names ? names : "", names ? ")" : "");
  free (names);
}

static void
print_header (const struct qed_layers *c, const struct qed_layer *l,
              const struct stats *stats)
{
  const struct qed_header *h = &l->header;
  uint64_t below;

  say (stdout, "cluster_size: %" PRIu32, h->cluster_size);
  if (h->features & QED_F_NEED_CHECK)
    say (stdout, "cleanly shut down: no");
  if (l->backing) {
    if (l->full_backing == NULL)
      say (stdout, "backing file: %s (cannot determine actual path)",
           l->backing);
    else if (strcmp (l->backing, l->full_backing) == 0)
      say (stdout, "backing file: %s", l->backing);
    else
      say (stdout, "backing file: %s (actual path: %s)", l->backing,
           l->full_backing);
    if (h->features & QED_F_BACKING_FORMAT_NO_PROBE)
      say (stdout, "backing file format: raw");
  }
  say (stdout, "Format specific information:");
  say (stdout, "    table size: %" PRIu32, h->table_size);
  say (stdout, "    header size: %" PRIu32, h->header_size);
  say (stdout, "    l1 offset: %" PRIu64, h->l1_table_offset);
  print_features (h->features);
  say (stdout, "    compat features: 0x%" PRIx64, h->compat_features);
  say (stdout, "    autoclear features: 0x%" PRIx64, h->autoclear_features);
  if (bytes_in_backing (c, l, stats, &below)) {
    char *size = human_size (below);

    say (stdout, "    still in the backing file: %s (%" PRIu64 " bytes)", size,
         below);
    free (size);
  }
}

static void
print_human (const struct qed_layers *c, struct args *args)
{
  for (const struct qed_layer *l = c->layers; l < c->layers + c->n; ++l) {
    struct stats buf;
    const struct stats *stats = find_stats (c, l, args, &buf);
    char *virtual_size = human_size (l->virtual_size);
    char *actual_size = l->is_file ? human_size (l->actual_size) :
      xasprintf ("unavailable");

    if (l > c->layers)
      say (stdout, "%s", "");
    say (stdout, "image: %s", l->path);
    say (stdout, "file format: %s", l->format);
    say (stdout, "virtual size: %s (%" PRIu64 " bytes)", virtual_size,
         l->virtual_size);
    say (stdout, "disk size: %s", actual_size);
    if (l->qed)
      print_header (c, l, stats);
    if (stats)
      stats_print (stats);
    free (virtual_size);
    free (actual_size);
  }
}

/* ---- JSON: qemu-img's keys, in its order ---- */

static json_object *
format_specific_json (const struct qed_layers *c, const struct qed_layer *l,
                      const struct stats *stats)
{
  const struct qed_header *h = &l->header;
  uint64_t below;
  json_object *o = json_object_new_object ();
  json_object *data = json_object_new_object ();

  add_number (data, "table-size", h->table_size);
  add_number (data, "header-size", h->header_size);
  add_number (data, "l1-offset", h->l1_table_offset);
  add_number (data, "features", h->features);
  add_number (data, "compat-features", h->compat_features);
  add_number (data, "autoclear-features", h->autoclear_features);
  if (bytes_in_backing (c, l, stats, &below))
    add_number (data, "bytes-in-backing", below);
  add_string (o, "type", "qed");
  add_json (o, "data", data);
  return o;
}

static json_object *
layer_json (const struct qed_layers *c, const struct qed_layer *l,
            struct args *args)
{
  const struct qed_header *h = l->qed ? &l->header : NULL;
  uint64_t features = h ? h->features : 0;
  struct stats buf;
  const struct stats *stats = find_stats (c, l, args, &buf);
  json_object *o = json_object_new_object ();

  if (l->backing && (features & QED_F_BACKING_FORMAT_NO_PROBE))
    add_string (o, "backing-filename-format", "raw");
  add_number (o, "virtual-size", l->virtual_size);
  add_string (o, "filename", l->path);
  if (h)
    add_number (o, "cluster-size", h->cluster_size);
  add_string (o, "format", l->format);
  if (l->is_file)
    add_number (o, "actual-size", l->actual_size);
  if (h)
    add_json (o, "format-specific", format_specific_json (c, l, stats));
  if (l->backing) {
    if (l->full_backing)
      add_string (o, "full-backing-filename", l->full_backing);
    add_string (o, "backing-filename", l->backing);
  }
  if (h || l->is_file)
    add_json (o, "dirty-flag",
              json_object_new_boolean ((features & QED_F_NEED_CHECK) != 0));
  if (stats)
    add_json (o, "stats", stats_json (stats));
  return o;
}

static json_object *
chain_json (const struct qed_layers *c, struct args *args)
{
  json_object *array = json_object_new_array ();

  if (array == NULL)
    out_of_memory ();
  for (size_t i = 0; i < c->n; ++i)
    if (json_object_array_add (array, layer_json (c, &c->layers[i], args)) < 0)
      out_of_memory ();
  return array;
}

/* ---- the verb ---- */

static void
parse_args (int argc, char *argv[], struct args *args)
{
  enum { OUTPUT = OPTION_OWN, BACKING_CHAIN, STATS };
  static const struct option longs[] = {
    CHAIN_OPTIONS,
    { "backing-chain", no_argument, NULL, BACKING_CHAIN },
    { "force-share", no_argument, NULL, 'U' },
    { "format", required_argument, NULL, 'f' },
    { "help", no_argument, NULL, 'h' },
    { "output", required_argument, NULL, OUTPUT },
    { "stats", no_argument, NULL, STATS },
    { NULL, 0, NULL, 0 }
  };
  int c;

  while ((c = next_option (argc, argv, ":f:ht:U", longs)) != -1)
    switch (c) {
    case BACKING_CHAIN:
      args->whole_chain = true;
      break;
    case 'f':
      option_format (optarg);
      break;
    case OUTPUT:
      args->json = option_output (optarg);
      break;
    case 't':
      option_cache ("-t", optarg);
      break;
    case STATS:
      args->stats = true;
      break;
    case 'U':                   /* info never takes locks */
      break;
    default:
      option_chain (&args->chain, c);
      break;
    }
  if (argc - optind != 1)
    usage_error ("expected one file name");
  args->file = argv[optind];
}

static int
info (int argc, char *argv[])
{
  struct args args = { .chain.qed_img = true };
  struct qed_layers *c;
  int r = EXIT_FAILURE;

  parse_args (argc, argv, &args);
  c = qed_examine_chain (args.file, &args.chain,
                         args.whole_chain ? SIZE_MAX : 0);
  if (c == NULL)
    complain ("%s", qed_get_error ());
  else if (c->error)
    complain ("%s", c->error);
  else {
    if (args.json)
      print_json (args.whole_chain ? chain_json (c, &args) :
                  layer_json (c, &c->layers[0], &args));
    else
      print_human (c, &args);
    r = args.failed ? EXIT_FAILURE : EXIT_SUCCESS;
  }
  qed_free_layers (c);
  return r;
}

const struct verb verb_info = {
  "info", info,
  "[--output=human|json] [--backing-chain] [--stats] " CHAIN_SYNOPSIS " FILE",

  "Print the header of an image.\n"
  "\n"
  "  --stats                also read the tables, and print how much is\n"
  "                         allocated, fragmented and leaked\n"
  "  --backing-chain        also print all of its backing files\n"
  CHAIN_HELP
  "  --output=human|json    the output format (default: human)\n"
  "  -f, --format=qed       the format of FILE: must be qed\n"
  "  -t, --cache=CACHE      QEMU's cache mode: accepted, no effect\n"
  "  -U, --force-share      accepted, no effect: no locks are taken anyway\n"
};
