/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* qed-img: qemu-img's verbs for QED images.
 *
 * Each verb has its own file and a struct verb in the table below: a function
 * that takes the rest of the command line, and the help.  The library (qed.h)
 * handles the format, and words the messages about it.
 *
 *     qed-img.c    main, the table of verbs, common options
 *     create.c, info.c …  the verbs
 *     damages.c    the ranges that check lists
 *     backing.c    backing files that the user names
 *     disk.c       disks to be copied or compared
 *     json.c       JSON output
 *     text.c       messages, sizes, progress
 *
 * File names can hold any byte, and messages hold file names.  So all
 * human-readable text goes through say and complain, which escape control
 * characters.
 */

#include <config.h>

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "qed-img.h"

static const struct verb *const verbs[] = {
  &verb_create,
  &verb_info,
  &verb_check,
  &verb_map,
  &verb_resize,
  &verb_rebase,
  &verb_commit,
  &verb_convert,
  &verb_measure,
  &verb_compare,
};
#define NR_VERBS (sizeof verbs / sizeof verbs[0])

static const struct verb *verb; /* NULL until the command line names one */

void
usage_error (const char *fmt, ...)
{
  va_list args;
  char *s;

  va_start (args, fmt);
  s = xvasprintf (fmt, args);
  va_end (args);
  if (verb)
    complain ("%s: %s: see qed-img %s --help", verb->name, s, verb->name);
  else
    complain ("%s: see qed-img --help", s);
  free (s);
  exit (exit_failure);
}

int
finish (int status)
{
  if (fflush (stdout) == EOF || ferror (stdout)) {
    complain ("standard output: write: %s", strerror (errno));
    return exit_failure;
  }
  return status;
}

static void
print_help (void)
{
  if (verb)
    printf ("Usage: qed-img %s %s\n\n%s\n", verb->name, verb->synopsis,
            verb->help);
  else {
    puts ("Usage:");
    for (size_t i = 0; i < NR_VERBS; ++i)
      printf ("  qed-img %s %s\n", verbs[i]->name, verbs[i]->synopsis);
    puts ("  qed-img VERB --help\n"
          "  qed-img --help | --version\n"
          "\n"
          "Make and examine disk images in the format QED.");
  }
  puts ("FILE is a file, a block device, or an NBD URI as nbd://host/export.");
}

int
next_option (int argc, char *argv[], const char *shorts,
             const struct option *longs)
{
  int c = getopt_long (argc, argv, shorts, longs, NULL);

  if (c == 'h') {
    print_help ();
    exit (finish (EXIT_SUCCESS));
  }
  if (c == ':')
    usage_error ("option '%s' needs a value", argv[optind - 1]);
  /* optopt is 0 for an unknown long option. */
  if (c == '?' && isgraph ((unsigned char) optopt))
    usage_error ("option '-%c' is unknown or takes no value", optopt);
  if (c == '?')
    usage_error ("option '%s' is unknown or takes no value",
                 argv[optind - 1]);
  return c;
}

void
option_format (const char *value)
{
  if (strcmp (value, "qed") != 0)
    usage_error ("-f: format '%s': must be qed", value);
}

void
option_cache (const char *option, const char *value)
{
  static const char *const modes[] = {
    "none", "off", "writeback", "writethrough", "directsync", "unsafe",
  };

  for (size_t i = 0; i < sizeof modes / sizeof modes[0]; ++i)
    if (strcmp (value, modes[i]) == 0)
      return;
  usage_error ("%s: cache mode '%s': must be none, off, writeback, "
               "writethrough, directsync or unsafe, and has no effect",
               option, value);
}

bool
option_output (const char *value)
{
  bool json = strcmp (value, "json") == 0;

  if (!json && strcmp (value, "human") != 0)
    usage_error ("--output: '%s': must be human or json", value);
  return json;
}

static void
add_backing_dir (struct qed_chain_options *opts, const char *dir)
{
  static const char **dirs;     /* never freed */

  dirs = realloc (dirs, (opts->nr_backing_dirs + 1) * sizeof *dirs);
  if (dirs == NULL)
    out_of_memory ();
  dirs[opts->nr_backing_dirs++] = dir;
  opts->backing_dirs = dirs;
}

bool
option_chain (struct qed_chain_options *opts, int c)
{
  switch (c) {
  case OPTION_BACKING_DIR:
    add_backing_dir (opts, optarg);
    return true;
  case OPTION_BACKING_FORMAT:
    opts->backing_format = optarg;
    return true;
  case OPTION_BACKING_URI:
    opts->backing_uri = true;
    return true;
  }
  return false;
}

static const struct verb *
find_verb (const char *name)
{
  char *list = NULL;

  for (size_t i = 0; i < NR_VERBS; ++i) {
    char *longer;

    if (strcmp (name, verbs[i]->name) == 0) {
      free (list);
      return verbs[i];
    }
    longer = xasprintf ("%s%s%s", list ? list : "", list ? ", " : "",
                        verbs[i]->name);
    free (list);
    list = longer;
  }
  usage_error ("verb '%s' is unknown: the verbs are %s", name, list);
}

/* If a standard stream is closed, the next open would return its descriptor,
 * and messages would go into an image.  /dev/null, opened read-only, takes
 * its place: writing to it fails, as it should.
 */
static void
reserve_standard_streams (void)
{
  int fd;

  do
    fd = open ("/dev/null", O_RDONLY);
  while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd >= 0)
    close (fd);
}

int
main (int argc, char *argv[])
{
  static const struct option longs[] = {
    { "help", no_argument, NULL, 'h' },
    { "version", no_argument, NULL, 'V' },
    { NULL, 0, NULL, 0 }
  };
  int c;

  reserve_standard_streams ();
  signal (SIGXFSZ, SIG_IGN);    /* so that write returns EFBIG instead */
  opterr = 0;                   /* next_option prints the errors */
  while ((c = next_option (argc, argv, "+:hV", longs)) != -1)
    if (c == 'V') {
      puts ("qed-img " PACKAGE_VERSION " (" PACKAGE_NAME ")");
      return finish (EXIT_SUCCESS);
    }

  if (optind == argc)
    usage_error ("a verb is missing");
  verb = find_verb (argv[optind]);
  argc -= optind;
  argv += optind;
  optind = 0;                   /* glibc: start over with the new argv */
  return finish (verb->run (argc, argv));
}
