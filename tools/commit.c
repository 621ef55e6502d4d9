/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* qed-img commit. */

#include <config.h>

#include "qed-img.h"

struct args {
  const char *file;
  const char *base;             /* NULL: the backing file of FILE */
  bool keep;                    /* -d: don't empty FILE */
  bool progress, quiet;
};

static void
parse_args (int argc, char *argv[], struct args *args,
            struct qed_chain_options *opts)
{
  static const struct option longs[] = {
    CHAIN_OPTIONS,
    { "format", required_argument, NULL, 'f' },
    { "help", no_argument, NULL, 'h' },
    { NULL, 0, NULL, 0 }
  };
  int c;

  while ((c = next_option (argc, argv, ":b:df:hpqt:", longs)) != -1)
    switch (c) {
    case 'b':
      args->base = optarg;
      break;
    case 'd':
      args->keep = true;
      break;
    case 'f':
      option_format (optarg);
      break;
    case 'p':
      args->progress = true;
      break;
    case 'q':
      args->quiet = true;
      break;
    case 't':
      option_cache ("-t", optarg);
      break;
    default:
      option_chain (opts, c);
      break;
    }
  if (argc - optind != 1)
    usage_error ("expected one file name");
  args->file = argv[optind];
}

static int
commit (int argc, char *argv[])
{
  struct args args = { .file = NULL };
  struct qed_chain_options opts = {
    .qed_img = true, .lock = true, .cache_size = QED_DEFAULT_CACHE_SIZE,
  };
  struct progress p;
  int r;

  parse_args (argc, argv, &args, &opts);
  r = qed_commit (args.file, args.base, &opts, args.keep,
                  progress_start (&p, args.progress && !args.quiet));
  progress_end (&p);
  if (r == -1) {
    complain ("%s", qed_get_error ());
    return EXIT_FAILURE;
  }
  if (!args.quiet)
    say (stdout, "Image committed.");
  return EXIT_SUCCESS;
}

const struct verb verb_commit = {
  "commit", commit,
  "[-p] [-q] [-d] [-b BASE] [-t CACHE] " CHAIN_SYNOPSIS " FILE",

  "Write the content of an image into its backing file, and empty the image.\n"
  "\n"
  "  -b, --base=BASE        write into BASE, a file further down the chain,\n"
  "                         what FILE and the images between have; don't\n"
  "                         empty FILE; the images between can't be used by\n"
  "                         themselves any more\n"
  "  -d, --drop             don't empty the image\n"
  CHAIN_HELP
  "  -f, --format=qed       the format of FILE: must be qed\n"
  "  -p, --progress         show progress on a terminal\n"
  "  -q, --quiet            print errors only\n"
  "  -t, --cache=CACHE      QEMU's cache mode: accepted, no effect\n"
  "\n"
  "This changes the backing file, which corrupts any other overlay of it.\n"
};
