/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* qed-img rebase.
 *
 * The new chain is opened first, with the image itself on top, so that the same
 * rules apply as to the old one.  Then the image is detached from the new
 * chain, because its cached tables there would go stale, and opened again on
 * the old one.  An NBD server needs to take only one connection at a time for
 * that.
 */

#include <config.h>

#include <string.h>
#include <sys/stat.h>

#include "qed-img.h"

struct args {
  struct qed_chain_options chain;
  const char *file;
  const char *backing;          /* NULL: none */
  const char *format;           /* -F, or NULL: probe */
  bool raw;                     /* BACKING is, as the header will say */
  bool unsafe, progress, quiet;
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

  while ((c = next_option (argc, argv, ":b:f:F:hpqt:T:uU", longs)) != -1)
    switch (c) {
    case 'b':
      args->backing = optarg;
      break;
    case 'f':
      option_format (optarg);
      break;
    case 'F':
      args->format = option_backing_format (optarg);
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
    case 'T':
      option_cache ("-T", optarg);
      break;
    case 'u':
      args->unsafe = true;
      break;
    case 'U':
      args->chain.share_backing = true;
      break;
    default:
      option_chain (&args->chain, c);
      break;
    }

  if (argc - optind != 1)
    usage_error ("expected one file name");
  args->file = argv[optind];
  if (args->backing == NULL)
    usage_error ("-b is missing: -b BACKING, or -b '' for no backing file");
  if (args->backing[0] == '\0')
    args->backing = NULL;
  if (args->backing == NULL && args->format)
    usage_error ("-F needs a backing file");
}

/* ---- the new backing file ---- */

/* Options for the new chain, with BACKING as path or URI. */
static struct qed_chain_options
new_options (const struct args *args, const char *backing)
{
  struct qed_chain_options opts = args->chain;

  opts.backing = backing;
  opts.backing_format = args->format;
  return opts;
}

/* Does the new backing file exist?  With -u it need not. */
static bool
exists (const struct args *args)
{
  char *path;
  struct stat sb;
  bool r;

  if (has_no_directory (args->file, args->backing))
    return false;
  path = qed_backing_path (args->file, args->backing);
  r = path && stat (path, &sb) == 0;
  free (path);
  return r;
}

/* -u without -F: why won't the new backing file be examined?  NULL: it will. */
static const char *
why_unknown (const struct args *args)
{
  if (has_no_directory (args->file, args->backing))
    return "is a relative name, and an export has no directory where it could "
      "start";
  return exists (args) ? NULL : "does not exist";
}

/* -u: examine the new backing file, if there is one, and only that. */
static int
examine_backing (struct args *args)
{
  struct qed_chain_options opts;
  struct qed_layers *c;
  const char *why = why_unknown (args);
  char *path;
  int r = -1;

  if (qed_is_nbd_uri (args->backing)) {
    args->raw = true;           /* what an NBD server exports */
    return 0;
  }
  if (why) {
    if (!args->quiet)
      note_unknown (args->file, args->backing, why);
    return 0;
  }
  path = find_named (args->file, args->backing);
  if (path == NULL)
    return -1;
  opts = new_options (args, path);
  opts.lock = false;
  c = qed_examine_chain (args->file, &opts, 1);
  if (c == NULL || c->error)
    complain ("%s", c ? c->error : qed_get_error ());
  else {
    args->raw = strcmp (c->layers[1].format, "raw") == 0;
    if (args->raw && !args->quiet)
      note_taken_as_raw (args->file, path);
    r = 0;
  }
  qed_free_layers (c);
  free (path);
  return r;
}

/* ---- the verb ---- */

/* Report that the image or a backing file can't be opened.  If it is locked,
 * suggest -U for backing files only: FILE must never be in use.
 */
static void
chain_error (const struct args *args)
{
  size_t n = strlen (args->file);
  const char *why = qed_get_error ();

  if (strncmp (why, args->file, n) == 0 &&
      strncmp (why + n, ": locked: ", 10) == 0)
    complain ("%s", why);
  else
    complain_unshared ();
}

/* Open the new backing file, and what is below it. */
static int
open_backing (struct args *args, struct qed_backing **to)
{
  char *path = find_named (args->file, args->backing);
  struct qed_chain_options opts = new_options (args, path);
  struct qed_image *img = path ? qed_open_chain (args->file, &opts) : NULL;

  if (path && img == NULL)
    chain_error (args);
  if (img) {
    *to = qed_take_backing (img);
    args->raw = (*to)->raw || qed_is_nbd_uri (path);
    if ((*to)->raw && args->format == NULL && !args->quiet)
      note_taken_as_raw (args->file, path);
  }
  free (path);
  return img ? 0 : -1;
}

/* Make TO the backing file of IMG. */
static int
change_backing (struct qed_image *img, struct qed_backing *to,
                const struct args *args)
{
  const struct qed_write_options opts = { .idle_ms = 0 };
  int r = 0;

  if (qed_check_backing_name (img, args->backing) == -1 ||
      qed_make_writable (img, &opts) != 0)
    return -1;
  if (!args->unsafe) {
    struct progress p;

    r = qed_copy_differing (img, to, progress_start (&p, args->progress));
    progress_end (&p);
  }
  if (r == 0)
    r = qed_set_backing (img, args->backing, args->raw);
  return r;
}

/* Open the image on its old chain, or with -u on nothing, and change it. */
static int
rebase_image (struct args *args, struct qed_backing *to)
{
  struct qed_image *img;
  int r;

  if (args->unsafe)
    args->chain.backing = "none";
  img = qed_open_chain (args->file, &args->chain);
  if (img == NULL) {
    chain_error (args);
    return -1;
  }
  r = change_backing (img, to, args);
  if (r == -1)
    complain ("%s", qed_get_error ());
  if (qed_close (img) == -1 && r == 0) {
    complain ("%s", qed_get_error ());
    r = -1;
  }
  return r;
}

static int
rebase (int argc, char *argv[])
{
  struct args args = {
    .chain = {
      .qed_img = true, .lock = true, .cache_size = QED_DEFAULT_CACHE_SIZE,
    },
  };
  struct qed_backing *to = NULL;
  int r = 0;

  parse_args (argc, argv, &args);
  if (args.format)
    args.raw = strcmp (args.format, "raw") == 0;
  if (args.backing && !args.unsafe)
    r = open_backing (&args, &to);
  else if (args.backing && args.format == NULL)
    r = examine_backing (&args);
  if (r == 0)
    r = rebase_image (&args, to);
  qed_backing_close (to);
  return r == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

const struct verb verb_rebase = {
  "rebase", rebase,
  "[-u] [-U] [-p] [-q] [-t CACHE] [-T CACHE] [-F FORMAT] "
  CHAIN_SYNOPSIS " -b BACKING FILE",

  "Give FILE another backing file.  The disk stays the same: clusters that\n"
  "differ in the new backing file are copied from the old one.\n"
  "\n"
  "  -b, --backing=BACKING  the new backing file, or an NBD URI; a relative\n"
  "                         name starts at the directory of FILE; '': none\n"
  "  -F FORMAT              the format of BACKING: raw, qed, or one that\n"
  "                         qemu-nbd knows (default: probe the file)\n"
  "  -u, --backing-unsafe   change only the name, for a backing file that was\n"
  "                         moved: neither file need exist, nothing is\n"
  "                         copied, and the disk changes if the content of\n"
  "                         the two differs\n"
  "  -U, --force-share      take no locks on backing files, old and new: they\n"
  "                         may be open for writing\n"
  CHAIN_HELP
  "  -f, --format=qed       the format of FILE: must be qed\n"
  "  -p, --progress         show progress on a terminal\n"
  "  -q, --quiet            print errors only\n"
  "  -t, --cache=CACHE\n"
  "  -T, --source-cache=CACHE\n"
  "                         QEMU's cache modes: accepted, no effect\n"
  "\n"
  "--backing-format is about the old backing file, -F about the new one.\n"
};
