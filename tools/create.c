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

/* The strings on the command line; those that are absent are NULL. */
struct args {
  const char *file;
  const char *size;
  const char *cluster_size;
  const char *table_size;
  const char *backing;
  const char *backing_format;
  bool quiet;
};

/* ---- the command line ---- */

/* Cut the next comma-separated item off *S.  Set *S to the rest, or to NULL at
 * the end.  In the item a doubled comma becomes a single one.
 */
static char *
next_item (char **s)
{
  char *item = *s, *from = item, *to = item;

  while (*from && (*from != ',' || from[1] == ',')) {
    if (*from == ',')
      from++;
    *to++ = *from++;
  }
  *s = *from ? from + 1 : NULL;
  *to = '\0';
  return item;
}

static void __attribute__ ((noreturn))
print_option_help (void)
{
  fputs ("Options of -o, separated by commas (double a comma in a value):\n"
         "  backing_file=NAME    same as -b\n"
         "  backing_fmt=FORMAT   same as -F\n"
         "  cluster_size=SIZE    power of 2 from 4k to 64M, default 64k\n"
         "  nocow=off            accepted, no effect\n"
         "  preallocation=off    accepted, no effect\n"
         "  size=SIZE            same as the argument SIZE\n"
         "  table_size=N         clusters in a table: 1, 2, 4, 8 or 16, "
         "default 4\n", stdout);
  exit (finish (EXIT_SUCCESS));
}

/* Is it nocow or preallocation, of which qemu-img accepts more values than
 * "off"?
 */
static bool
is_off (const char *name, const char *value)
{
  bool nocow = strcmp (name, "nocow") == 0;

  if (!nocow && strcmp (name, "preallocation") != 0)
    return false;
  if (value && strcmp (value, "off") == 0)
    return true;
  usage_error ("-o: %s=%s: must be off: %s", name, value ? value : "",
               nocow ? "chattr +C DIRECTORY lets new files there be "
               "overwritten in place" : "a QED image allocates clusters only "
               "when they are written");
}

/* Parse the value of one -o option. */
static void
parse_o (char *s, struct args *args)
{
  const struct {
    const char *name;
    const char **value;
  } known[] = {
    { "backing_file", &args->backing },
    { "backing_fmt", &args->backing_format },
    { "cluster_size", &args->cluster_size },
    { "size", &args->size },
    { "table_size", &args->table_size },
  };

  while (s) {
    char *name = next_item (&s), *value = strchr (name, '=');
    size_t i = 0, n = sizeof known / sizeof known[0];

    if (strcmp (name, "help") == 0 || strcmp (name, "?") == 0)
      print_option_help ();
    if (value)
      *value++ = '\0';
    if (is_off (name, value))
      continue;
    while (i < n && strcmp (name, known[i].name) != 0)
      i++;
    if (i == n)
      usage_error ("-o: option '%s' is unknown", name);
    if (value == NULL)
      usage_error ("-o: option '%s' needs a value", name);
    *known[i].value = value;
  }
}

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
      parse_o (optarg, args);
      break;
    case 'q':
      args->quiet = true;
      break;
    }

  /* As in qemu-img, -b and -F override -o whatever their order. */
  if (backing)
    args->backing = backing;
  if (backing_format)
    args->backing_format = backing_format;

  if (argc - optind < 1 || argc - optind > 2)
    usage_error ("expected one file name and at most one size");
  args->file = argv[optind];
  if (argc - optind == 2) {
    if (args->size)
      usage_error ("two sizes are given: '%s' and '%s'",
                   args->size, argv[optind + 1]);
    args->size = argv[optind + 1];
  }
}

/* Parse ARG, the value of NAME, unless it is NULL.  The limit is MAX. */
static int
parse_number (const struct args *args, const char *name, const char *arg,
              uint64_t max, uint64_t *value)
{
  if (arg == NULL)
    return 0;
  if (parse_size (arg, value) == -1) {
    complain ("%s: %s '%s': is not a size: expected digits, optionally with "
              "decimals and a suffix (b k M G T P E), below 16E",
              args->file, name, arg);
    return -1;
  }
  if (*value > max) {
    complain ("%s: %s '%s': is too large: see qed-img create -o help",
              args->file, name, arg);
    return -1;
  }
  return 0;
}

/* Set the sizes in OPTS from the command line, or to the defaults. */
static int
parse_numbers (const struct args *args, struct qed_create_options *opts)
{
  uint64_t cluster_size = QED_DEFAULT_CLUSTER_SIZE;
  uint64_t table_size = QED_DEFAULT_TABLE_SIZE;
  struct qed_header h = { .cluster_size = 0 };

  if (parse_number (args, "size", args->size, UINT64_MAX,
                    &opts->image_size) == -1 ||
      parse_number (args, "cluster_size", args->cluster_size, UINT32_MAX,
                    &cluster_size) == -1 ||
      parse_number (args, "table_size", args->table_size, UINT32_MAX,
                    &table_size) == -1)
    return -1;
  opts->cluster_size = h.cluster_size = (uint32_t) cluster_size;
  opts->table_size = h.table_size = (uint32_t) table_size;

  /* qed_create checks this too, but takes 0 for the default. */
  if (qed_header_check_sizes (&h, args->file) == -1) {
    complain ("%s", qed_get_error ());
    return -1;
  }
  return 0;
}

/* ---- the backing file ---- */

static int
parse_format (const struct args *args, enum format *format)
{
  const char *s = args->backing_format;

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
  if (args->backing[0] == '\0') {
    complain ("%s: backing file '': the name must not be empty", args->file);
    return -1;
  }
  if (chain_add_backing (c, args->file, args->backing, format) == -1) {
    complain ("%s", c->error);
    return -1;
  }
  chain_add_rest (c);
  if (check_chain (args, c) == -1)
    return -1;

  opts->backing = args->backing;
  opts->backing_raw = l->format == FORMAT_RAW;
  if (args->size == NULL)
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
  if (args->table_size)
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
  if (parse_numbers (&args, &opts) == -1)
    return EXIT_FAILURE;

  if (args.backing)
    r = examine_backing (&args, &c, &opts);
  else if (args.backing_format) {
    complain ("%s: a backing format needs a backing file: add -b", args.file);
    r = -1;
  }
  else if (args.size == NULL) {
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
