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

#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "qed-img.h"

struct args {
  struct qed_chain_options chain;
  const char *file;
  const char *backing;          /* NULL: none */
  enum format format;
  bool unsafe, progress, quiet;
};

/* ---- the command line ---- */

static enum format
parse_format (const char *s)
{
  if (strcmp (s, "raw") == 0)
    return FORMAT_RAW;
  if (strcmp (s, "qed") == 0)
    return FORMAT_QED;
  usage_error ("-F: backing format '%s': must be raw or qed", s);
}

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
      args->format = parse_format (optarg);
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
  if (args->backing == NULL && args->format != FORMAT_PROBE)
    usage_error ("-F needs a backing file");
}

/* ---- the new backing file ---- */

/* Does the new backing file exist?  With -u it need not. */
static bool
exists (const struct args *args)
{
  char *path;
  struct stat sb;
  bool r;

  if (qed_is_nbd_uri (args->file) && args->backing[0] != '/')
    return false;
  path = qed_backing_path (args->file, args->backing);
  r = path && stat (path, &sb) == 0;
  free (path);
  return r;
}

/* Probe the new backing file, if there is one, and set its format. */
static int
examine_backing (struct args *args)
{
  struct chain c = { .n = 0 };
  int r;

  if (args->backing == NULL || (args->unsafe && args->format != FORMAT_PROBE))
    return 0;
  if (args->unsafe && !exists (args)) {
    if (!args->quiet)
      complain ("%s: backing file: %s: %s, so its format will be probed when "
                "it is opened: add -F to set it", args->file, args->backing,
                has_no_directory (args->file, args->backing) ?
                "is a relative name, and an export has no directory where it "
                "could start" : "does not exist");
    return 0;
  }

  r = chain_add (&c, args->file, FORMAT_QED);
  if (r == 0)
    r = chain_add_backing (&c, args->file, args->backing, args->format);
  if (r == -1)
    complain ("%s", c.error);
  else {
    if (args->format == FORMAT_PROBE && c.layers[1].format == FORMAT_RAW &&
        !args->quiet)
      complain ("%s: backing file: %s: has no known format's magic, so it is "
                "taken as raw: add -F raw to say so", args->file,
                c.layers[1].path);
    args->format = c.layers[1].format;
  }
  chain_free (&c);
  return r;
}

/* Open the new backing file, and what is below it. */
static int
open_backing (const struct args *args, struct qed_backing **to)
{
  struct qed_chain_options opts = args->chain;
  struct qed_image *img;
  char *path;

  *to = NULL;
  if (args->backing == NULL)
    return 0;
  path = qed_backing_path (args->file, args->backing);
  if (path == NULL)
    return -1;
  /* "none" by itself would mean no backing file. */
  opts.backing = strcmp (path, "none") == 0 ? "./none" : path;
  opts.backing_format = args->format == FORMAT_RAW ? "raw" : "qed";
  img = qed_open_chain (args->file, &opts);
  free (path);
  if (img == NULL)
    return -1;
  *to = qed_take_backing (img);
  return 0;
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
    r = qed_set_backing (img, args->backing, args->format == FORMAT_RAW);
  return r;
}

static int
rebase_image (struct args *args)
{
  struct qed_backing *to = NULL;
  struct qed_image *img = NULL;
  int r = -1;

  args->chain.backing = args->unsafe ? "none" : NULL;
  if (args->unsafe || open_backing (args, &to) == 0)
    img = qed_open_chain (args->file, &args->chain);
  if (img == NULL)
    chain_error (args);
  else {
    r = change_backing (img, to, args);
    if (r == -1)
      complain ("%s", qed_get_error ());
  }
  qed_backing_close (to);
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
    .format = FORMAT_PROBE,
  };

  parse_args (argc, argv, &args);
  return examine_backing (&args) == 0 && rebase_image (&args) == 0 ?
    EXIT_SUCCESS : EXIT_FAILURE;
}

const struct verb verb_rebase = {
  "rebase", rebase,
  "[-u] [-U] [-p] [-q] [-t CACHE] [-T CACHE] [-F raw|qed] "
  CHAIN_SYNOPSIS " -b BACKING FILE",

  "Give FILE another backing file.  The disk stays the same: clusters that\n"
  "differ in the new backing file are copied from the old one.\n"
  "\n"
  "  -b BACKING    the new backing file; a relative name starts at the\n"
  "                directory of FILE; '': none\n"
  "  -F raw|qed    the format of BACKING (default: probe the file)\n"
  "  -u            change only the name, for a backing file that was moved:\n"
  "                neither file need exist, nothing is copied, and the disk\n"
  "                changes if the content of the two differs\n"
  "  -U, --force-share\n"
  "                take no locks on backing files, old and new: they may be\n"
  "                open for writing\n"
  CHAIN_HELP
  "  -f qed        the format of FILE: must be qed\n"
  "  -p            show progress on a terminal\n"
  "  -q            print errors only\n"
  "  -t CACHE, -T CACHE\n"
  "                QEMU's cache modes: accepted, no effect\n"
};
