/* nbdkit-qed
 * Copyright (C) 2026 nbdkit-qed authors
 *
 * Redistribution and use in source and binary forms, with or without
 * modification, are permitted provided that the following conditions are
 * met:
 *
 * * Redistributions of source code must retain the above copyright
 * notice, this list of conditions and the following disclaimer.
 *
 * * Redistributions in binary form must reproduce the above copyright
 * notice, this list of conditions and the following disclaimer in the
 * documentation and/or other materials provided with the distribution.
 *
 * * Neither the name of nbdkit-qed nor the names of its contributors may be
 * used to endorse or promote products derived from this software without
 * specific prior written permission.
 *
 * THIS SOFTWARE IS PROVIDED BY THE AUTHORS AND CONTRIBUTORS ''AS IS'' AND
 * ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO,
 * THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A
 * PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE AUTHORS OR
 * CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
 * SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT
 * LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF
 * USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND
 * ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY,
 * OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT
 * OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF
 * SUCH DAMAGE.
 */

/* JSON, by json-c.  What has no memory exits. */

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

/* JSON is UTF-8: what isn't becomes U+FFFD, the replacement character. */
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

/* The control character of N bytes at S, as JSON writes a character of the
 * Basic Multilingual Plane; all of them are in it.
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

/* Json-c escapes the control characters that JSON forbids in strings.  Other
 * ones stay, but for its own line feeds only strings have any.
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
