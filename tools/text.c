/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Human-readable text, sizes to and from text, and progress on a terminal. */

#include <config.h>

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "qed-img.h"

int exit_failure = EXIT_FAILURE;

void
out_of_memory (void)
{
  fputs ("qed-img: out of memory\n", stderr);
  exit (exit_failure);
}

char *
xvasprintf (const char *fmt, va_list args)
{
  char *s;

  if (vasprintf (&s, fmt, args) == -1)
    out_of_memory ();
  return s;
}

char *
xasprintf (const char *fmt, ...)
{
  va_list args;
  char *s;

  va_start (args, fmt);
  s = xvasprintf (fmt, args);
  va_end (args);
  return s;
}

/* Table 3-7 of the Unicode standard: no overlong forms, no surrogates. */
size_t
utf8_length (const char *s)
{
  static const struct {
    unsigned char first_min, first_max, second_min, second_max;
    size_t length;
  } forms[] = {
    { 0xc2, 0xdf, 0x80, 0xbf, 2 },
    { 0xe0, 0xe0, 0xa0, 0xbf, 3 },
    { 0xe1, 0xec, 0x80, 0xbf, 3 },
    { 0xed, 0xed, 0x80, 0x9f, 3 },
    { 0xee, 0xef, 0x80, 0xbf, 3 },
    { 0xf0, 0xf0, 0x90, 0xbf, 4 },
    { 0xf1, 0xf3, 0x80, 0xbf, 4 },
    { 0xf4, 0xf4, 0x80, 0x8f, 4 },
  };
  const unsigned char *u = (const unsigned char *) s;

  if (u[0] < 0x80)
    return 1;
  for (size_t i = 0; i < sizeof forms / sizeof forms[0]; ++i)
    if (u[0] >= forms[i].first_min && u[0] <= forms[i].first_max &&
        u[1] >= forms[i].second_min && u[1] <= forms[i].second_max) {
      size_t n = 2;

      while (n < forms[i].length && (u[n] & 0xc0) == 0x80)
        n++;
      return n == forms[i].length ? n : 0;
    }
  return 0;
}

/* Write S as a line.  Escape invalid UTF-8, and control characters, which
 * could change the terminal or the text around them.
 */
static void
put_line (FILE *out, const char *s)
{
  while (*s) {
    size_t control = qed_control_length (s), n = utf8_length (s);

    if (control == 0 && n > 0) {
      fwrite (s, 1, n, out);
      s += n;
      continue;
    }
    for (n = control ? control : 1; n > 0; --n)
      fprintf (out, "\\x%02x", (unsigned char) *s++);
  }
  putc ('\n', out);
}

void
say (FILE *out, const char *fmt, ...)
{
  va_list args;
  char *s;

  va_start (args, fmt);
  s = xvasprintf (fmt, args);
  va_end (args);
  put_line (out, s);
  free (s);
}

void
complain (const char *fmt, ...)
{
  va_list args;
  char *s;

  va_start (args, fmt);
  s = xvasprintf (fmt, args);
  va_end (args);
  say (stderr, "qed-img: %s", s);
  free (s);
}

void
complain_unshared (void)
{
  complain ("%s%s", qed_get_error (),
            errno == EBUSY ? ", or add -U to read it anyway" : "");
}

/* Double a fraction, given as its decimals, in place.  Return the carry, which
 * is the next binary digit.
 */
static unsigned
double_decimals (char *decimals)
{
  unsigned carry = 0;

  for (size_t i = strlen (decimals); i-- > 0; ) {
    unsigned d = 2 * (unsigned) (decimals[i] - '0') + carry;

    carry = d >= 10;
    decimals[i] = (char) ('0' + d % 10);
  }
  return carry;
}

/* Compute INTEGER.DECIMALS times 2^SHIFT exactly, and round to nearest, as
 * qemu-img does.  Return -1 if the result is 2^64 or more.
 */
static int
scale (uint64_t integer, char *decimals, unsigned shift, uint64_t *result)
{
  bool overflow = false;

  for (; shift > 0; --shift) {
    overflow |= __builtin_mul_overflow (integer, 2, &integer);
    integer += double_decimals (decimals); /* integer is even: no overflow */
  }
  overflow |= __builtin_add_overflow (integer, double_decimals (decimals),
                                      result);
  return overflow ? -1 : 0;
}

int
parse_size (const char *s, uint64_t *size)
{
  static const char suffixes[] = "BKMGTPE", digits[] = "0123456789";
  size_t n = strspn (s, digits), n_decimals = 0;
  const char *suffix = suffixes;
  char *decimals, *end;
  uint64_t integer;
  int r = -1;

  errno = 0;
  integer = strtoull (s, &end, 10);
  if (n == 0 || errno != 0)
    return -1;
  if (*end == '.') {
    n_decimals = strspn (++end, digits);
    if (n_decimals == 0)
      return -1;
  }
  decimals = xasprintf ("%.*s", (int) n_decimals, end);
  end += n_decimals;
  if (*end)
    suffix = strchr (suffixes, toupper ((unsigned char) *end++));

  if (suffix && *end == '\0' &&
      (suffix > suffixes || strspn (decimals, "0") == n_decimals))
    r = scale (integer, decimals, 10 * (unsigned) (suffix - suffixes), size);
  free (decimals);
  return r;
}

char *
human_size (uint64_t size)
{
  static const char *const units[] = {
    "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB",
  };
  double d = (double) size;
  size_t i = 0;

  for (; d >= 999.5; ++i)
    d /= 1024;
  return xasprintf ("%.3g %s", d, units[i]);
}

char *
human_percent (uint64_t part, uint64_t whole)
{
  double percent = 100 * (double) part / (double) whole;

  return part > 0 && percent < 0.05 ? xasprintf ("<0.1") :
    xasprintf ("%.1f", percent);
}

/* The least time between two updates of the progress line.  More of them would
 * only slow down a slow terminal.
 */
#define PROGRESS_NS 100000000

static void
show_progress (void *opaque, uint64_t done, uint64_t total)
{
  struct progress *p = opaque;
  struct timespec now;

  clock_gettime (CLOCK_MONOTONIC, &now);
  if (p->shown && done < total &&
      (now.tv_sec - p->last.tv_sec) * 1000000000LL +
      (now.tv_nsec - p->last.tv_nsec) < PROGRESS_NS)
    return;
  printf ("    (%.2f/100%%)\r",
          total ? 100 * (double) done / (double) total : 100);
  fflush (stdout);
  p->shown = true;
  p->last = now;
}

const struct qed_progress *
progress_start (struct progress *p, bool wanted)
{
  *p = (struct progress) { .callback = { show_progress, p } };
  return wanted && isatty (STDOUT_FILENO) ? &p->callback : NULL;
}

void
progress_end (struct progress *p)
{
  if (p->shown)
    putchar ('\n');
  p->shown = false;
}
