/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* JSON output with json-c.  All functions exit if there is no memory. */

#include <config.h>

#include <string.h>

#include <json-c/json.h>

#include "qed-img.h"

void
add_json (json_object *o, const char *key, json_object *value)
{
  if (o == NULL || value == NULL ||
      json_object_object_add (o, key, value) < 0)
    out_of_memory ();
}

void
add_number (json_object *o, const char *key, uint64_t value)
{
  add_json (o, key, json_object_new_uint64 (value));
}

/* JSON is UTF-8.  Invalid bytes become U+FFFD, the replacement character. */
void
add_string (json_object *o, const char *key, const char *value)
{
  char *utf8 = malloc (3 * strlen (value) + 1), *to = utf8;

  if (utf8 == NULL)
    out_of_memory ();
  for (const char *s = value; *s; ) {
    size_t n = utf8_length (s);

    to = n ? mempcpy (to, s, n) : stpcpy (to, "\xef\xbf\xbd");
    s += n ? n : 1;
  }
  *to = '\0';
  add_json (o, key, json_object_new_string (utf8));
  free (utf8);
}

/* Print the control character of N bytes at S as a JSON escape.  One \u is
 * enough: all control characters are in the Basic Multilingual Plane.
 */
static void
escape_control (const char *s, size_t n)
{
  unsigned c = (unsigned char) s[0];

  if (n > 1)
    c &= 0xffU >> (n + 1);
  for (size_t i = 1; i < n; ++i)
    c = c << 6 | ((unsigned char) s[i] & 0x3f);
  printf ("\\u%04x", c);
}

/* json-c escapes only the control characters that JSON forbids in strings.
 * Escape the others too.  Apart from the line feeds that json-c adds, control
 * characters occur in strings only.
 */
void
print_json (json_object *o)
{
  const char *s =
    json_object_to_json_string_ext (o, JSON_C_TO_STRING_PRETTY |
                                    JSON_C_TO_STRING_SPACED |
                                    JSON_C_TO_STRING_NOSLASHESCAPE);

  if (s == NULL)
    out_of_memory ();
  while (*s) {
    size_t n = *s == '\n' ? 0 : qed_control_length (s);

    if (n > 0)
      escape_control (s, n);
    else
      putchar (*s);
    s += n ? n : 1;
  }
  putchar ('\n');
  json_object_put (o);
}
