/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Error messages.  As in libnbd, the message of a failure is kept in
 * thread-local storage beside errno.  So functions need no extra argument, no
 * lock is needed, and concurrent requests can't mix up their messages.
 *
 * Messages quote names that come from images, and end up on terminals.  So
 * qed_error replaces control characters in them (I9).
 */

#include <config.h>

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "error.h"

/* The longest message, about a refused backing file, quotes a few paths. */
static __thread char message[5 * PATH_MAX + 1024];

void (*qed_debug) (const char *fmt, ...);
bool qed_trace_tables;

/* The control characters of Unicode (C0, DEL and C1), its line and paragraph
 * separators, and the characters with the property Bidi_Control.
 */
size_t
qed_control_length (const char *s)
{
  static const struct {
    size_t length;
    unsigned char lead[2], min, max; /* of the last byte */
  } controls[] = {
    { 2, { 0xc2 },       0x80, 0x9f }, /* U+0080 .. U+009F */
    { 2, { 0xd8 },       0x9c, 0x9c }, /* U+061C */
    { 3, { 0xe2, 0x80 }, 0x8e, 0x8f }, /* U+200E, U+200F */
    { 3, { 0xe2, 0x80 }, 0xa8, 0xae }, /* U+2028 .. U+202E */
    { 3, { 0xe2, 0x81 }, 0xa6, 0xa9 }, /* U+2066 .. U+2069 */
  };

  if (*s && iscntrl ((unsigned char) *s))
    return 1;
  for (size_t i = 0; i < sizeof controls / sizeof controls[0]; ++i) {
    const size_t n = controls[i].length;

    if (strncmp (s, (const char *) controls[i].lead, n - 1) == 0) {
      unsigned char last = (unsigned char) s[n - 1];

      if (last >= controls[i].min && last <= controls[i].max)
        return n;
    }
  }
  return 0;
}

void
qed_mask_controls (char *s)
{
  while (*s) {
    size_t n = qed_control_length (s);

    memset (s, '?', n);
    s += n ? n : 1;
  }
}

int
qed_error (int err, const char *fmt, ...)
{
  va_list args;

  errno = err;
  va_start (args, fmt);
  vsnprintf (message, sizeof message, fmt, args);
  va_end (args);
  qed_mask_controls (message);
  errno = err;
  return -1;
}

const char *
qed_get_error (void)
{
  return message;
}
