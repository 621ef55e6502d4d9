/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Bitmaps, and sets of clusters of a file.
 *
 * A file may have 2^51 clusters, and a hostile one refers to a few of them
 * anywhere.  A set must not cost what the file is long, nor may it need a
 * second pass over the tables.  So there are two parts:
 *
 *     clusters below FLAT_CLUSTERS     a plain bitmap, whose untouched pages
 *                                      take no memory: all there is in nearly
 *                                      every image
 *     clusters behind                  chunks of 512 clusters, found through a
 *                                      hash table, only those that have a
 *                                      member
 *
 * Memory is a bit for each cluster, plus at most 80 bytes for a chunk.  The
 * number of chunks is limited (MAX_CHUNKS).
 */

#ifndef QED_BITMAP_H
#define QED_BITMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- bitmaps ---- */

/* BITS zeros, which take memory only when they are set, to be freed with the
 * same size.  NULL: ENOMEM, and a message names NAME.
 */
extern uint8_t *qed_bitmap_new (uint64_t bits, const char *name);
extern void qed_bitmap_free (uint8_t *bitmap, uint64_t bits);

static inline bool
qed_bit (const uint8_t *bitmap, uint64_t i)
{
  return bitmap[i / 8] & 1U << i % 8;
}

static inline void
qed_set_bit (uint8_t *bitmap, uint64_t i)
{
  bitmap[i / 8] |= (uint8_t) (1U << i % 8);
}

/* ---- sets ---- */

struct qed_chunk;

/* Not locked: one thread at a time. */
struct qed_set {
  const char *name;             /* of the file, for messages; borrowed */
  uint64_t flat_clusters;       /* FLAT has so many bits */
  uint8_t *flat;                /* owned */

  struct qed_chunk *chunks;     /* owned; NR_CHUNKS of ALLOCATED in use */
  uint32_t nr_chunks, allocated;
  uint32_t *index;              /* owned: the hash table, chunk number + 1 */
  uint32_t index_mask;
};

/* Let S be an empty set of clusters below CLUSTERS.  S is to be destroyed, also
 * after a failure (-1: ENOMEM).
 */
extern int qed_set_init (struct qed_set *s, uint64_t clusters,
                         const char *name);
extern void qed_set_destroy (struct qed_set *s);

/* The part of the two below that isn't a plain bitmap. */
extern bool qed_set_has_far (const struct qed_set *s, uint64_t cluster);
extern int qed_set_add_far (struct qed_set *s, uint64_t cluster);

static inline bool
qed_set_has (const struct qed_set *s, uint64_t cluster)
{
  return cluster < s->flat_clusters ? qed_bit (s->flat, cluster) :
    qed_set_has_far (s, cluster);
}

/* -1: ENOMEM, or EFBIG: the members are spread too far. */
static inline int
qed_set_add (struct qed_set *s, uint64_t cluster)
{
  if (cluster >= s->flat_clusters)
    return qed_set_add_far (s, cluster);
  qed_set_bit (s->flat, cluster);
  return 0;
}

#endif /* QED_BITMAP_H */
