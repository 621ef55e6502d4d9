/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The parameters that say where the image is, of which exactly one must be
 * given: file=, uri=, command= with arg=, fd= and dir=.
 *
 * Whatever can be wrong with them is found while nbdkit is in the foreground.
 * nbdkit changes its directory when it goes into the background, so names are
 * made absolute, that of the program too: it may be started again.
 */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "plugin.h"

#define ALL_KEYS "file=, uri=, command=, fd= and dir="

static const char *given;       /* the key of the one that was given */
static char *path;              /* file=, dir=: absolute */
static const char *export_uri;  /* uri= */
static int passed_fd = -1;      /* fd= */

/* command= and arg=: a list that ends with a NULL.  The first is PROGRAM. */
static const char **command;
static size_t nr_words;
static char *program;

static bool
starts_with (const char *s, const char *prefix)
{
  return strncasecmp (s, prefix, strlen (prefix)) == 0;
}

static int
parse_file (const char *value)
{
  if (qed_is_nbd_uri (value)) {
    complain ("file=%s: is an NBD URI: add uri= before it, or ./ if it is "
              "the name of a file", value);
    return -1;
  }
  path = nbdkit_absolute_path (value);
  return path ? 0 : -1;
}

static int
check_libnbd (const char *key, const char *value)
{
  if (qed_have_libnbd)
    return 0;
  complain ("%s=%s: this needs libnbd, but nbdkit-qed was built without it",
            key, value);
  return -1;
}

static int
parse_uri (const char *value)
{
  const char *hint =
    starts_with (value, "http:") || starts_with (value, "https:") ?
    ": what a web server has can be read with command=nbdkit arg=curl arg=" :
    starts_with (value, "nbd+vsock:") || starts_with (value, "nbds+vsock:") ?
    ": vsock works with command=nbdkit arg=nbd arg=uri=" : NULL;

  if (!qed_is_nbd_uri (value)) {
    complain ("uri=%s: must begin with nbd://, nbds://, nbd+unix:// or "
              "nbds+unix://%s%s", value, hint ? hint : "", hint ? value : "");
    return -1;
  }
  export_uri = value;
  return check_libnbd ("uri", value);
}

static int
add_word (const char *word)
{
  const char **words = realloc (command, (nr_words + 2) * sizeof *words);

  if (words == NULL) {
    complain ("realloc: %m");
    return -1;
  }
  command = words;
  command[nr_words++] = word;
  command[nr_words] = NULL;
  return 0;
}

/* Set PROGRAM to what NAME without a slash is in PATH, as a shell finds it. */
static int
search_program (const char *name)
{
  const char *dirs = getenv ("PATH");

  while (dirs && *dirs) {
    const int len = (int) strcspn (dirs, ":");
    char *file;

    if (asprintf (&file, "%.*s/%s", len, dirs, name) == -1) {
      complain ("command=%s: %m", name);
      return -1;
    }
    if (len > 0 && access (file, X_OK) == 0)
      program = nbdkit_absolute_path (file);
    free (file);
    if (program)
      return 0;
    dirs += len;
    dirs += *dirs == ':';
  }
  complain ("command=%s: there is no such program in PATH", name);
  return -1;
}

static int
parse_command (const char *value)
{
  struct stat st;

  if (check_libnbd ("command", value) == -1)
    return -1;
  if (strchr (value, '/') || *value == '\0') {
    program = nbdkit_absolute_path (value);
    if (program == NULL)
      return -1;
  }
  else if (search_program (value) == -1)
    return -1;
  if (stat (program, &st) == -1 || access (program, X_OK) == -1) {
    complain ("command=%s: %m", value);
    return -1;
  }
  if (!S_ISREG (st.st_mode)) {
    complain ("command=%s: isn't a program", value);
    return -1;
  }
  return add_word (program);
}

static int
parse_fd (const char *value)
{
  struct qed_storage *st;

  if (nbdkit_parse_int ("fd", value, &passed_fd) == -1)
    return -1;
  if (passed_fd <= STDERR_FILENO) {
    complain ("fd=%s: must be greater than 2, because 0, 1 and 2 are stdin, "
              "stdout and stderr", value);
    return -1;
  }
  st = qed_storage_find_fd (passed_fd);
  if (st == NULL)
    return library_error ();
  qed_storage_close (st);
  fcntl (passed_fd, F_SETFD, FD_CLOEXEC); /* no program needs it */
  return 0;
}

static int
parse_dir (const char *value)
{
  struct stat st;

  path = nbdkit_realpath (value);
  if (path == NULL)
    return -1;
  if (stat (path, &st) == -1) {
    complain ("dir=%s: %m", value);
    return -1;
  }
  if (!S_ISDIR (st.st_mode)) {
    complain ("dir=%s: must be a directory: an image is given with file=",
              value);
    return -1;
  }
  return 0;
}

/* Of the keys, NULL at the end: how is the value parsed? */
static const struct source {
  const char *key;
  int (*parse) (const char *value);
} sources[] = {
  { "file", parse_file },
  { "uri", parse_uri },
  { "command", parse_command },
  { "fd", parse_fd },
  { "dir", parse_dir },
  { NULL, NULL },
};

static int
parse_arg (const char *value)
{
  if (command == NULL) {
    complain ("arg=%s: must come after command=, which names the program "
              "that it is an argument of", value);
    return -1;
  }
  return add_word (value);
}

int
source_config (const char *key, const char *value)
{
  const struct source *s = sources;

  if (strcmp (key, "arg") == 0)
    return parse_arg (value);
  while (s->key && strcmp (key, s->key) != 0)
    ++s;
  if (s->key == NULL)
    return 1;
  if (given) {
    complain ("%s=%s: %s= was given already: exactly one of " ALL_KEYS
              " can be given", key, value, given);
    return -1;
  }
  given = s->key;
  return s->parse (value);
}

int
source_config_complete (void)
{
  if (given)
    return 0;
  complain ("there is no image to serve: exactly one of " ALL_KEYS " must be "
            "given after the plugin name on the command line");
  return -1;
}

const char *
source_directory (void)
{
  return strcmp (given, "dir") == 0 ? path : NULL;
}

struct qed_storage *
source_find (void)
{
  return export_uri ? qed_storage_open_uri (export_uri) :
    command ? qed_storage_open_command (command) :
    passed_fd >= 0 ? qed_storage_find_fd (passed_fd) :
    qed_storage_find (path);
}

void
source_unload (void)
{
  free (command);
  free (program);
  free (path);
}
