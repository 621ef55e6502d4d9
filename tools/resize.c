/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* qed-img resize. */

#include <config.h>

#include <ctype.h>
#include <inttypes.h>
#include <string.h>

#include "qed-img.h"

struct args {
  struct qed_chain_options chain;
  const char *file;
  const char *size;             /* with its sign */
  bool shrink, progress, quiet;
};

/* ---- the command line ---- */

/* As in qemu-img, a negative size as the last argument isn't an option.  Take
 * it off the command line, and return it.
 */
static const char *
negative_size (int *argc, char *argv[])
{
  char *last = argv[*argc - 1];

  if (*argc < 2 || last[0] != '-' || !isdigit ((unsigned char) last[1]))
    return NULL;
  argv[--*argc] = NULL;
  return last;
}

static void
parse_args (int argc, char *argv[], struct args *args)
{
  enum { PREALLOCATION = OPTION_OWN, SHRINK };
  static const struct option longs[] = {
    CHAIN_OPTIONS,
    { "help", no_argument, NULL, 'h' },
    { "preallocation", required_argument, NULL, PREALLOCATION },
    { "shrink", no_argument, NULL, SHRINK },
    { NULL, 0, NULL, 0 }
  };
  int c;

  args->size = negative_size (&argc, argv);
  while ((c = next_option (argc, argv, ":f:hpq", longs)) != -1)
    switch (c) {
    case 'f':
      option_format (optarg);
      break;
    case 'p':
      args->progress = true;
      break;
    case 'q':
      args->quiet = true;
      break;
    case PREALLOCATION:
      if (strcmp (optarg, "off") != 0)
        usage_error ("--preallocation: '%s': must be off: a QED image "
                     "allocates clusters only when they are written", optarg);
      break;
    case SHRINK:
      args->shrink = true;
      break;
    default:
      option_chain (&args->chain, c);
      break;
    }

  if (argc - optind != (args->size ? 1 : 2))
    usage_error ("expected one file name and one size");
  args->file = argv[optind];
  if (args->size == NULL)
    args->size = argv[optind + 1];
}

/* Compute the new size of a disk that has NOW bytes. */
static int
parse_new_size (const struct args *args, uint64_t now, uint64_t *size)
{
  char sign = args->size[0] == '+' || args->size[0] == '-' ?
    args->size[0] : '=';
  uint64_t n, rest = QED_SECTOR_SIZE - 1;

  if (parse_size (args->size + (sign != '='), &n) == -1) {
    complain ("%s: size '%s': is not a size: expected digits, after + or - to "
              "change the size by that much, optionally with decimals and a "
              "suffix (b k M G T P E), below 16E", args->file, args->size);
    return -1;
  }
  if (sign == '-') {
    if (n >= now) {
      complain ("%s: size '%s': the disk has %" PRIu64 " bytes, and at least "
                "one must be left", args->file, args->size, now);
      return -1;
    }
    n = now - n;
  }
  else if (sign == '+' && __builtin_add_overflow (now, n, &n))
    n = UINT64_MAX;
  if (n == 0) {
    complain ("%s: size '%s': must be more than 0", args->file, args->size);
    return -1;
  }
  /* A size that can't be rounded up is too large anyway: qed_resize refuses
   * it.
   */
  *size = n > UINT64_MAX - rest ? n - n % QED_SECTOR_SIZE : (n + rest) & ~rest;
  return 0;
}

/* ---- the verb ---- */

static int
change_size (struct qed_image *img, const struct args *args)
{
  const struct qed_write_options opts = { .idle_ms = 0 };
  struct progress p;
  uint64_t size;
  int r;

  if (parse_new_size (args, qed_get_header (img)->image_size, &size) == -1)
    return -1;
  if (qed_make_writable (img, &opts) != 0) {
    complain ("%s", qed_get_error ());
    return -1;
  }
  r = qed_resize (img, size, args->shrink,
                  progress_start (&p, args->progress));
  progress_end (&p);
  if (r == -1)
    complain ("%s", qed_get_error ());
  return r;
}

static int
resize (int argc, char *argv[])
{
  struct args args = {
    .chain = {
      .qed_img = true, .lock = true, .cache_size = QED_DEFAULT_CACHE_SIZE,
    },
  };
  struct qed_image *img;
  int r;

  parse_args (argc, argv, &args);
  img = qed_open_chain (args.file, &args.chain);
  if (img == NULL) {
    complain ("%s", qed_get_error ());
    return EXIT_FAILURE;
  }
  r = change_size (img, &args);
  if (qed_close (img) == -1 && r == 0) {
    complain ("%s", qed_get_error ());
    r = -1;
  }
  if (r == 0 && !args.quiet)
    puts ("Image resized.");
  return r == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

const struct verb verb_resize = {
  "resize", resize,
  "[--shrink] [-p] [-q] [--preallocation=off] " CHAIN_SYNOPSIS " FILE "
  "[+|-]SIZE",

  "Change the size of the disk.  Added space reads as zeros.\n"
  "\n"
  "  --shrink               allow a smaller SIZE: data beyond it is lost, and\n"
  "                         its space is freed\n"
  CHAIN_HELP
  "  --preallocation=off    accepted, no effect: there is no other value\n"
  "  -f, --format=qed       the format of FILE: must be qed\n"
  "  -p, --progress         show progress on a terminal\n"
  "  -q, --quiet            print errors only\n"
  "\n"
  "A SIZE is in bytes; suffixes k M G T P E are powers of 1024, as in 1.5G.\n"
  "With + or - the disk grows or shrinks by SIZE.\n"
};
