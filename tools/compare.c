/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* qed-img compare: what qemu-img compare prints, with its exit codes, except
 * that an error in the command line isn't 1, which says that disks differ.
 *
 * It only reads, so signals may end it anywhere.
 */

#include <config.h>

#include <inttypes.h>

#include "qed-img.h"

enum { SAME = 0, DIFFERENT = 1, TROUBLE = 2, NO_STATUS = 3, NO_DATA = 4 };

struct args {
  const char *names[2], *formats[2]; /* formats: NULL: probe */
  bool quiet, progress;
  struct qed_compare_options compare;
  struct qed_chain_options chain;
};

/* ---- the command line ---- */

static void
parse_args (int argc, char *argv[], struct args *args)
{
  static const struct option longs[] = {
    CHAIN_OPTIONS,
    { "force-share", no_argument, NULL, 'U' },
    { "help", no_argument, NULL, 'h' },
    { NULL, 0, NULL, 0 }
  };
  int c;

  while ((c = next_option (argc, argv, ":F:f:hpqsT:U", longs)) != -1)
    switch (c) {
    case 'F':
      args->formats[1] = option_disk_format ("-F", optarg);
      break;
    case 'f':
      args->formats[0] = option_disk_format ("-f", optarg);
      break;
    case 'p':
      args->progress = true;
      break;
    case 'q':
      args->quiet = true;
      break;
    case 's':
      args->compare.strict = true;
      break;
    case 'T':
      option_cache ("-T", optarg);
      break;
    case 'U':
      args->chain.lock = false;
      break;
    default:
      option_chain (&args->chain, c);
      break;
    }
  if (argc - optind != 2)
    usage_error ("expected the names of two disks");
  args->names[0] = argv[optind];
  args->names[1] = argv[optind + 1];
}

/* ---- the verb ---- */

static void
print_result (const struct qed_compare_result *r, bool strict)
{
  const uint64_t common = r->sizes[0] < r->sizes[1] ? r->sizes[0] : r->sizes[1];

  if (!strict && r->sizes[0] != r->sizes[1] &&
      (r->difference == QED_SAME || r->offset >= common))
    say (stdout, "Warning: Image size mismatch!");
  switch (r->difference) {
  case QED_SAME:
    say (stdout, "Images are identical.");
    break;
  case QED_DIFFERENT_SIZE:
    say (stdout, "Strict mode: Image size mismatch!");
    break;
  case QED_DIFFERENT_STATUS:
    say (stdout, "Strict mode: Offset %" PRIu64 " block status mismatch!",
         r->offset);
    break;
  case QED_DIFFERENT_CONTENT:
    say (stdout, "Content mismatch at offset %" PRIu64 "!", r->offset);
    break;
  }
}

static int
compare_disks (const struct args *args, struct qed_backing *a,
               struct qed_backing *b)
{
  struct qed_compare_options compare = args->compare;
  struct qed_compare_result result;
  struct progress p;
  int r;

  compare.progress = progress_start (&p, args->progress && !args->quiet);
  r = qed_compare_disks (a, b, &compare, &result);
  progress_end (&p);
  if (r == -1) {
    complain ("%s", qed_get_error ());
    return result.status_failed ? NO_STATUS : NO_DATA;
  }
  if (!args->quiet)
    print_result (&result, compare.strict);
  return result.difference == QED_SAME ? SAME : DIFFERENT;
}

static int
compare (int argc, char *argv[])
{
  struct args args = {
    .compare = { .threads = QED_DEFAULT_COMPARE_THREADS },
    .chain = {
      .qed_img = true, .lock = true, .cache_size = QED_DEFAULT_CACHE_SIZE / 2,
    },
  };
  struct qed_backing *a, *b = NULL;
  int status = TROUBLE;

  exit_failure = TROUBLE;
  parse_args (argc, argv, &args);
  a = open_disk (args.names[0], args.formats[0], "-f", &args.chain);
  if (a)
    b = open_disk (args.names[1], args.formats[1], "-F", &args.chain);
  if (b)
    status = compare_disks (&args, a, b);
  qed_backing_close (b);
  qed_backing_close (a);
  return status;
}

const struct verb verb_compare = {
  "compare", compare,
  "[-p] [-q] [-f raw|qed] [-F raw|qed] [-s] [-T CACHE] [-U] " CHAIN_SYNOPSIS
  " DISK1 DISK2",

  "Compare two disks, each with all that is below an image.  Exit code 1 says\n"
  "that they differ.\n"
  "\n"
  "  -f, --a-format=raw|qed\n"
  "                         the format of DISK1 (default: probe it)\n"
  "  -F, --b-format=raw|qed\n"
  "                         the format of DISK2 (default: probe it)\n"
  "  -s, --strict           their sizes must be equal, and what is allocated\n"
  "  -T, --cache=CACHE      QEMU's cache mode: accepted, no effect\n"
  "  -U, --force-share      take no locks: the disks may be in use\n"
  CHAIN_HELP
  "  -p, --progress         show progress on a terminal\n"
  "  -q, --quiet            print errors only\n"
};
