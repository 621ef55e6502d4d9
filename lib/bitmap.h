/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Bitmaps, and sets of clusters of a file.
 *
 * A file may have 2^51 clusters, and a hostile one may refer to a few of them
 * anywhere.  The memory of a set must be bounded whatever the length of the
 * file (I9), and building it must not take a second pass over the tables.  So
 * a set has two parts:
 *
 *     clusters below FLAT_CLUSTERS     a plain bitmap, whose untouched pages
 *                                      take no memory.  Nearly every image
 *                                      needs this part only
 *     the clusters after those         chunks of 512 clusters, found through a
 *                                      hash table.  Only chunks with a member
 *                                      exist
 *
 * Memory is a bit for each cluster of the first part, plus at most 80 bytes
 * for each chunk, of which there are at most MAX_CHUNKS.
 *
 * Nothing here is locked: a bitmap or set that is being changed belongs to one
 * thread.
 */

#ifndef QED_BITMAP_H
#define QED_BITMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- bitmaps ---- */

/* A new bitmap of BITS zeros, whose pages take memory only once they are
 * written.  NULL: ENOMEM, with a message about the file NAME.  The caller
 * frees it, giving the same BITS; a NULL bitmap may be freed too.
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

struct qed_set {
  const char *name;             /* of the file, for messages; borrowed */
  uint64_t flat_clusters;       /* the number of bits in FLAT */
  uint8_t *flat;                /* owned */

  struct qed_chunk *chunks;     /* owned; NR_CHUNKS of ALLOCATED in use */
  uint32_t nr_chunks, allocated;
  uint32_t *index;              /* owned: the hash table; a slot is 0, or 1 +
                                   the place of a chunk in CHUNKS */
  uint32_t index_mask;          /* the slots of INDEX, a power of 2, minus 1 */
};

/* Initialise S as an empty set.  Its members are numbers below CLUSTERS of
 * clusters of the file NAME.  -1: ENOMEM, with a message; S must be destroyed
 * even then.  Destroying a set that is all zeros does nothing.
 */
extern int qed_set_init (struct qed_set *s, uint64_t clusters,
                         const char *name);
extern void qed_set_destroy (struct qed_set *s);

/* The same as the next two, for clusters from FLAT_CLUSTERS on. */
extern bool qed_set_has_far (const struct qed_set *s, uint64_t cluster);
extern int qed_set_add_far (struct qed_set *s, uint64_t cluster);

static inline bool
qed_set_has (const struct qed_set *s, uint64_t cluster)
{
  return cluster < s->flat_clusters ? qed_bit (s->flat, cluster) :
    qed_set_has_far (s, cluster);
}

/* -1, with a message: ENOMEM, or EFBIG if the members would take more than
 * MAX_CHUNKS chunks.
 */
static inline int
qed_set_add (struct qed_set *s, uint64_t cluster)
{
  if (cluster >= s->flat_clusters)
    return qed_set_add_far (s, cluster);
  qed_set_bit (s->flat, cluster);
  return 0;
}

#endif /* QED_BITMAP_H */
