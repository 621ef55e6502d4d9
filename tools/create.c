/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* qed-img create. */

#include <config.h>

#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

#include "qed-img.h"

struct args {
  const char *file;
  struct image_options image;
  bool quiet;
};

/* ---- the command line ---- */

static void
parse_args (int argc, char *argv[], struct args *args)
{
  static const struct option longs[] = {
    { "help", no_argument, NULL, 'h' },
    { NULL, 0, NULL, 0 }
  };
  const char *backing = NULL, *backing_format = NULL;
  int c;

  while ((c = next_option (argc, argv, ":b:f:F:ho:q", longs)) != -1)
    switch (c) {
    case 'b':
      backing = optarg;
      break;
    case 'f':
      if (strcmp (optarg, "qed") != 0)
        usage_error ("-f: format '%s': only qed can be created", optarg);
      break;
    case 'F':
      backing_format = optarg;
      break;
    case 'o':
      parse_o (optarg, &args->image);
      break;
    case 'q':
      args->quiet = true;
      break;
    }

  /* As in qemu-img, -b and -F override -o whatever their order. */
  if (backing)
    args->image.backing = backing;
  if (backing_format)
    args->image.backing_format = backing_format;

  if (argc - optind < 1 || argc - optind > 2)
    usage_error ("expected one file name and at most one size");
  args->file = argv[optind];
  if (argc - optind == 2) {
    if (args->image.size)
      usage_error ("two sizes are given: '%s' and '%s'",
                   args->image.size, argv[optind + 1]);
    args->image.size = argv[optind + 1];
  }
}

/* ---- the backing file ---- */

static int
parse_format (const struct args *args, enum format *format)
{
  const char *s = args->image.backing_format;

  if (s == NULL)
    *format = FORMAT_PROBE;
  else if (strcmp (s, "raw") == 0)
    *format = FORMAT_RAW;
  else if (strcmp (s, "qed") == 0)
    *format = FORMAT_QED;
  else {
    complain ("%s: backing format '%s': must be raw or qed", args->file, s);
    return -1;
  }
  return 0;
}

/* Check that C can become the chain below the new image.  Its first layer is
 * the new image's backing file.
 */
static int
check_chain (const struct args *args, const struct chain *c)
{
  const char *backing = c->layers[0].path;
  struct stat sb;

  if (!qed_is_nbd_uri (args->file) && stat (args->file, &sb) == 0)
    for (size_t i = 0; i < c->n; ++i)
      if (c->layers[i].dev == sb.st_dev && c->layers[i].ino == sb.st_ino) {
        complain ("%s: backing file: %s: %s: choose another name for the new "
                  "image", args->file, backing,
                  i == 0 ? "is the same file" :
                  "needs the file that would be replaced");
        return -1;
      }
  if (c->n == QED_MAX_CHAIN) {
    complain ("%s: backing file: %s: has a chain of %d layers already: merge "
              "some of them first", args->file, backing, QED_MAX_CHAIN);
    return -1;
  }

  /* An error further down the chain doesn't prevent creating the image. */
  if (c->error && !args->quiet)
    complain ("warning: %s", c->error);
  return 0;
}

/* Open the backing file, and set the fields of OPTS that depend on it. */
static int
examine_backing (const struct args *args, struct chain *c,
                 struct qed_create_options *opts)
{
  const struct layer *l = &c->layers[0];
  enum format format;

  if (parse_format (args, &format) == -1)
    return -1;
  if (args->image.backing[0] == '\0') {
    complain ("%s: backing file '': the name must not be empty", args->file);
    return -1;
  }
  if (chain_add_backing (c, args->file, args->image.backing, format) == -1) {
    complain ("%s", c->error);
    return -1;
  }
  chain_add_rest (c);
  if (check_chain (args, c) == -1)
    return -1;

  opts->backing = args->image.backing;
  opts->backing_raw = l->format == FORMAT_RAW;
  if (args->image.size == NULL)
    opts->image_size = l->virtual_size;
  if (format == FORMAT_PROBE && opts->backing_raw && !args->quiet)
    complain ("%s: backing file: %s: has no known format's magic, so it is "
              "taken as raw: add -F raw to say so", args->file, l->path);
  return 0;
}

/* ---- the verb ---- */

/* The line that qemu-img prints. */
static void
print_formatting (const struct args *args,
                  const struct qed_create_options *opts)
{
  char *backing = NULL, *table_size = NULL;

  if (opts->backing)
    backing = xasprintf (" backing_file=%s backing_fmt=%s", opts->backing,
                         opts->backing_raw ? "raw" : "qed");
  if (args->image.table_size)
    table_size = xasprintf (" table_size=%" PRIu32, opts->table_size);
  say (stdout, "Formatting '%s', fmt=qed size=%" PRIu64 "%s cluster_size=%"
       PRIu32 "%s", args->file, opts->image_size, backing ? backing : "",
       opts->cluster_size, table_size ? table_size : "");
  free (backing);
  free (table_size);
}

/* Block signals while the image is created, so that none leaves a temporary
 * file behind.  It doesn't take long, but a server or a device, where there is
 * no such file, may hang.
 */
static void
hold_signals (const char *file)
{
  struct stat sb;
  sigset_t set;

  if (qed_is_nbd_uri (file) || (stat (file, &sb) == 0 && S_ISBLK (sb.st_mode)))
    return;
  sigemptyset (&set);
  sigaddset (&set, SIGHUP);
  sigaddset (&set, SIGINT);
  sigaddset (&set, SIGTERM);
  sigprocmask (SIG_BLOCK, &set, NULL);
}

static int
create (int argc, char *argv[])
{
  struct args args = { .file = NULL };
  struct qed_create_options opts = { .image_size = 0 };
  struct chain c = { .n = 0 };
  int r = 0;

  parse_args (argc, argv, &args);
  if (parse_numbers (&args.image, args.file, &opts) == -1)
    return EXIT_FAILURE;

  if (args.image.backing)
    r = examine_backing (&args, &c, &opts);
  else if (args.image.backing_format) {
    complain ("%s: a backing format needs a backing file: add -b", args.file);
    r = -1;
  }
  else if (args.image.size == NULL) {
    complain ("%s: a size is missing: add it after the name", args.file);
    r = -1;
  }
  chain_free (&c);
  if (r == -1)
    return EXIT_FAILURE;

  hold_signals (args.file);
  if (qed_create (args.file, &opts) == -1) {
    complain ("%s", qed_get_error ());
    return EXIT_FAILURE;
  }
  if (!args.quiet)
    print_formatting (&args, &opts);
  return EXIT_SUCCESS;
}

const struct verb verb_create = {
  "create", create,
  "[-q] [-b BACKING [-F raw|qed]] [-o NAME=VALUE,...] FILE [SIZE]",

  "Create an empty image of SIZE bytes, or of its backing file's size.\n"
  "\n"
  "  -b BACKING    the backing file, which clusters are read from until they\n"
  "                are written; a relative name starts at the directory of\n"
  "                FILE\n"
  "  -F raw|qed    the format of BACKING (default: probe the file)\n"
  "  -f qed        the format of FILE: must be qed\n"
  "  -o NAME=VALUE,...\n"
  "                options of the image: see -o help\n"
  "  -q            print errors only\n"
  "\n"
  "A SIZE is in bytes; suffixes k M G T P E are powers of 1024, as in 1.5G.\n"
};
