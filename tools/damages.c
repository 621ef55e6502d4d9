/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The damaged ranges of a disk, for qed-img check.
 *
 * They are collected while the library reads the tables, and printed
 * afterwards.  An untrusted image can have any number of damaged entries (I9),
 * so only the ranges that will be printed are kept.  Once all are known, a
 * second pass of the library finds the other owners of shared clusters and
 * tables, for the ranges that will be printed.
 */

#include <config.h>

#include <inttypes.h>
#include <string.h>

#include "qed-img.h"

/* The most lines printed for one kind of damage, and owners on each line. */
#define MAX_SHOWN 100
#define MAX_OWNERS 3

/* The lowest ranges of one kind, unsorted until tidy is called.  Ranges at or
 * after CUT may be missing.
 */
#define MAX_RANGES 4096
struct range {
  uint64_t offset, length;      /* of the disk */
  uint64_t at;                  /* file offset of its data or of its L2 table;
                                   0: none */
};
struct ranges {
  struct range list[MAX_RANGES];
  size_t n;
  uint64_t cut;
  uint64_t beyond;              /* entries that map beyond the disk's end */
};

/* The other owners of the clusters or the table of a printed range. */
struct owners {
  struct owner {
    uint64_t offset, length;    /* of the disk; length 0: beyond its end */
    bool table;                 /* the owner is an L2 table that maps this */
  } list[MAX_OWNERS];
  size_t n;                     /* used elements of the list */
  uint64_t more;                /* entries that didn't fit in the list */
};

struct damages {
  struct qed_storage *st;       /* borrowed */
  uint64_t disk_size, table_bytes;
  struct ranges kinds[QED_NR_DAMAGES];
  struct owners owners[QED_NR_DAMAGES][MAX_SHOWN];
};

struct damages *
damages_new (struct qed_storage *st, const struct qed_header *h)
{
  struct damages *d = calloc (1, sizeof *d);

  if (d == NULL)
    out_of_memory ();
  d->st = st;
  d->disk_size = h->image_size;
  d->table_bytes = (uint64_t) h->table_size * h->cluster_size;
  for (size_t i = 0; i < QED_NR_DAMAGES; ++i)
    d->kinds[i].cut = UINT64_MAX;
  return d;
}

/* ---- ranges ---- */

static int
compare_ranges (const void *a, const void *b)
{
  uint64_t x = ((const struct range *) a)->offset;
  uint64_t y = ((const struct range *) b)->offset;

  return x < y ? -1 : x > y;
}

/* Is NEXT contiguous with R, on the disk and also in the file (or mapped by
 * the same table)?
 */
static bool
continues (const struct range *r, const struct range *next)
{
  return r->offset + r->length == next->offset &&
    (next->at == r->at || next->at == r->at + r->length);
}

/* Append NEXT to the N ranges of the list, or extend the last one by it. */
static size_t
append_range (struct range *list, size_t n, struct range next)
{
  if (n > 0 && continues (&list[n - 1], &next)) {
    list[n - 1].length += next.length;
    return n;
  }
  list[n] = next;
  return n + 1;
}

/* Sort the ranges, and merge contiguous ones. */
static void
tidy (struct ranges *r)
{
  size_t n = 0;

  qsort (r->list, r->n, sizeof r->list[0], compare_ranges);
  for (size_t i = 0; i < r->n; ++i)
    n = append_range (r->list, n, r->list[i]);
  r->n = n;
}

static void
add_range (struct ranges *r, struct range next)
{
  if (r->n == MAX_RANGES) {
    tidy (r);
    if (r->n > MAX_RANGES / 2) {
      r->n = MAX_RANGES / 2;
      r->cut = r->list[r->n].offset;
    }
  }
  if (next.offset < r->cut)
    r->n = append_range (r->list, r->n, next);
}

void
damages_add (void *opaque, enum qed_damage damage, uint64_t offset,
             uint64_t length, uint64_t file_offset)
{
  struct damages *d = opaque;
  struct ranges *r = &d->kinds[damage];

  if (length == 0 || offset >= d->disk_size)
    r->beyond++;
  else
    add_range (r, (struct range) {
        .offset = offset,
        .length = length < d->disk_size - offset ?
          length : d->disk_size - offset,
        .at = damage == QED_DAMAGE_UNSOUND ? 0 : file_offset,
      });
}

static size_t
nr_shown (const struct ranges *r)
{
  return r->n < MAX_SHOWN ? r->n : MAX_SHOWN;
}

/* ---- owners ---- */

/* The clusters or the table in the file that range R of one kind owns. */
static struct qed_file_range
file_range (const struct damages *d, size_t kind, const struct range *r)
{
  return (struct qed_file_range) {
    r->at, kind == QED_DAMAGE_SHARED_TABLE ? d->table_bytes : r->length
  };
}

static int
compare_file_ranges (const void *a, const void *b)
{
  uint64_t x = ((const struct qed_file_range *) a)->offset;
  uint64_t y = ((const struct qed_file_range *) b)->offset;

  return x < y ? -1 : x > y;
}

/* The file ranges of all ranges that will be printed, sorted and merged. */
static size_t
all_file_ranges (const struct damages *d,
                 struct qed_file_range all[QED_NR_DAMAGES * MAX_SHOWN])
{
  size_t n = 0, merged = 0;

  for (size_t kind = 0; kind < QED_NR_DAMAGES; ++kind)
    for (size_t i = 0; i < nr_shown (&d->kinds[kind]); ++i)
      if (d->kinds[kind].list[i].at != 0)
        all[n++] = file_range (d, kind, &d->kinds[kind].list[i]);
  qsort (all, n, sizeof *all, compare_file_ranges);
  for (size_t i = 0; i < n; ++i) {
    struct qed_file_range *last = all + merged - 1;

    if (merged == 0 || last->offset + last->length < all[i].offset)
      all[merged++] = all[i];
    else if (last->offset + last->length < all[i].offset + all[i].length)
      last->length = all[i].offset + all[i].length - last->offset;
  }
  return merged;
}

static void
add_owner (struct owners *o, struct owner next)
{
  struct owner *last = o->list + o->n - 1;

  if (o->n > 0 && o->more == 0 && next.table == last->table &&
      last->length > 0 && last->offset + last->length == next.offset)
    last->length += next.length;
  else if (o->n < MAX_OWNERS)
    o->list[o->n++] = next;
  else
    o->more++;
}

/* Callback of qed_find_owners: add an entry as an owner to each printed range
 * that it shares space with.
 */
static void
found_owner (void *opaque, uint64_t file_offset, uint64_t file_length,
             bool table, uint64_t offset, uint64_t length)
{
  struct damages *d = opaque;

  for (size_t kind = 0; kind < QED_NR_DAMAGES; ++kind)
    for (size_t i = 0; i < nr_shown (&d->kinds[kind]); ++i) {
      const struct range *r = &d->kinds[kind].list[i];
      struct qed_file_range f = file_range (d, kind, r);
      bool own_kind = table == (kind == QED_DAMAGE_SHARED_TABLE);

      if (r->at == 0 || f.offset >= file_offset + file_length ||
          file_offset >= f.offset + f.length)
        continue;
      /* Skip the range's own entries.  Skip data clusters in a shared table:
       * they are damage of another kind.
       */
      if ((own_kind && offset >= r->offset && offset - r->offset < r->length) ||
          (!own_kind && kind == QED_DAMAGE_SHARED_TABLE))
        continue;
      add_owner (&d->owners[kind][i], (struct owner) { offset, length, table });
    }
}

int
damages_find_owners (void *opaque)
{
  struct damages *d = opaque;
  struct qed_file_range all[QED_NR_DAMAGES * MAX_SHOWN];
  size_t n;

  for (size_t kind = 0; kind < QED_NR_DAMAGES; ++kind)
    tidy (&d->kinds[kind]);
  n = all_file_ranges (d, all);
  return n == 0 ? 0 : qed_find_owners (d->st, all, n, found_owner, d);
}

/* ---- output ---- */

/* Return S followed by MORE, and free both. */
static char *
append (char *s, char *more)
{
  char *r = xasprintf ("%s%s", s, more);

  free (s);
  free (more);
  return r;
}

/* ": also offset ...", or "".  The caller frees it. */
static char *
owners_text (const struct owners *o)
{
  char *s = xasprintf ("%s", o->n > 0 ? ": also " : "");

  for (const struct owner *i = o->list; i < o->list + o->n; ++i) {
    if (i > o->list)
      s = append (s, xasprintf (", "));
    s = append (s, xasprintf ("%s", i->table ? "the L2 table of " : ""));
    if (i->length == 0)
      s = append (s, xasprintf ("beyond the end of the disk"));
    else
      s = append (s, xasprintf ("offset %#" PRIx64 ", length %#" PRIx64,
                                i->offset, i->length));
  }
  if (o->more)
    s = append (s, xasprintf (", and %" PRIu64 " more", o->more));
  return s;
}

static void
print_range (FILE *out, uint64_t offset, uint64_t length,
             const struct owners *owners)
{
  char *size = human_size (length), *others = owners_text (owners);

  say (out, "    offset %#" PRIx64 ", length %#" PRIx64 " (%s)%s", offset,
       length, size, others);
  free (size);
  free (others);
}

static void
print_ranges (FILE *out, struct ranges *r, const struct owners *owners)
{
  size_t n;

  tidy (r);
  n = nr_shown (r);
  for (size_t i = 0; i < n; ++i)
    print_range (out, r->list[i].offset,
                 r->list[i].length < r->cut - r->list[i].offset ?
                 r->list[i].length : r->cut - r->list[i].offset, &owners[i]);
  if (r->cut < UINT64_MAX)
    say (out, "    and more, from offset %#" PRIx64 " on",
         n < r->n ? r->list[n].offset : r->cut);
  else if (n < r->n)
    say (out, "    and %zu more, from offset %#" PRIx64 " on", r->n - n,
         r->list[n].offset);
  if (r->beyond)
    say (out, "    beyond the end of the disk: %" PRIu64, r->beyond);
}

void
damages_print (FILE *out, const struct qed_check_result *result,
               struct damages *d, bool repaired)
{
  static const char *const texts[QED_NR_DAMAGES][2] = {
    [QED_DAMAGE_UNSOUND] = {
      "Table entries out of range: what they map can't be read",
      "Table entries out of range, cleared: what they mapped is lost" },
    [QED_DAMAGE_SHARED_TABLE] = {
      "L2 tables that overlap with another one",
      "L2 tables that overlapped with another one, copied: one of the two "
      "maps the wrong data" },
    [QED_DAMAGE_IN_TABLE] = {
      "Data clusters inside a table",
      "Data clusters inside a table, copied: one of the two is wrong" },
    [QED_DAMAGE_SHARED_DATA] = {
      "Data clusters with another owner",
      "Data clusters with another owner, copied: the content of one of the "
      "two is wrong" },
  };

  for (size_t i = 0; i < QED_NR_DAMAGES; ++i) {
    if (result->damages[i] == 0)
      continue;
    say (out, "%s: %" PRIu64, texts[i][repaired], result->damages[i]);
    print_ranges (out, &d->kinds[i], d->owners[i]);
    say (out, "%s", "");
  }
}
