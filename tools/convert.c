/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* qed-img convert. */

#include <config.h>

#include <ctype.h>
#include <inttypes.h>
#include <string.h>

#include "qed-img.h"

struct args {
  const char *source, *target;
  const char *source_format;    /* NULL: probe */
  struct image_options image;
  bool progress, quiet, salvage;
  struct qed_convert_options convert;
  struct qed_create_options create;
  struct qed_chain_options chain; /* of the source */
};

/* ---- the command line ---- */

static unsigned
parse_threads (const char *value)
{
  char *end;
  unsigned long n = strtoul (value, &end, 10);

  if (!isdigit ((unsigned char) *value) || *end != '\0' || n < 1 ||
      n > QED_MAX_CONVERT_THREADS)
    usage_error ("-m: '%s': must be 1 to %d", value, QED_MAX_CONVERT_THREADS);
  return (unsigned) n;
}

static uint64_t
parse_min_zeros (const char *value)
{
  uint64_t size;

  if (parse_size (value, &size) == -1 || size % QED_SECTOR_SIZE != 0 ||
      size > QED_MAX_MIN_ZEROS)
    usage_error ("-S: '%s': must be a multiple of 512 up to 16M, or 0 to "
                 "write all zeros", value);
  return size;
}

/* Refuse what makes no sense together. */
static void
check_args (const struct args *args)
{
  const struct qed_convert_options *c = &args->convert;

  if (c->qed && strcmp (args->target, "-") == 0)
    usage_error ("-: only a raw disk can be written to standard output");
  if (qed_is_nbd_uri (args->target) && !c->existing)
    usage_error ("%s: an export exists already: add -n%s", args->target,
                 c->qed ? ", after qed-img create" : "");
  if (!c->qed && args->image.backing)
    usage_error ("-B: a raw disk has no backing file: add -O qed");
  if (!c->qed && (args->image.cluster_size || args->image.table_size))
    usage_error ("-o: a raw disk has no such option: add -O qed");
  if (c->existing && args->image.backing)
    usage_error ("-B: is for a new image, and -n writes into one that exists");
  if (c->existing && (args->image.cluster_size || args->image.table_size))
    usage_error ("-o: is for a new image, and -n writes into one that exists");
  if (c->target_is_zero && !c->existing)
    usage_error ("--target-is-zero: is for a target that exists: add -n");
  if (args->image.size)
    usage_error ("-o: size=%s: a converted disk keeps its size: see qed-img "
                 "resize", args->image.size);
  if (args->image.backing_format && !args->image.backing)
    usage_error ("-F: a backing format needs a backing file: add -B");
}

static void
parse_args (int argc, char *argv[], struct args *args)
{
  enum { SALVAGE = OPTION_OWN, TARGET_IS_ZERO };
  static const struct option longs[] = {
    CHAIN_OPTIONS,
    { "force-share", no_argument, NULL, 'U' },
    { "help", no_argument, NULL, 'h' },
    { "salvage", no_argument, NULL, SALVAGE },
    { "target-is-zero", no_argument, NULL, TARGET_IS_ZERO },
    { NULL, 0, NULL, 0 }
  };
  const char *backing = NULL, *backing_format = NULL;
  int c;

  while ((c = next_option (argc, argv, ":B:Cf:F:hm:nO:o:pqS:t:T:UW",
                           longs)) != -1)
    switch (c) {
    case 'B':
      backing = optarg;
      break;
    case 'f':
      args->source_format = option_disk_format ("-f", optarg);
      break;
    case 'F':
      backing_format = optarg;
      break;
    case 'm':
      args->convert.threads = parse_threads (optarg);
      break;
    case 'n':
      args->convert.existing = true;
      break;
    case 'O':
      args->convert.qed = option_target_format (optarg);
      break;
    case 'o':
      parse_o (optarg, &args->image);
      break;
    case 'p':
      args->progress = true;
      break;
    case 'q':
      args->quiet = true;
      break;
    case 'S':
      args->convert.min_zeros = parse_min_zeros (optarg);
      break;
    case SALVAGE:
      args->salvage = true;
      break;
    case 't':
      option_cache ("-t", optarg);
      break;
    case 'T':
      option_cache ("-T", optarg);
      break;
    case TARGET_IS_ZERO:
      args->convert.target_is_zero = true;
      break;
    case 'U':
      args->chain.lock = false;
      break;
    case 'C':                   /* these two let QEMU do its work otherwise */
    case 'W':
      break;
    default:
      option_chain (&args->chain, c);
      break;
    }

  if (argc - optind != 2)
    usage_error ("expected the names of a source and a target");
  args->source = argv[optind];
  args->target = argv[optind + 1];
  if (args->convert.threads == 0)
    args->convert.threads = default_threads (args->source, args->target);
  /* As in create these override -o. */
  if (backing)
    args->image.backing = backing;
  if (backing_format)
    args->image.backing_format = backing_format;
  if (args->image.backing_format)
    option_disk_format ("-F", args->image.backing_format);
  check_args (args);
}

/* ---- the verb ---- */

/* Open the new image's backing file, if there is to be one. */
static int
open_backing (struct args *args)
{
  const char *name = args->image.backing;

  if (name == NULL)
    return 0;
  if (name[0] == '\0') {
    complain ("%s: backing file '': the name must not be empty", args->target);
    return -1;
  }
  args->create.backing = name;
  args->convert.own_only = true;
  args->convert.backing =
    open_target_backing (args->target, name, args->image.backing_format,
                         &args->chain, &args->create.backing_raw);
  return args->convert.backing ? 0 : -1;
}

/* Convert B, and close it. */
static int
convert_disk (struct args *args, struct qed_backing *b)
{
  struct salvage s = { .own_only = args->convert.own_only };
  struct progress p;
  int r = 0;

  if (args->salvage) {
    args->convert.unreadable = salvage_add;
    args->convert.opaque = &s;
    r = b->image ? salvage_find_unsound (&s, b->image) : 0;
  }
  if (r == 0) {
    args->convert.progress =
      progress_start (&p, args->progress && !args->quiet &&
                      strcmp (args->target, "-") != 0);
    r = qed_convert (b, args->target, &args->convert);
    progress_end (&p);
  }
  if (r == -1)
    complain ("%s", qed_get_error ());
  else
    salvage_print (&s, args->source);
  free (s.ranges);
  qed_backing_close (b);
  return r;
}

static int
convert (int argc, char *argv[])
{
  struct args args = {
    .convert = { .min_zeros = QED_DEFAULT_MIN_ZEROS },
    .chain = { .qed_img = true, .lock = true, .cache_size = DISK_CACHE_SIZE },
  };
  struct qed_chain_options target;
  struct qed_backing *b;

  parse_args (argc, argv, &args);
  if (parse_numbers (&args.image, args.target, &args.create) == -1)
    return EXIT_FAILURE;
  target = args.chain;
  target.lock = true;
  target.backing_format = NULL;
  args.convert.chain = &target;
  args.convert.create = &args.create;
  args.chain.salvage = args.salvage;

  b = open_disk (args.source, args.source_format, "-f", &args.chain);
  if (b == NULL)
    return EXIT_FAILURE;
  if (open_backing (&args) == -1) {
    qed_backing_close (b);
    return EXIT_FAILURE;
  }
  catch_signals ();             /* a new file may have a name already */
  return convert_disk (&args, b) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

const struct verb verb_convert = {
  "convert", convert,
  "[-p] [-q] [-f raw|qed] [-O raw|qed] [-o NAME=VALUE,...] "
  "[-B BACKING [-F raw|qed]] [-S SIZE] [-m N] [-n] [--target-is-zero] [-U] "
  "[--salvage] [-t CACHE] [-T CACHE] " CHAIN_SYNOPSIS " SOURCE TARGET",

  "Copy a disk, with all that is below an image, into a new file.\n"
  "\n"
  "  -f, --source-format=raw|qed\n"
  "                         the format of SOURCE (default: probe it)\n"
  "  -O, --target-format=raw|qed\n"
  "                         the format of TARGET (default: raw)\n"
  "  -o, --target-format-options NAME=VALUE,...\n"
  "                         options of a new image: see create -o help\n"
  "  -B, --backing=BACKING  the new image's backing file, which has the same\n"
  "                         content as that of SOURCE: only what SOURCE has\n"
  "                         itself is copied\n"
  "  -F raw|qed             the format of BACKING (default: probe it)\n"
  "  -n, --no-create        TARGET exists, and is overwritten\n"
  "  --target-is-zero       and it reads as zeros now\n"
  "  -S, --sparse-size=SIZE\n"
  "                         so many zero bytes in a row take no space\n"
  "                         (default: 4k; 0: all zeros are written)\n"
  "  -m, --parallel=N       reads and writes at once (1 to 16; default: 8, or\n"
  "                         4 with files on a machine of few CPUs)\n"
  "  -U, --force-share      take no locks on SOURCE: it may be in use\n"
  "  --salvage              write zeros for what can't be read, and list it\n"
  CHAIN_HELP
  "  -p, --progress         show progress on a terminal\n"
  "  -q, --quiet            print errors only\n"
  "  -t, --target-cache=CACHE\n"
  "  -T, --source-cache=CACHE\n"
  "  -C\n"
  "  -W, --oob              for QEMU's ways of doing I/O: no effect\n"
  "\n"
  "TARGET is a file, a block device, or with -n an NBD URI; - is standard\n"
  "output, for a raw disk.\n"
};
