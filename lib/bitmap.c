/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Bitmaps and sets of clusters: see bitmap.h. */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "bitmap.h"
#include "error.h"

/* ---- bitmaps ---- */

uint8_t *
qed_bitmap_new (uint64_t bits, const char *name)
{
  /* Not malloc: pages that are never touched then cost nothing. */
  uint8_t *p = mmap (NULL, bits / 8 + 1, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

  if (p == MAP_FAILED) {
    qed_error (errno, "%s: bitmap of %" PRIu64 " bytes: %m", name,
               bits / 8 + 1);
    return NULL;
  }
  return p;
}

void
qed_bitmap_free (uint8_t *bitmap, uint64_t bits)
{
  if (bitmap)
    munmap (bitmap, bits / 8 + 1);
}

/* ---- sets ---- */

/* 32 MiB of bits, enough for a file of 16 TiB with clusters of 64 KiB. */
#define FLAT_CLUSTERS (UINT64_C (1) << 28)

/* A chunk's bits fill a cache line of 64 bytes. */
#define CHUNK_BITS 9
#define CHUNK_WORDS ((1U << CHUNK_BITS) / 64)

/* 160 MiB of chunks.  Contiguous clusters of 64 KiB need as many in a file of
 * 80 TiB; only a hostile file scatters its clusters enough to need more.
 */
#define MAX_CHUNKS (UINT32_C (1) << 21)

struct qed_chunk {
  uint64_t number;              /* its first cluster, divided by 512 */
  uint64_t bits[CHUNK_WORDS];
};

int
qed_set_init (struct qed_set *s, uint64_t clusters, const char *name)
{
  *s = (struct qed_set) {
    .name = name,
    .flat_clusters = clusters < FLAT_CLUSTERS ? clusters : FLAT_CLUSTERS,
  };
  s->flat = qed_bitmap_new (s->flat_clusters, name);
  return s->flat ? 0 : -1;
}

void
qed_set_destroy (struct qed_set *s)
{
  qed_bitmap_free (s->flat, s->flat_clusters);
  free (s->chunks);
  free (s->index);
  *s = (struct qed_set) { .flat = NULL };
}

/* The slot of chunk NUMBER in the hash table, or the empty slot where it would
 * go.
 */
static uint32_t *
find_slot (const struct qed_set *s, uint64_t number)
{
  /* Fibonacci hashing: the upper bits of the product are well mixed. */
  uint32_t i = (uint32_t) (number * UINT64_C (0x9e3779b97f4a7c15) >> 32) &
    s->index_mask;

  while (s->index[i] != 0 && s->chunks[s->index[i] - 1].number != number)
    i = (i + 1) & s->index_mask;
  return &s->index[i];
}

/* Make room for twice as many chunks, and rebuild the hash table, which has
 * two slots for each.
 */
static int
grow (struct qed_set *s)
{
  uint32_t n = s->allocated ? 2 * s->allocated : 64;
  struct qed_chunk *chunks;

  if (n > MAX_CHUNKS)
    return qed_error (EFBIG, "%s: its clusters are spread over too large a "
                      "file to check it: it can only be read", s->name);
  chunks = realloc (s->chunks, n * sizeof *chunks);
  if (chunks == NULL)
    return qed_error (errno, "%s: %m", s->name);
  s->chunks = chunks;
  s->allocated = n;

  free (s->index);
  s->index_mask = 2 * n - 1;
  s->index = calloc (2 * (size_t) n, sizeof *s->index);
  if (s->index == NULL) {
    s->nr_chunks = 0;
    s->allocated = 0;
    return qed_error (errno, "%s: %m", s->name);
  }
  for (uint32_t i = 0; i < s->nr_chunks; ++i)
    *find_slot (s, chunks[i].number) = i + 1;
  return 0;
}

bool
qed_set_has_far (const struct qed_set *s, uint64_t cluster)
{
  uint32_t i = s->index ? *find_slot (s, cluster >> CHUNK_BITS) : 0;

  return i != 0 &&
    (s->chunks[i - 1].bits[cluster / 64 % CHUNK_WORDS] >> cluster % 64 & 1);
}

int
qed_set_add_far (struct qed_set *s, uint64_t cluster)
{
  const uint64_t number = cluster >> CHUNK_BITS;
  uint32_t i = s->index ? *find_slot (s, number) : 0;

  if (i == 0) {
    if (s->nr_chunks == s->allocated && grow (s) == -1)
      return -1;
    s->chunks[s->nr_chunks++] = (struct qed_chunk) { .number = number };
    i = *find_slot (s, number) = s->nr_chunks;
  }
  s->chunks[i - 1].bits[cluster / 64 % CHUNK_WORDS] |=
    UINT64_C (1) << cluster % 64;
  return 0;
}
