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

/* L1 and L2 entries in a bounded cache.
 *
 * Tables can have 1 GiB each, so they are cached in slices of 4 KiB = 512
 * entries, the smallest table there is.  The cache is an array of slots with
 * a hash table over it and CLOCK replacement: memory is set by cache_size at
 * open and never grows (I7); what isn't touched costs no memory.
 *
 * A slice of an L2 table is known by which guest clusters it maps, not by
 * its place in the file, so a lookup that hits needs only the L2 slice: one
 * probe under one short lock (I7).  Only a miss asks the L1 table, whose
 * slices are cached in the same slots.  An L1 entry that is 0 or unsound
 * ends the search there, under the same lock.
 *
 * States of a slot, and what takes it from one to the next:
 *
 *     EMPTY --claim--> LOADING --read ok--> VALID --evict--> (claim again)
 *       ^                 |
 *       +---read failed---+
 *
 * LOADING belongs to the thread that claimed it, which reads into it without
 * the lock; others who want the same slice wait for it, so a slice is read
 * once.  A thread never claims a slot while it has one LOADING, so waiting
 * for a slot to claim ends, however few there are.
 *
 * I9: L1 entries are checked here, where they are followed; L2 entries by
 * the caller (cluster.c), who follows them.  I10: nothing here writes.
 *
 * Locking: t->lock guards slots, buckets, hand and the entries of VALID
 * slots.  No I/O is done under it.
 */

#include <config.h>

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "error.h"
#include "format.h"
#include "storage.h"
#include "table.h"

#define SLICE_BITS 9
#define SLICE_ENTRIES (UINT64_C (1) << SLICE_BITS)
#define SLICE_BYTES (SLICE_ENTRIES * sizeof (uint64_t))

/* Every table is made of whole slices. */
_Static_assert (QED_MIN_CLUSTER_SIZE * QED_MIN_TABLE_SIZE % SLICE_BYTES == 0,
                "slice");

/* A slice's key: the number of its first guest cluster (L2) or L1 entry,
 * divided by SLICE_ENTRIES.  Both are below 2^52.
 */
#define L1_KEY (UINT64_C (1) << 63)

enum slot_state { EMPTY, LOADING, VALID };

struct slot {
  uint64_t key;
  uint64_t l2_offset;           /* of the table an L2 slice is part of */
  uint32_t next;                /* in the bucket; NONE at the end */
  uint8_t state;
  bool referenced;              /* used since CLOCK's hand came by */
};

#define NONE UINT32_MAX

struct qed_table {
  struct qed_storage *st;       /* borrowed */
  struct qed_geometry g;
  uint64_t file_end;

  pthread_mutex_t lock;
  pthread_cond_t changed;       /* a slot left LOADING */

  uint32_t nr_slots;
  uint32_t hand;
  uint32_t bucket_mask;
  uint32_t *buckets;            /* slot numbers */
  struct slot *slots;
  uint64_t (*entries)[SLICE_ENTRIES]; /* of each slot, decoded */

  void *memory;                 /* all of the three arrays */
  size_t memory_bytes;
};

/* ---- the cache ---- */

static uint64_t
round_up (uint64_t v, uint64_t to)
{
  return (v + to - 1) / to * to;
}

/* How many slots fit into CACHE_SIZE bytes, or suffice for all tables. */
static uint32_t
choose_nr_slots (const struct qed_geometry *g, size_t cache_size)
{
  /* At most two buckets for each slot: see layout. */
  uint64_t fit = cache_size /
    (SLICE_BYTES + sizeof (struct slot) + 2 * sizeof (uint32_t));
  uint64_t want = round_up (qed_clusters (g), SLICE_ENTRIES) / SLICE_ENTRIES +
    round_up (qed_l1_entries (g), SLICE_ENTRIES) / SLICE_ENTRIES;
  uint64_t n = fit < want ? fit : want;

  return n < 1 ? 1 : n < NONE / 2 ? (uint32_t) n : NONE / 2;
}

static int
allocate (struct qed_table *t)
{
  uint32_t nr_buckets = 1;
  size_t entries_bytes, slots_bytes;

  while (nr_buckets < t->nr_slots)
    nr_buckets *= 2;
  t->bucket_mask = nr_buckets - 1;
  entries_bytes = t->nr_slots * SLICE_BYTES;
  slots_bytes = t->nr_slots * sizeof (struct slot);
  t->memory_bytes = entries_bytes + slots_bytes +
    nr_buckets * sizeof (uint32_t);

  /* Not malloc, so that slots that were never used cost nothing. */
  t->memory = mmap (NULL, t->memory_bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (t->memory == MAP_FAILED)
    return -1;
  t->entries = t->memory;
  t->slots = (struct slot *) ((char *) t->memory + entries_bytes);
  t->buckets = (uint32_t *) ((char *) t->slots + slots_bytes);
  memset (t->buckets, 0xff, nr_buckets * sizeof (uint32_t)); /* NONE */
  return 0;
}

struct qed_table *
qed_table_new (struct qed_storage *st, const struct qed_geometry *g,
               uint64_t file_end, size_t cache_size)
{
  struct qed_table *t = calloc (1, sizeof *t);

  if (t == NULL)
    goto err;
  t->st = st;
  t->g = *g;
  t->file_end = file_end;
  t->nr_slots = choose_nr_slots (g, cache_size);
  if (allocate (t) == -1)
    goto err;
  pthread_mutex_init (&t->lock, NULL);
  pthread_cond_init (&t->changed, NULL);
  return t;

 err:
  qed_error (errno, "%s: table cache of %zu bytes: %m", st->name, cache_size);
  free (t);
  return NULL;
}

void
qed_table_free (struct qed_table *t)
{
  if (t == NULL)
    return;
  munmap (t->memory, t->memory_bytes);
  pthread_cond_destroy (&t->changed);
  pthread_mutex_destroy (&t->lock);
  free (t);
}

/* Called with the lock held, as are all up to load. */
static uint32_t *
bucket (struct qed_table *t, uint64_t key)
{
  /* Fibonacci hashing: the upper bits of the product are well mixed. */
  return &t->buckets[(key * UINT64_C (0x9e3779b97f4a7c15)) >> 32 &
                     t->bucket_mask];
}

static struct slot *
find (struct qed_table *t, uint64_t key)
{
  for (uint32_t i = *bucket (t, key); i != NONE; i = t->slots[i].next)
    if (t->slots[i].key == key)
      return &t->slots[i];
  return NULL;
}

static void
insert (struct qed_table *t, struct slot *s)
{
  uint32_t *b = bucket (t, s->key);

  s->next = *b;
  *b = (uint32_t) (s - t->slots);
}

static void
forget (struct qed_table *t, struct slot *s)
{
  uint32_t i = (uint32_t) (s - t->slots);
  uint32_t *p = bucket (t, s->key);

  while (*p != i)
    p = &t->slots[*p].next;
  *p = s->next;
  s->state = EMPTY;
}

/* Make an unused slot, or the next one that CLOCK finds, LOADING for KEY;
 * NULL if all are LOADING.
 */
static struct slot *
claim (struct qed_table *t, uint64_t key)
{
  /* The first round clears the marks, so the second finds a slot. */
  for (uint64_t tries = 0; tries < 2 * (uint64_t) t->nr_slots; ++tries) {
    struct slot *s = &t->slots[t->hand];

    t->hand = t->hand + 1 < t->nr_slots ? t->hand + 1 : 0;
    if (s->state == LOADING)
      continue;
    if (s->state == VALID) {
      if (s->referenced) {
        s->referenced = false;
        continue;
      }
      forget (t, s);
    }
    s->key = key;
    s->state = LOADING;
    insert (t, s);
    return s;
  }
  return NULL;
}

static const uint64_t *
slot_entries (struct qed_table *t, const struct slot *s)
{
  return t->entries[s - t->slots];
}

/* The slice of KEY, read from the table at TABLE_OFFSET if it isn't in the
 * cache.  Drops the lock for that, and while it waits for others.
 */
static struct slot *
load (struct qed_table *t, uint64_t key, uint64_t table_offset,
      uint64_t slice_in_table)
{
  struct slot *s;
  uint64_t *entries;
  int r;

  for (;;) {
    s = find (t, key);
    if (s != NULL && s->state == VALID) {
      s->referenced = true;
      return s;
    }
    if (s == NULL && (s = claim (t, key)) != NULL)
      break;
    pthread_cond_wait (&t->changed, &t->lock);
  }

  entries = t->entries[s - t->slots];
  pthread_mutex_unlock (&t->lock);
  if (qed_trace_tables && qed_debug)
    qed_debug ("%s: table at %" PRIu64 ": reading slice %" PRIu64 " (%s)",
               t->st->name, table_offset, slice_in_table,
               key & L1_KEY ? "L1" : "L2");
  r = qed_storage_read (t->st, entries, SLICE_BYTES,
                        table_offset + slice_in_table * SLICE_BYTES);
  if (r == 0)
    for (size_t i = 0; i < SLICE_ENTRIES; ++i)
      entries[i] = le64toh (entries[i]);
  pthread_mutex_lock (&t->lock);

  s->l2_offset = table_offset;
  s->referenced = true;
  s->state = VALID;
  if (r == -1)
    forget (t, s);
  pthread_cond_broadcast (&t->changed);
  return r == 0 ? s : NULL;
}

/* ---- lookup ---- */

/* Fill VIEW from the L1 slice in S: what to say if CLUSTER has no L2 table
 * that can be read, else where that is.
 */
static void
view_l1 (struct qed_table *t, const struct slot *s, uint64_t cluster,
         struct qed_view *view)
{
  const uint64_t *entries = slot_entries (t, s);
  uint64_t i = qed_l1_index (&t->g, cluster) & (SLICE_ENTRIES - 1);
  uint64_t entry = entries[i], n = 1;

  view->l2_offset = entry;
  if (entry == 0) {
    view->type = QED_VIEW_ABSENT;
    while (i + n < SLICE_ENTRIES && entries[i + n] == 0)
      ++n;
  }
  else if (qed_entry_sound (&t->g, entry, t->g.table_bytes, t->file_end, 0))
    view->type = QED_VIEW_ENTRIES;
  else
    view->type = QED_VIEW_UNSOUND;

  /* n tables' worth of clusters, less those before CLUSTER in the first:
   * at most 2^9 * 2^27.
   */
  view->clusters = (n << t->g.table_bits) - qed_l2_index (&t->g, cluster);
}

static void
view_l2 (struct qed_table *t, const struct slot *s, uint64_t cluster,
         struct qed_view *view)
{
  uint64_t i = cluster & (SLICE_ENTRIES - 1);

  view->type = QED_VIEW_ENTRIES;
  view->clusters = SLICE_ENTRIES - i;
  view->entries = slot_entries (t, s) + i;
  view->whole_slice = i == 0;
  view->l2_offset = s->l2_offset;
}

int
qed_table_find (struct qed_table *t, uint64_t cluster, struct qed_view *view)
{
  uint64_t key = cluster >> SLICE_BITS;
  uint64_t l1_slice = qed_l1_index (&t->g, cluster) >> SLICE_BITS;
  struct slot *s;

  pthread_mutex_lock (&t->lock);
  s = find (t, key);
  if (s == NULL || s->state != VALID) {
    s = load (t, l1_slice | L1_KEY, t->g.l1_offset, l1_slice);
    if (s == NULL)
      goto err;
    view_l1 (t, s, cluster, view);
    if (view->type != QED_VIEW_ENTRIES)
      return 0;
    s = load (t, key, view->l2_offset,
              qed_l2_index (&t->g, cluster) >> SLICE_BITS);
    if (s == NULL)
      goto err;
  }
  s->referenced = true;
  view_l2 (t, s, cluster, view);
  return 0;

 err:
  pthread_mutex_unlock (&t->lock);
  return -1;
}

void
qed_table_unlock (struct qed_table *t)
{
  pthread_mutex_unlock (&t->lock);
}

uint64_t
qed_table_hole (struct qed_table *t, uint64_t l2_offset, uint64_t cluster)
{
  uint64_t in_table = qed_l2_index (&t->g, cluster) * sizeof (uint64_t);
  uint64_t length = t->g.table_bytes - in_table, offset = l2_offset + in_table;
  bool hole;
  int64_t end = t->st->ops->next_extent (t->st, offset, &hole);

  if (end == -1 || !hole || (uint64_t) end <= offset)
    return 0;
  if ((uint64_t) end - offset < length)
    length = (uint64_t) end - offset;
  return length / SLICE_BYTES * SLICE_ENTRIES;
}
