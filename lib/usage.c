/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* What the clusters of an image file are used for.
 *
 * A cluster may have more than one owner, and which ones is known only when
 * all tables have been read.  So they are read twice: first for the clusters
 * that are shared, then each cluster is told, when its first owner is met.
 *
 * Nothing is told of clusters without an owner, of which a sparse file may
 * have any number: the caller subtracts.  So time depends on the tables only,
 * and memory is that of a check and one more set of clusters (I9).
 *
 * As in a check, an L2 table that overlaps with that of an earlier L1 entry
 * isn't followed.
 */

#include <config.h>

#include <stdlib.h>

#include "check.h"
#include "format.h"
#include "image.h"
#include "storage.h"

struct user {
  struct qed_walk *w;
  uint8_t *skip;                /* L1 entries that aren't followed */
  struct qed_set shared;        /* clusters with two owners or more */
  struct qed_set seen;          /* in each round, those with an owner so far */

  qed_use_fn *fn;
  void *opaque;

  /* Not told yet, unless LENGTH is 0: */
  enum qed_use use;
  uint64_t offset, length;

  uint64_t l1_index;            /* of the table that was looked at last */
  uint64_t end;                 /* of the last cluster in use, in bytes */
};

/* ---- telling ---- */

static void
tell (struct user *u)
{
  if (u->length > 0)
    u->fn (u->opaque, u->use, u->offset, u->length);
  u->length = 0;
}

/* Tell of a range, merged with the one before it if it continues that. */
static void
add_range (struct user *u, enum qed_use use, uint64_t offset, uint64_t length)
{
  if (offset + length > u->end)
    u->end = offset + length;
  if (u->length > 0 && use == u->use && offset == u->offset + u->length) {
    u->length += length;
    return;
  }
  tell (u);
  u->use = use;
  u->offset = offset;
  u->length = length;
}

/* Tell of CLUSTER, if it wasn't told before. */
static int
add_cluster (struct user *u, enum qed_use use, uint64_t cluster)
{
  const unsigned bits = u->w->g.cluster_bits;

  if (qed_set_has (&u->seen, cluster))
    return 0;
  if (qed_set_add (&u->seen, cluster) == -1)
    return -1;
  add_range (u, qed_set_has (&u->shared, cluster) ? QED_USE_SHARED : use,
             cluster << bits, UINT64_C (1) << bits);
  return 0;
}

static void
tell_damage (const struct user *u, uint64_t index)
{
  u->fn (u->opaque, QED_USE_DAMAGED, qed_entry_place (u->w, index),
         sizeof (uint64_t));
}

/* ---- first round: what is shared ---- */

/* The clusters of L2 tables. */
static int
note_table (void *opaque, uint64_t index __attribute__ ((unused)),
            uint64_t *entry)
{
  struct user *u = opaque;
  const struct qed_geometry *g = &u->w->g;
  const uint64_t first = *entry >> g->cluster_bits;
  const uint64_t end = first + (g->table_bytes >> g->cluster_bits);

  if (!qed_entry_sound (g, *entry, g->table_bytes, u->w->file_end, 0))
    return 0;
  for (uint64_t i = first; i < end; ++i)
    if (qed_set_add (qed_set_has (&u->seen, i) ? &u->shared : &u->seen,
                     i) == -1)
      return -1;
  return 0;
}

static int
note_data (void *opaque, uint64_t index __attribute__ ((unused)),
           uint64_t *entry)
{
  struct user *u = opaque;

  return qed_set_add (&u->shared, *entry >> u->w->g.cluster_bits);
}

static int
find_shared (struct user *u)
{
  if (qed_find_shared_tables (u->w, &u->skip) == -1)
    return -1;
  return qed_walk_l1 (u->w, note_table, u) == -1 ? -1 :
    qed_find_shared (u->w, false, note_data, u);
}

/* ---- second round ---- */

static int
use_l1_entry (void *opaque, uint64_t index, uint64_t *entry)
{
  struct user *u = opaque;
  const struct qed_geometry *g = &u->w->g;
  const uint64_t first = *entry >> g->cluster_bits;
  const uint64_t end = first + (g->table_bytes >> g->cluster_bits);

  if (!qed_entry_sound (g, *entry, g->table_bytes, u->w->file_end, 0)) {
    tell_damage (u, index);
    return 0;
  }
  if (qed_bit (u->skip, index))
    return 0; /* what it shares was told with an earlier table */
  for (uint64_t i = first; i < end; ++i)
    if (add_cluster (u, QED_USE_TABLE, i) == -1)
      return -1;
  return 0;
}

static int
use_l2_entry (void *opaque, uint64_t index, uint64_t *entry)
{
  struct user *u = opaque;
  const struct qed_geometry *g = &u->w->g;

  if (*entry == QED_ENTRY_ZERO)
    return 0;
  if (!qed_entry_sound (g, *entry, g->cluster_size, u->w->file_end,
                        u->w->table)) {
    tell_damage (u, index);
    return 0;
  }
  /* Tables come in the order of the file, which need not be the disk's. */
  if (u->w->l1_index != u->l1_index && u->w->l1_index != u->l1_index + 1)
    tell (u);
  u->l1_index = u->w->l1_index;
  return add_cluster (u, QED_USE_DATA, *entry >> g->cluster_bits);
}

static int
tell_all (struct user *u)
{
  const struct qed_geometry *g = &u->w->g;

  add_range (u, QED_USE_HEADER, 0, g->header_bytes);
  add_range (u, QED_USE_TABLE, g->l1_offset, g->table_bytes);
  if (qed_walk_l1 (u->w, use_l1_entry, u) == -1)
    return -1;
  u->w->skip = u->skip;
  if (qed_walk_l2 (u->w, use_l2_entry, u) == -1)
    return -1;
  tell (u);
  return 0;
}

/* ---- the call ---- */

static int
use_all (struct user *u)
{
  const char *name = u->w->st->name;
  const uint64_t clusters = u->w->file_end >> u->w->g.cluster_bits;

  if (qed_set_init (&u->shared, clusters, name) == -1 ||
      qed_set_init (&u->seen, clusters, name) == -1 ||
      find_shared (u) == -1)
    return -1;
  qed_set_destroy (&u->seen);
  return qed_set_init (&u->seen, clusters, name) == -1 ? -1 : tell_all (u);
}

int
qed_file_usage (const struct qed_image *img, qed_use_fn *fn, void *opaque,
                struct qed_usage *usage)
{
  int64_t size = qed_storage_size (img->st);
  struct qed_walk w;
  struct user u = { .w = &w, .fn = fn, .opaque = opaque };
  int r;

  if (size == -1 ||
      qed_walk_init (&w, img->st, &img->h, (uint64_t) size) == -1)
    return -1;
  usage->file_size = (uint64_t) size;
  r = use_all (&u);
  /* A device may be larger than what it holds. */
  usage->end = img->st->fixed_size ? u.end : w.file_end;
  qed_bitmap_free (u.skip, UINT64_C (1) << w.g.table_bits);
  qed_set_destroy (&u.shared);
  qed_set_destroy (&u.seen);
  qed_walk_free (&w);
  return r;
}
