/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* qed-img measure. */

#include <config.h>

#include <inttypes.h>
#include <string.h>

#include <json-c/json.h>

#include "qed-img.h"

struct args {
  const char *source;           /* or NULL: only a size */
  const char *source_format;    /* NULL: probe */
  struct image_options image;
  bool json;
  struct qed_convert_options convert;
  struct qed_create_options create;
  struct qed_chain_options chain;
};

static void
parse_args (int argc, char *argv[], struct args *args)
{
  enum { OUTPUT = OPTION_OWN, SIZE };
  static const struct option longs[] = {
    CHAIN_OPTIONS,
    { "force-share", no_argument, NULL, 'U' },
    { "help", no_argument, NULL, 'h' },
    { "output", required_argument, NULL, OUTPUT },
    { "size", required_argument, NULL, SIZE },
    { NULL, 0, NULL, 0 }
  };
  int c;

  while ((c = next_option (argc, argv, ":f:hO:o:U", longs)) != -1)
    switch (c) {
    case 'f':
      args->source_format = option_disk_format ("-f", optarg);
      break;
    case 'O':
      args->convert.qed = option_target_format (optarg);
      break;
    case 'o':
      parse_o (optarg, &args->image);
      break;
    case OUTPUT:
      args->json = option_output (optarg);
      break;
    case SIZE:
      args->image.size = optarg;
      break;
    case 'U':
      args->chain.lock = false;
      break;
    default:
      option_chain (&args->chain, c);
      break;
    }

  if (argc - optind > 1 || (argc - optind == 1) == (args->image.size != NULL))
    usage_error ("expected either one file name or --size");
  if (args->image.size == NULL)
    args->source = argv[optind];
  if (args->image.backing_format)
    option_disk_format ("-o backing_fmt", args->image.backing_format);
  if (args->image.backing && args->image.backing[0] == '\0')
    usage_error ("-o: backing_file='': the name must not be empty");
  if (!args->convert.qed && (args->image.backing || args->image.cluster_size ||
                             args->image.table_size))
    usage_error ("-o: a raw disk has no such option: add -O qed");
}

/* As if the new image were in the current directory. */
static int
open_backing (struct args *args)
{
  const char *name = args->image.backing;

  args->create.backing = name;
  args->convert.backing =
    open_target_backing ("new image", name, args->image.backing_format,
                         &args->chain, &args->create.backing_raw);
  return args->convert.backing ? 0 : -1;
}

static void
print_measure (const struct args *args, const struct qed_measure *m)
{
  if (args->json) {
    json_object *o = json_object_new_object ();

    add_number (o, "required", m->required);
    add_number (o, "fully-allocated", m->fully_allocated);
    print_json (o);
  }
  else {
    say (stdout, "required size: %" PRIu64, m->required);
    say (stdout, "fully allocated size: %" PRIu64, m->fully_allocated);
  }
}

static int
measure (int argc, char *argv[])
{
  struct args args = {
    .convert = { .min_zeros = QED_DEFAULT_MIN_ZEROS },
    .chain = { .qed_img = true, .lock = true, .cache_size = DISK_CACHE_SIZE },
  };
  struct qed_backing *b = NULL;
  struct qed_measure m;
  int r;

  parse_args (argc, argv, &args);
  if (parse_numbers (&args.image, args.source ? args.source : "--size",
                     &args.create) == -1)
    return EXIT_FAILURE;
  args.convert.create = &args.create;
  args.convert.own_only = args.image.backing;
  if (args.image.backing && open_backing (&args) == -1)
    return EXIT_FAILURE;
  if (args.source) {
    args.convert.threads = default_threads (args.source, "");
    b = open_disk (args.source, args.source_format, "-f", &args.chain);
    if (b == NULL) {
      qed_backing_close (args.convert.backing);
      return EXIT_FAILURE;
    }
  }
  r = qed_measure (b, &args.convert, &m);
  if (r == -1)
    complain ("%s", qed_get_error ());
  else
    print_measure (&args, &m);
  qed_backing_close (b);
  qed_backing_close (args.convert.backing);
  return r == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

const struct verb verb_measure = {
  "measure", measure,
  "[--output=human|json] [-f raw|qed] [-O raw|qed] [-o NAME=VALUE,...] [-U] "
  CHAIN_SYNOPSIS " (--size=SIZE | FILE)",

  "Print how long the file will be that convert makes of FILE.\n"
  "\n"
  "  --size=SIZE            measure an empty disk of SIZE bytes instead\n"
  "  -f, --format=raw|qed   the format of FILE (default: probe it)\n"
  "  -O, --target-format=raw|qed\n"
  "                         the format of the new file (default: raw)\n"
  "  -o, --options NAME=VALUE,...\n"
  "                         options of a new image: see create -o help\n"
  "  -U, --force-share      take no locks: FILE may be in use\n"
  CHAIN_HELP
  "  --output=human|json    the output format (default: human)\n"
  "\n"
  "The data is read, since convert leaves out zeros.\n"
};
