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
  bool unsafe, quiet;
  struct qed_chain_options chain;
};

/* ---- the command line ---- */

static void
parse_args (int argc, char *argv[], struct args *args)
{
  static const struct option longs[] = {
    CHAIN_OPTIONS_BELOW,
    { "help", no_argument, NULL, 'h' },
    { NULL, 0, NULL, 0 }
  };
  const char *backing = NULL, *backing_format = NULL;
  int c;

  while ((c = next_option (argc, argv, ":b:f:F:ho:qu", longs)) != -1)
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
    case 'u':
      args->unsafe = true;
      break;
    default:
      option_chain (&args->chain, c);
      break;
    }

  /* As in qemu-img, -b and -F override -o whatever their order. */
  if (backing)
    args->image.backing = backing;
  if (backing_format)
    args->image.backing_format = backing_format;
  if (args->image.backing_format)
    option_backing_format (args->image.backing_format);

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

/* Which of the layers is the file that the new image replaces, if any? */
static size_t
find_replaced (const struct args *args, const struct qed_layers *below)
{
  struct qed_storage *st = qed_is_nbd_uri (args->file) ? NULL :
    qed_storage_find (args->file);
  size_t i = 0;

  while (i < below->n &&
         (st == NULL || below->layers[i].device != st->device ||
          below->layers[i].inode != st->inode))
    i++;
  qed_storage_close (st);
  return i;
}

/* Check that the layers can become the chain below the new image. */
static int
check_chain (const struct args *args, const struct qed_layers *below)
{
  const char *backing = below->layers[0].path;
  const size_t replaced = find_replaced (args, below);

  if (replaced < below->n) {
    complain ("%s: backing file: %s: %s: choose another name for the new "
              "image", args->file, backing, replaced == 0 ?
              "is the same file" : "needs the file that would be replaced");
    return -1;
  }
  if (below->n == QED_MAX_CHAIN - 1 && below->error) {
    complain ("%s: backing file: %s: has a chain of %d layers already: merge "
              "some of them first", args->file, backing, QED_MAX_CHAIN);
    return -1;
  }

  /* An error further down the chain doesn't prevent creating the image. */
  if (below->error && !args->quiet)
    complain ("warning: %s", below->error);
  return 0;
}

/* Examine the backing file and what is below it.  NULL: a message has been
 * printed.
 */
static struct qed_layers *
examine_backing (const struct args *args)
{
  struct qed_chain_options chain = args->chain;
  struct qed_layers *below;
  char *path = find_named (args->file, args->image.backing);

  if (path == NULL)
    return NULL;
  chain.backing = path;
  chain.backing_format = args->image.backing_format;
  below = qed_examine_new (args->file, &chain);
  free (path);
  if (below == NULL)
    complain ("%s", qed_get_error ());
  else if (check_chain (args, below) == -1) {
    qed_free_layers (below);
    below = NULL;
  }
  return below;
}

/* Would FILE be its own backing file, by its name or as the file that it is? */
static bool
names_itself (const struct args *args)
{
  char *path = qed_backing_path (args->file, args->image.backing);
  struct stat file, backing;
  bool r = path &&
    (strcmp (path, args->file) == 0 ||
     (stat (args->file, &file) == 0 && stat (path, &backing) == 0 &&
      file.st_dev == backing.st_dev && file.st_ino == backing.st_ino));

  free (path);
  return r;
}

/* -u: the backing file is what the user says. */
static int
trust_backing (const struct args *args, struct qed_create_options *opts)
{
  /* What an NBD server exports is raw. */
  const char *format = args->image.backing_format ? :
    qed_is_nbd_uri (args->image.backing) ? "raw" : NULL;

  if (names_itself (args)) {
    complain ("%s: backing file: %s: is the same file: choose another name "
              "for the new image", args->file, args->image.backing);
    return -1;
  }
  if (format == NULL && !args->quiet)
    note_unknown (args->file, args->image.backing, "is not opened with -u");
  opts->backing_raw = format && strcmp (format, "raw") == 0;
  return 0;
}

/* Set the fields of ARGS and OPTS that depend on the backing file. */
static int
use_backing (struct args *args, struct qed_create_options *opts,
             struct qed_layers **below)
{
  const struct qed_layer *l;

  opts->backing = args->image.backing;
  if (args->unsafe)
    return trust_backing (args, opts);
  *below = examine_backing (args);
  if (*below == NULL)
    return -1;
  l = &(*below)->layers[0];
  opts->backing_raw = strcmp (l->format, "raw") == 0;
  if (args->image.size == NULL)
    opts->image_size = l->virtual_size;
  if (args->image.backing_format == NULL && opts->backing_raw && l->is_file &&
      !args->quiet)
    note_taken_as_raw (args->file, l->path);
  args->image.backing_format = l->format;
  return 0;
}

/* Is everything given that is needed? */
static int
check_given (const struct args *args)
{
  const char *why = NULL;

  if (args->image.backing_format && args->image.backing == NULL)
    why = "a backing format needs a backing file: add -b";
  else if (args->image.backing && args->image.backing[0] == '\0')
    why = "backing file '': the name must not be empty";
  else if (args->image.size == NULL && args->image.backing == NULL)
    why = "a size is missing: add it after the name";
  else if (args->image.size == NULL && args->unsafe)
    why = "a size is missing: add it after the name, because -u doesn't open "
      "the backing file";
  if (why == NULL)
    return 0;
  complain ("%s: %s", args->file, why);
  return -1;
}

/* ---- the verb ---- */

/* The line that qemu-img prints. */
static void
print_formatting (const struct args *args,
                  const struct qed_create_options *opts)
{
  const char *format = args->image.backing_format;
  char *backing = NULL, *table_size = NULL;

  if (opts->backing)
    backing = xasprintf (" backing_file=%s%s%s", opts->backing,
                         format ? " backing_fmt=" : "", format ? format : "");
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
  struct args args = { .chain.qed_img = true };
  struct qed_create_options opts = { .image_size = 0 };
  struct qed_layers *below = NULL;
  int r;

  parse_args (argc, argv, &args);
  r = parse_numbers (&args.image, args.file, &opts) == -1 ||
    check_given (&args) == -1 ||
    (args.image.backing && use_backing (&args, &opts, &below) == -1) ? -1 : 0;
  if (r == 0) {
    hold_signals (args.file);
    r = qed_create (args.file, &opts);
    if (r == -1)
      complain ("%s", qed_get_error ());
    else if (!args.quiet)
      print_formatting (&args, &opts);
  }
  qed_free_layers (below);
  return r == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

const struct verb verb_create = {
  "create", create,
  "[-q] [-u] [-b BACKING [-F FORMAT]] [-o NAME=VALUE,...] "
  "[--backing-dir=DIR] [--backing-uri] FILE [SIZE]",

  "Create an empty image of SIZE bytes, or of its backing file's size.\n"
  "\n"
  "  -b, --backing=BACKING  the backing file, or an NBD URI, from which\n"
  "                         clusters are read until they are written; a\n"
  "                         relative name starts at the directory of FILE\n"
  "  -F, --backing-format=FORMAT\n"
  "                         the format of BACKING: raw, qed, or one that\n"
  "                         qemu-nbd knows (default: probe the file)\n"
  "  -u, --backing-unsafe   don't open BACKING, which need not exist; SIZE is\n"
  "                         required then\n"
  CHAIN_HELP_BELOW
  "  -f, --format=qed       the format of FILE: must be qed\n"
  "  -o, --options NAME=VALUE,...\n"
  "                         options of the image: see -o help\n"
  "  -q, --quiet            print errors only\n"
  "\n"
  "A SIZE is in bytes; suffixes k M G T P E are powers of 1024, as in 1.5G.\n"
};
