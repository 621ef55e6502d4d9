/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */


/* qed-img commit. */

#include <config.h>

#include "qed-img.h"

struct args {
  const char *file;
  const char *base;             /* NULL: the backing file of FILE */
  bool keep;                    /* -d: don't empty it */
  bool progress, quiet;
};

static void
parse_args (int argc, char *argv[], struct args *args,
            struct qed_chain_options *opts)
{
  enum { BACKING_DIR = 256 };
  static const struct option longs[] = {
    { "backing-dir", required_argument, NULL, BACKING_DIR },
    { "format", required_argument, NULL, 'f' },
    { "help", no_argument, NULL, 'h' },
    { NULL, 0, NULL, 0 }
  };
  int c;

  while ((c = next_option (argc, argv, ":b:df:hpqt:", longs)) != -1)
    switch (c) {
    case BACKING_DIR:
      option_backing_dir (opts, optarg);
      break;
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
    }
  if (argc - optind != 1)
    usage_error ("one file name is wanted");
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
  "[-p] [-q] [-d] [-b BASE] [-t CACHE] [--backing-dir=DIR] FILE",

  "Write what an image has into its backing file, then empty the image.\n"
  "\n"
  "  -b BASE            write it, and what is in layers between, into BASE,\n"
  "                     which is further down, and don't empty it: the images\n"
  "                     between can't be used by themselves any more\n"
  "  -d                 don't empty it\n"
  "  --backing-dir=DIR  the backing file may be beneath DIR, too; may be\n"
  "                     repeated\n"
  "  -f, --format=qed   the format of FILE, the only one\n"
  "  -p                 show progress, on a terminal\n"
  "  -q                 print errors only\n"
  "  -t CACHE           a cache mode of QEMU's: taken, changes nothing\n"
  "\n"
  "This changes the backing file: any other image on top of it is spoilt.\n"
};
