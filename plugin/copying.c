/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The parameters copy-on-read=, stream= and stream-rate=.
 *
 * Copying writes to the image, whatever clients do.  So the image must be
 * writable, and if it isn't nbdkit fails in the foreground: nobody is to wait
 * for copies that aren't made.
 */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "plugin.h"

static struct qed_copy_options options = {
  .retry_ms = QED_DEFAULT_RETRY_MS,
};
static const char *rate_given;  /* stream-rate= */

/* -D qed.stream=1 tells how far streaming is. */
NBDKIT_DLL_PUBLIC int qed_debug_stream;

/* ---- parameters ---- */

/* The one to blame. */
static const char *
key (void)
{
  return options.stream ? "stream" : "copy-on-read";
}

static int
parse_rate (const char *value)
{
  int64_t r = nbdkit_parse_size (value);

  if (r == -1)
    return -1;
  if (r == 0) {
    complain ("stream-rate=%s: must be more than 0 bytes a second: "
              "stream=false copies nothing", value);
    return -1;
  }
  options.rate = (uint64_t) r;
  rate_given = value;
  return 0;
}

int
copying_config (const char *key, const char *value)
{
  if (strcmp (key, "copy-on-read") == 0)
    return parse_bool (value, &options.on_read);
  if (strcmp (key, "stream") == 0)
    return parse_bool (value, &options.stream);
  if (strcmp (key, "stream-rate") == 0)
    return parse_rate (value);
  return 1;
}

/* ---- nbdkit -r ---- */

/* The words of this process's command line, each with a NUL behind it, and
 * their LENGTH in all.  To be freed; NULL: it can't be read.
 */
static char *
read_command_line (size_t *length)
{
  FILE *fp = fopen ("/proc/self/cmdline", "re");
  char *words = NULL;
  size_t size = 0;
  FILE *out = fp ? open_memstream (&words, &size) : NULL;
  int c;

  while (out && (c = getc (fp)) != EOF)
    putc (c, out);
  if (out && fclose (out) == EOF) {
    free (words);
    words = NULL;
  }
  if (fp)
    fclose (fp);
  *length = size;
  return words;
}

/* Does one of ARGV say -r?  Of nbdkit's long options those without a value,
 * which take no word after them, are left out.
 */
static bool
has_readonly_option (int argc, char *argv[])
{
  static const struct option longs[] = {
    { "read-only", no_argument, NULL, 'r' },
    { "readonly", no_argument, NULL, 'r' },
#define WITH_VALUE(name) { name, required_argument, NULL, 'v' }
    WITH_VALUE ("debug"), WITH_VALUE ("export-name"),
    WITH_VALUE ("exportname"), WITH_VALUE ("filter"), WITH_VALUE ("group"),
    WITH_VALUE ("ip-addr"), WITH_VALUE ("ipaddr"), WITH_VALUE ("log"),
    WITH_VALUE ("mask-handshake"), WITH_VALUE ("pid-file"),
    WITH_VALUE ("pidfile"), WITH_VALUE ("port"), WITH_VALUE ("run"),
    WITH_VALUE ("selinux-label"), WITH_VALUE ("threads"), WITH_VALUE ("tls"),
    WITH_VALUE ("tls-certificates"), WITH_VALUE ("tls-psk"),
    WITH_VALUE ("unix"), WITH_VALUE ("user"),
    { NULL, 0, NULL, 0 }
  };
  const int index = optind, errors = opterr;
  bool r = false;
  int c;

  optind = 0;                   /* start afresh */
  opterr = 0;
  while ((c = getopt_long (argc, argv, "D:e:fg:i:nop:P:rst:u:U:vV", longs,
                           NULL)) != -1)
    r |= c == 'r';
  optind = index;
  opterr = errors;
  optarg = NULL;
  return r;
}

/* nbdkit doesn't tell a plugin about -r before the first connection, which is
 * too late to say what is wrong with that.  1: it was given; -1: that can't be
 * known, and a message says so.
 */
static int
is_readonly (void)
{
  size_t length, n = 0;
  char *words = read_command_line (&length), **argv;
  int r = -1;

  for (size_t i = 0; words && i < length; ++i)
    n += words[i] == '\0';
  argv = words ? calloc (n + 1, sizeof *argv) : NULL;
  if (argv) {
    char *p = words;

    for (size_t i = 0; i < n; ++i, p += strlen (p) + 1)
      argv[i] = p;
    r = has_readonly_option ((int) n, argv);
  }
  else
    complain ("%s=true: whether -r is among nbdkit's options isn't known: "
              "/proc/self/cmdline: %m", key ());
  free (argv);
  free (words);
  return r;
}

int
copying_config_complete (void)
{
  int readonly = copying_is_wanted () ? is_readonly () : 0;

  if (rate_given && !options.stream) {
    complain ("stream-rate=%s: means nothing without stream=true", rate_given);
    return -1;
  }
  if (readonly == 1) {
    complain ("%s=true: copies into the image, and nbdkit -r forbids writing "
              "to it: leave out one of them", key ());
    return -1;
  }
  return readonly;
}

bool
copying_is_wanted (void)
{
  return options.on_read || options.stream;
}

/* ---- what is told ---- */

static void __attribute__ ((format (printf, 2, 3)))
say (void *opaque UNUSED, const char *fmt, ...)
{
  va_list args;
  char *s;

  va_start (args, fmt);
  if (vasprintf (&s, fmt, args) == -1)
    s = NULL;
  va_end (args);
  complain ("%s", s ? s : "out of memory");
  free (s);
}

/* Tell of each hundredth, and of the end. */
static void
progress (void *opaque, uint64_t done, uint64_t total)
{
  struct qed_image *img = opaque;
  static __thread uint64_t told; /* one thread streams one image */
  const uint64_t percent = total == 0 ? 100 :
    (uint64_t) ((double) done * 100 / (double) total);

  if (done == total)
    nbdkit_debug ("%s: streaming is complete: the image has no backing file "
                  "any more", qed_get_name (img));
  else if (qed_debug_stream && percent > told)
    nbdkit_debug ("%s: streaming: %" PRIu64 " %%: %" PRIu64 " of %" PRIu64
                  " bytes", qed_get_name (img), percent, done, total);
  told = percent;
}

/* ---- beginning ---- */

int
copying_prepare (struct qed_image *img, const struct qed_write_options *opts)
{
  switch (qed_make_writable (img, opts)) {
  case 0:
    return qed_copier_check (img, &options) == -1 ? library_error () : 0;
  case 1:
    complain ("%s: %s=true copies into the image, so it must be writable",
              qed_get_error (), key ());
    return -1;
  default:
    return library_error ();
  }
}

struct qed_copier *
copying_start (struct qed_image *img)
{
  struct qed_copy_options opts = options;
  struct qed_copier *c;

  opts.say = say;
  opts.progress = progress;
  opts.opaque = img;
  c = qed_copier_start (img, &opts);
  if (c == NULL)
    library_error ();
  return c;
}
