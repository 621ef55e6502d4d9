/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Option --stats of qed-img info: how an image uses its clusters, found by one
 * walk over its tables, without locks, as they are in the file now.
 */

#include <config.h>

#include <inttypes.h>

#include <json-c/json.h>

#include "qed-img.h"

int
stats_read (struct qed_storage *st, const struct qed_header *h, uint64_t below,
            struct stats *s)
{
  const struct qed_check_options opts = { .below = below };
  uint64_t file;

  if (qed_check (st, &opts, &s->check) == -1)
    return -1;
  file = st->fixed_size ? s->check.end : s->check.file_size;
  s->reserved = check_take_reserved (st, h->cluster_size, &s->check);
  s->leaked = s->check.leaks * h->cluster_size;
  /* The file may end with a part of a cluster, which isn't used. */
  s->file = file - s->reserved;
  s->used = s->file / h->cluster_size * h->cluster_size - s->leaked;
  return 0;
}

/* Print a count of clusters and its share of WHOLE. */
static void
print_share (const char *what, uint64_t count, uint64_t whole)
{
  say (stdout, "    %s: %" PRIu64 " of %" PRIu64 " (%.2f%%)", what, count,
       whole, whole ? 100 * (double) count / (double) whole : 0.0);
}

void
stats_print (const struct stats *s)
{
  const struct qed_check_result *c = &s->check;
  char *used = human_size (s->used), *file = human_size (s->file);
  char *leaked = human_size (s->leaked), *reserved = human_size (s->reserved);

  say (stdout, "Statistics:");
  print_share ("allocated clusters", c->allocated_clusters, c->total_clusters);
  print_share ("zero clusters", c->zero_clusters, c->total_clusters);
  print_share ("fragmented clusters", c->fragmented_clusters,
               c->allocated_clusters);
  say (stdout, "    file space in use: %s of %s (%.2f%%)", used, file,
       100 * (double) s->used / (double) s->file);
  say (stdout, "    leaked clusters: %" PRIu64 " (%s)", c->leaks, leaked);
  if (s->reserved)
    say (stdout, "    reserved by the program that has it open: %s", reserved);
  if (c->corruptions)
    say (stdout, "    corruptions: %" PRIu64 ": qed-img check tells which",
         c->corruptions);
  free (used);
  free (file);
  free (leaked);
  free (reserved);
}

json_object *
stats_json (const struct stats *s)
{
  const struct qed_check_result *c = &s->check;
  json_object *o = json_object_new_object ();

  add_number (o, "total-clusters", c->total_clusters);
  add_number (o, "allocated-clusters", c->allocated_clusters);
  add_number (o, "zero-clusters", c->zero_clusters);
  add_number (o, "fragmented-clusters", c->fragmented_clusters);
  add_number (o, "leaked-clusters", c->leaks);
  add_number (o, "corruptions", c->corruptions);
  add_number (o, "image-end-offset", c->end);
  add_number (o, "bytes-used", s->used);
  add_number (o, "bytes-reserved", s->reserved);
  return o;
}
