/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The disks of convert, compare and measure: images with all that is below
 * them, or raw.
 */

#include <config.h>

#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "qed-img.h"

/* ---- signals ---- */

static volatile sig_atomic_t interrupted;

/* How many seconds the end may take that leaves nothing behind. */
#define END_SECONDS 2

static void
note_signal (int sig)
{
  interrupted = sig;
  alarm (END_SECONDS);
}

static void
give_up (int sig __attribute__ ((unused)))
{
  static const char message[] = "qed-img: interrupted\n";

  const char *unfinished = qed_unfinished_file;

  if (unfinished)
    unlink (unfinished);
  if (write (STDERR_FILENO, message, sizeof message - 1) == -1)
    _exit (EXIT_FAILURE);
  _exit (EXIT_FAILURE);
}

static bool
is_interrupted (void)
{
  return interrupted;
}

void
catch_signals (void)
{
  const struct sigaction note = {
    .sa_handler = note_signal, .sa_flags = (int) SA_RESETHAND,
  };
  const struct sigaction late = { .sa_handler = give_up };

  sigaction (SIGALRM, &late, NULL);
  sigaction (SIGHUP, &note, NULL);
  sigaction (SIGINT, &note, NULL);
  sigaction (SIGTERM, &note, NULL);
  qed_interrupted = is_interrupted;
}

/* ---- formats ---- */

const char *
option_disk_format (const char *option, const char *value)
{
  if (strcmp (value, "raw") != 0 && strcmp (value, "qed") != 0)
    usage_error ("%s: format '%s': must be raw or qed: qemu-nbd -r -f %s FILE "
                 "serves another one, and its NBD URI can be given instead",
                 option, value, value);
  return value;
}

bool
option_target_format (const char *value)
{
  if (strcmp (value, "qed") == 0)
    return true;
  if (strcmp (value, "raw") != 0)
    usage_error ("-O: format '%s': must be raw or qed; this makes another "
                 "one of an image: nbdkit -r -U - qed FILE --run 'qemu-img "
                 "convert -p -f raw -O %s \"$uri\" NEW'", value, value);
  return false;
}

/* ---- opening ---- */

static struct qed_backing *
open_image (const char *name, const struct qed_chain_options *opts)
{
  struct qed_image *img = qed_open_chain (name, opts);
  struct qed_backing *b = img ? qed_backing_image (img) : NULL;

  if (b == NULL) {
    complain_unshared ();
    qed_close (img);
  }
  return b;
}

struct qed_backing *
open_disk (const char *name, const char *format, const char *option,
           const struct qed_chain_options *opts)
{
  struct qed_storage *st;
  struct qed_backing *b = NULL;

  if (format && strcmp (format, "qed") == 0)
    return open_image (name, opts);
  st = qed_storage_open (name, opts->lock);
  if (st && format == NULL)
    format = qed_probe (st);
  if (st && format && strcmp (format, "raw") == 0)
    b = qed_backing_raw (st);
  if (b)
    return b;
  qed_storage_close (st);
  if (st && format && strcmp (format, "qed") == 0)
    return open_image (name, opts);
  if (st && format && strcmp (format, "raw") != 0)
    complain ("%s: has the magic of format %s: %s raw says that it is a raw "
              "disk anyway", name, format, option);
  else
    complain_unshared ();
  return NULL;
}

struct qed_backing *
open_target_backing (const char *target, const char *name, const char *format,
                     const struct qed_chain_options *opts, bool *raw)
{
  struct qed_chain_options chain = *opts;
  struct qed_backing *b;
  char *path;

  chain.backing_format = NULL;  /* it is about another image */
  chain.lock = true;            /* as is -U */
  path = find_named (target, name);
  if (path == NULL)
    return NULL;
  b = open_disk (path, format, "-F", &chain);
  free (path);
  *raw = b && b->image == NULL;
  return b;
}

unsigned
default_threads (const char *source, const char *target)
{
  const long cpus = sysconf (_SC_NPROCESSORS_ONLN);

  if (qed_is_nbd_uri (source) || qed_is_nbd_uri (target) || cpus >= 4)
    return 8;
  return 4;
}
