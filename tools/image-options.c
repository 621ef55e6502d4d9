/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Options of a new image: what -o has, and its sizes. */

#include <config.h>

#include <string.h>

#include "qed-img.h"

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

void
parse_o (char *s, struct image_options *o)
{
  const struct {
    const char *name;
    const char **value;
  } known[] = {
    { "backing_file", &o->backing },
    { "backing_fmt", &o->backing_format },
    { "cluster_size", &o->cluster_size },
    { "size", &o->size },
    { "table_size", &o->table_size },
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

/* Parse ARG, the value of NAME, unless it is NULL.  The limit is MAX. */
static int
parse_number (const char *file, const char *name, const char *arg,
              uint64_t max, uint64_t *value)
{
  if (arg == NULL)
    return 0;
  if (parse_size (arg, value) == -1) {
    complain ("%s: %s '%s': is not a size: expected digits, optionally with "
              "decimals and a suffix (b k M G T P E), below 16E",
              file, name, arg);
    return -1;
  }
  if (*value > max) {
    complain ("%s: %s '%s': is too large: see qed-img create -o help",
              file, name, arg);
    return -1;
  }
  return 0;
}

int
parse_numbers (const struct image_options *o, const char *file,
               struct qed_create_options *opts)
{
  uint64_t cluster_size = QED_DEFAULT_CLUSTER_SIZE;
  uint64_t table_size = QED_DEFAULT_TABLE_SIZE;
  struct qed_header h = { .cluster_size = 0 };

  if (parse_number (file, "size", o->size, UINT64_MAX,
                    &opts->image_size) == -1 ||
      parse_number (file, "cluster_size", o->cluster_size, UINT32_MAX,
                    &cluster_size) == -1 ||
      parse_number (file, "table_size", o->table_size, UINT32_MAX,
                    &table_size) == -1)
    return -1;
  opts->cluster_size = h.cluster_size = (uint32_t) cluster_size;
  opts->table_size = h.table_size = (uint32_t) table_size;

  /* qed_create checks this too, but takes 0 for the default. */
  if (qed_header_check_sizes (&h, file) == -1) {
    complain ("%s", qed_get_error ());
    return -1;
  }
  return 0;
}
