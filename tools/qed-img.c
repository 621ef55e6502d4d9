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
 *     stats.c      how info --stats counts clusters
 *     backing.c    backing files that the user names
 *     image-options.c  options of a new image
 *     map-svg.c    the drawing of map
 *     disk.c       disks to be copied or compared
 *     json.c       JSON output
 *     svg.c, grid.h  drawing in SVG
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

/* ---- options ---- */

/* What qemu-img 7.2 or 10 has and qed-img doesn't, with the reason, and what
 * does the same: see the section of that title in the man page.  VERB: of this
 * one only; "": before the verb.  NULL: of all verbs.
 */
#define NO_BITMAPS "QED has no bitmaps"
#define NO_COMPRESSION "QED has no compressed clusters"
#define NO_SNAPSHOTS "QED has no snapshots"
static const struct {
  const char *verb, *option, *why;
} left_out[] = {
  { NULL, "--image-opts", "FILE is a name: for storage that needs options give "
    "the NBD URI of a server, such as nbdkit" },
  { NULL, "--object", "an NBD URI has the keys of its connection, as in "
    "nbds://HOST/?tls-certificates=DIR, and nbdkit's filter luks opens "
    "encrypted files" },
  { "", "-T", "strace shows what qed-img does" },
  { "", "--trace", "strace shows what qed-img does" },
  { "commit", "-r", "systemd-run -p 'IOWriteBandwidthMax=DEVICE RATE' limits "
    "the rate" },
  { "commit", "--rate", "systemd-run -p 'IOWriteBandwidthMax=DEVICE RATE' "
    "limits the rate" },
  { "convert", "--bitmaps", NO_BITMAPS },
  { "convert", "--skip-broken-bitmaps", NO_BITMAPS },
  { "convert", "-c", NO_COMPRESSION },
  { "convert", "--compress", NO_COMPRESSION },
  { "convert", "-l", NO_SNAPSHOTS },
  { "convert", "--snapshot", NO_SNAPSHOTS },
  { "convert", "-r", "nbdkit's filter rate limits what a source or a target "
    "on NBD is read or written at" },
  { "convert", "--rate-limit", "nbdkit's filter rate limits what a source or "
    "a target on NBD is read or written at" },
  { "convert", "--target-image-opts", "TARGET is a name: for storage that "
    "needs options give, with -n, the NBD URI of a server, such as nbdkit" },
  { "info", "--limits", "lsblk -t shows the limits of a device, and nbdinfo "
    "those of a server" },
  { "measure", "-l", NO_SNAPSHOTS },
  { "measure", "--snapshot", NO_SNAPSHOTS },
  { "rebase", "-c", NO_COMPRESSION },
  { "rebase", "--compress", NO_COMPRESSION },
};

/* Is that OPTION, which may end with "=VALUE", left out? */
static void
refuse_left_out (const char *option)
{
  const size_t n = strcspn (option, "=");

  for (size_t i = 0; i < sizeof left_out / sizeof left_out[0]; ++i) {
    const char *of = left_out[i].verb;

    if (strlen (left_out[i].option) == n &&
        strncmp (left_out[i].option, option, n) == 0 &&
        (of ? strcmp (of, verb ? verb->name : "") == 0 : verb != NULL))
      usage_error ("%s is left out: %s", left_out[i].option, left_out[i].why);
  }
}

/* The names that qemu-img 10 has for options of one letter, and the verbs that
 * have them if they have the letter, between spaces.
 */
#define BASIC \
  " check commit compare convert create info map measure rebase resize "
static const struct {
  char letter;
  const char *name, *verbs;
} long_names[] = {
  { 'B', "backing", " convert " },
  { 'b', "backing", " create rebase " },
  { 'b', "base", " commit " },
  { 'd', "drop", " commit " },
  { 'F', "backing-format", " create " },
  { 'F', "b-format", " compare " },
  { 'f', "a-format", " compare " },
  { 'f', "format", " check commit create info map measure rebase resize " },
  { 'f', "source-format", " convert " },
  { 'm', "parallel", " convert " },
  { 'n', "no-create", " convert " },
  { 'O', "target-format", " convert measure " },
  { 'o', "options", " create measure " },
  { 'o', "target-format-options", " convert " },
  { 'p', "progress", BASIC },
  { 'q', "quiet", BASIC },
  { 'S', "sparse-size", " convert " },
  { 's', "strict", " compare " },
  { 'T', "cache", " check compare " },
  { 'T', "source-cache", " convert rebase " },
  { 't', "cache", " commit info rebase " },
  { 't', "target-cache", " convert " },
  { 'U', "force-share", BASIC },
  { 'u', "backing-unsafe", " create rebase " },
  { 'W', "oob", " convert " },
};
#define NR_LONG_NAMES (sizeof long_names / sizeof long_names[0])
#define MAX_LONG_OPTIONS 64

/* Is V in LIST, which has spaces around each word? */
static bool
has_word (const char *list, const char *v)
{
  char *word = xasprintf (" %s ", v);
  bool r = strstr (list, word) != NULL;

  free (word);
  return r;
}

/* Copy the list LONGS of a verb, and add the long names of its letters SHORTS,
 * unless it has an option of that name.
 */
static void
add_long_names (const char *shorts, const struct option *longs,
                struct option all[MAX_LONG_OPTIONS])
{
  size_t n = 0;

  for (; longs[n].name && n < MAX_LONG_OPTIONS - NR_LONG_NAMES - 1; ++n)
    all[n] = longs[n];
  for (size_t i = 0; verb && i < NR_LONG_NAMES; ++i) {
    const char *letter = strchr (shorts, long_names[i].letter);
    size_t k = 0;

    while (k < n && strcmp (all[k].name, long_names[i].name) != 0)
      ++k;
    if (letter && k == n && has_word (long_names[i].verbs, verb->name))
      all[n++] = (struct option) {
        long_names[i].name,
        letter[1] == ':' ? required_argument : no_argument,
        NULL, long_names[i].letter
      };
  }
  all[n] = (struct option) { .name = NULL };
}

int
next_option (int argc, char *argv[], const char *shorts,
             const struct option *longs)
{
  struct option all[MAX_LONG_OPTIONS];
  char letter[] = "-?";
  int c;

  add_long_names (shorts, longs, all);
  c = getopt_long (argc, argv, shorts, all, NULL);
  if (c == 'h') {
    print_help ();
    exit (finish (EXIT_SUCCESS));
  }
  if (c == ':')
    usage_error ("option '%s' needs a value", argv[optind - 1]);
  /* optopt is 0 for an unknown long option, and its letter for a known one with
   * a value that it doesn't take.
   */
  if (c == '?' && isgraph ((unsigned char) optopt) &&
      strchr (shorts, optopt) == NULL) {
    letter[1] = (char) optopt;
    refuse_left_out (letter);
    usage_error ("option '%s' is unknown or takes no value", letter);
  }
  if (c == '?') {
    refuse_left_out (argv[optind - 1]);
    usage_error ("option '%s' is unknown or takes no value",
                 argv[optind - 1]);
  }
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

/* ---- main ---- */

/* qemu-img has that verb, but qed-img has not. */
static void
refuse_verb (const char *name)
{
  static const struct {
    const char *name, *why;
  } others[] = {
    { "amend", "QEMU changes nothing in QED images with it: see rebase" },
    { "bench", "nbdkit serves an image to fio, by its engine nbd" },
    { "bitmap", "QED has no bitmaps" },
    { "dd", "convert copies whole disks, and nbdkit's filter offset serves a "
      "part of one" },
    { "snapshot", "QED has no snapshots: create -b keeps the state of a disk "
      "in its backing file" },
  };

  for (size_t i = 0; i < sizeof others / sizeof others[0]; ++i)
    if (strcmp (name, others[i].name) == 0)
      usage_error ("verb %s is left out: %s", name, others[i].why);
}

static const struct verb *
find_verb (const char *name)
{
  char *list = NULL;

  refuse_verb (name);

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
