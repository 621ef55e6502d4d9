/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* L1 and L2 entries in a bounded cache.
 *
 * Tables can have 1 GiB each, so they are cached in slices of 4 KiB = 512
 * entries, the smallest table there is.  The cache is an array of slots with a
 * hash table over it and CLOCK replacement.  Its memory is set by cache_size
 * at open and never grows (I7).  Slots that were never used cost no memory.
 *
 * A slice of an L2 table is known by the guest clusters that it maps, not by
 * its place in the file.  So a lookup that hits needs only the L2 slice.  Only
 * a miss asks the L1 table, whose slices are cached in the same slots.  An L1
 * entry that is 0 or unsound ends the search there.
 *
 * States of a slot, and the steps from one to the next.  seq counts the steps
 * to VALID and from there, so it is odd in this state and no other:
 *
 *     EMPTY --claim--> LOADING --read ok--> VALID --evict--> (claim again)
 *       ^                 |         seq++         seq++
 *       +---read failed---+
 *
 * A LOADING slot belongs to the thread that claimed it, which reads into it
 * without the lock.  Other threads that want the same slice wait for it, so a
 * slice is read once.  A thread never claims a slot while it has one LOADING,
 * so waiting for a slot to claim ends, however few there are.
 *
 * A lookup that hits takes no lock, and writes nothing that other threads read
 * but CLOCK's mark, if that isn't set (I7).  It walks the bucket, notes the
 * slot's seq, which must be odd, looks at entries, and is right if seq is
 * still the same then.  If it isn't, or if nothing was found, the lookup is
 * done again with the lock.
 *
 *   - While seq stays the same the slot holds one slice, and its entries change
 *     only by links (link.c), one 64-bit store each.  Mapping only grows (I1),
 *     so any mix of old and new entries is a right answer, and links needn't
 *     change seq.  An entry is stored when its write has succeeded (I4), before
 *     the caller goes on, so a later lookup sees it.
 *   - The slot's next slice is stored when seq has become even.  These are
 *     release stores, and lookups use acquire loads.  So a lookup that saw any
 *     of that slice sees that seq has changed.
 *   - Groups of entries that are all 0 have no bit in the slot, so that a
 *     lookup jumps over them.  The bit is set before an entry is: a group
 *     without one was empty when the lookup began.
 *   - Seq is compared last, so an entry of the new slice is never taken for one
 *     of the old slice.
 *   - The chain may change during the walk.  A wrong turn leads to another
 *     slot, which has another key, and the walk has a limit.  At worst it
 *     misses a slice that is there.
 *   - Entries are checked against the ends of the file (I9), which are loaded
 *     after them.  The ends grow before an entry needs that.  When they are
 *     reset all slots are emptied first, so seq has changed for a lookup that
 *     sees the new ends.
 *
 * I9: L1 entries are checked here, where they are followed.  L2 entries are
 * checked by the caller that follows them (mapping.c).
 *
 * Locking: see slots.h.
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
#include "slots.h"
#include "storage.h"

/* A lookup without the lock gives up after so many slots of a bucket. */
#define MAX_STEPS 32

static void
set_ends (struct qed_table *t, uint64_t at_open, uint64_t fresh, uint64_t now)
{
  /* In this order: see qed_end_for. */
  PUBLISH (&t->ends.at_open, at_open);
  PUBLISH (&t->ends.fresh, fresh);
  PUBLISH (&t->ends.now, now);
}

static uint64_t
round_up (uint64_t v, uint64_t to)
{
  return (v + to - 1) / to * to;
}

static uint64_t
l1_slices (const struct qed_geometry *g)
{
  return round_up (qed_l1_entries (g), QED_SLICE_ENTRIES) / QED_SLICE_ENTRIES;
}

static uint64_t
l2_slices (const struct qed_geometry *g)
{
  return round_up (qed_clusters (g), QED_SLICE_ENTRIES) / QED_SLICE_ENTRIES;
}

/* How many slots fit into CACHE_SIZE bytes, or suffice for all tables. */
static uint32_t
choose_nr_slots (const struct qed_geometry *g, size_t cache_size)
{
  /* At most two buckets for each slot: see allocate. */
  uint64_t fit = cache_size /
    (SLICE_BYTES + sizeof (struct slot) + sizeof (struct pending) +
     2 * sizeof (uint32_t));
  uint64_t want = l2_slices (g) + l1_slices (g);
  uint64_t n = fit < want ? fit : want;

  return n < 1 ? 1 : n < NONE / 2 ? (uint32_t) n : NONE / 2;
}

static int
allocate (struct qed_table *t)
{
  uint32_t nr_buckets = 1;
  size_t entries_bytes, pending_bytes, slots_bytes;

  while (nr_buckets < t->nr_slots)
    nr_buckets *= 2;
  t->bucket_mask = nr_buckets - 1;
  entries_bytes = t->nr_slots * SLICE_BYTES;
  pending_bytes = t->nr_slots * sizeof (struct pending);
  slots_bytes = t->nr_slots * sizeof (struct slot);
  t->memory_bytes = entries_bytes + pending_bytes + slots_bytes +
    nr_buckets * sizeof (uint32_t);

  /* Not malloc, so that slots that were never used cost nothing. */
  t->memory = mmap (NULL, t->memory_bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (t->memory == MAP_FAILED)
    return -1;
  t->entries = t->memory;
  t->pending = (struct pending *) ((char *) t->memory + entries_bytes);
  t->slots = (struct slot *) ((char *) t->pending + pending_bytes);
  t->buckets = (_Atomic uint32_t *) ((char *) t->slots + slots_bytes);
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
  set_ends (t, file_end, file_end, file_end);
  t->nr_slots = choose_nr_slots (g, cache_size);
  t->max_pending = t->nr_slots < l2_slices (g) + l1_slices (g) ?
    (t->nr_slots + 1) / 2 : t->nr_slots;
  t->first_pending[0] = t->first_pending[1] = NONE;
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

static _Atomic uint32_t *
bucket (struct qed_table *t, uint64_t key)
{
  /* Fibonacci hashing: the upper bits of the product are well mixed. */
  return &t->buckets[(key * UINT64_C (0x9e3779b97f4a7c15)) >> 32 &
                     t->bucket_mask];
}

/* Called with the lock held, as are insert, forget and claim. */
static struct slot *
find (struct qed_table *t, uint64_t key)
{
  for (uint32_t i = RELAXED (bucket (t, key)); i != NONE;
       i = RELAXED (&t->slots[i].next))
    if (RELAXED (&t->slots[i].key) == key)
      return &t->slots[i];
  return NULL;
}

static void
insert (struct qed_table *t, struct slot *s)
{
  _Atomic uint32_t *b = bucket (t, RELAXED (&s->key));

  PUBLISH (&s->next, RELAXED (b));
  PUBLISH (b, (uint32_t) (s - t->slots));
}

static void
forget (struct qed_table *t, struct slot *s)
{
  uint32_t i = (uint32_t) (s - t->slots);
  _Atomic uint32_t *p = bucket (t, RELAXED (&s->key));

  if (s->state == VALID)
    PUBLISH (&s->seq, RELAXED (&s->seq) + 1);
  while (RELAXED (p) != i)
    p = &t->slots[RELAXED (p)].next;
  PUBLISH (p, RELAXED (&s->next));
  s->state = EMPTY;
}

/* CLOCK's mark.  Written only if it isn't there, so that threads that look up
 * the same slice don't take its cache line from each other.
 */
static void
touch (struct slot *s)
{
  if (!RELAXED (&s->referenced))
    atomic_store_explicit (&s->referenced, true, memory_order_relaxed);
}

/* Make an unused slot, or the next one that CLOCK finds, LOADING for KEY;
 * NULL if all are LOADING, pinned or have pending links.
 */
static struct slot *
claim (struct qed_table *t, uint64_t key)
{
  /* The first round clears the marks.  Hits may set them again meanwhile, so
   * the second doesn't look at them: a wait for a slot must end.
   */
  for (uint64_t tries = 0; tries < 2 * (uint64_t) t->nr_slots; ++tries) {
    struct slot *s = &t->slots[t->hand];

    t->hand = t->hand + 1 < t->nr_slots ? t->hand + 1 : 0;
    if (s->state == LOADING || s->pins > 0 || s->writing ||
        s->pending[0] || s->pending[1])
      continue;
    if (s->state == VALID) {
      if (tries < t->nr_slots && RELAXED (&s->referenced)) {
        atomic_store_explicit (&s->referenced, false, memory_order_relaxed);
        continue;
      }
      forget (t, s);
    }
    PUBLISH (&s->key, key);
    s->state = LOADING;
    s->sound = s->reserved = false;
    insert (t, s);
    return s;
  }
  return NULL;
}

/* The groups of the slice in BUF that have an entry. */
_Static_assert (QED_GROUP == 8 && QED_SLICE_ENTRIES == 64 * QED_GROUP,
                "groups");
static uint64_t
find_groups (const uint64_t *buf)
{
  uint64_t groups = 0;

  /* Written out, because compilers don't unroll such a loop. */
  for (unsigned g = 0; g < 64; ++g, buf += 8)
    groups |= (uint64_t) ((buf[0] | buf[1] | buf[2] | buf[3] |
                           buf[4] | buf[5] | buf[6] | buf[7]) != 0) << g;
  return groups;
}

/* S, which is LOADING, gets the slice in BUF, as it is in the file.  A group
 * that has no entry, before and after, is zeros already.
 */
static void
fill (const struct qed_table *t, struct slot *s, const uint64_t *buf)
{
  const uint64_t groups = find_groups (buf);
  uint64_t todo = groups | RELAXED (&s->groups);

  for (; todo; todo &= todo - 1) {
    const unsigned first = (unsigned) __builtin_ctzll (todo) * QED_GROUP;

    for (unsigned i = first; i < first + QED_GROUP; ++i)
      PUBLISH (&slot_entries (t, s)[i], le64toh (buf[i]));
  }
  PUBLISH (&s->groups, groups);
}

/* The slice of KEY, read from the table at TABLE_OFFSET if it isn't in the
 * cache.  Drops the lock for that, and while it waits for others.
 */
static struct slot *
load (struct qed_table *t, uint64_t key, uint64_t table_offset,
      uint64_t slice_in_table)
{
  uint64_t buf[QED_SLICE_ENTRIES];
  struct slot *s;
  int r;

  for (;;) {
    s = find (t, key);
    if (s != NULL && s->state == VALID) {
      touch (s);
      return s;
    }
    if (s == NULL && (s = claim (t, key)) != NULL)
      break;
    pthread_cond_wait (&t->changed, &t->lock);
  }

  pthread_mutex_unlock (&t->lock);
  if (qed_trace_tables && qed_debug)
    qed_debug ("%s: table at %" PRIu64 ": reading slice %" PRIu64 " (%s)",
               t->st->name, table_offset, slice_in_table,
               key & L1_KEY ? "L1" : "L2");
  r = qed_storage_read (t->st, buf, SLICE_BYTES,
                        table_offset + slice_in_table * SLICE_BYTES);
  if (r == 0)
    fill (t, s, buf);
  pthread_mutex_lock (&t->lock);

  if (r == 0) {
    PUBLISH (&s->l2_offset, table_offset);
    touch (s);
    s->state = VALID;
    PUBLISH (&s->seq, RELAXED (&s->seq) + 1);
  }
  else
    forget (t, s);
  pthread_cond_broadcast (&t->changed);
  return r == 0 ? s : NULL;
}

/* ---- lookup ---- */

/* Fill VIEW from the L1 slice in S: what to say if CLUSTER has no L2 table
 * that can be read, else where that is.  With the lock, or to be validated.
 */
static void
view_l1 (struct qed_table *t, const struct slot *s, uint64_t cluster,
         struct qed_view *view)
{
  qed_entry *entries = slot_entries (t, s);
  uint64_t i = qed_l1_index (&t->g, cluster) & (QED_SLICE_ENTRIES - 1);
  uint64_t entry = ACQUIRE (&entries[i]), n = 1;

  view->l2_offset = entry;
  view->ends = &t->ends;
  if (entry == 0) {
    view->type = QED_VIEW_ABSENT;
    while (i + n < QED_SLICE_ENTRIES && ACQUIRE (&entries[i + n]) == 0)
      ++n;
  }
  else if (qed_entry_sound (&t->g, entry, t->g.table_bytes,
                            qed_end_for (&t->ends, entry), 0))
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
  uint64_t i = cluster & (QED_SLICE_ENTRIES - 1);

  view->type = QED_VIEW_ENTRIES;
  view->clusters = QED_SLICE_ENTRIES - i;
  view->entries = slot_entries (t, s) + i;
  view->index = i;
  view->groups = &s->groups;
  view->l2_offset = ACQUIRE (&s->l2_offset);
  view->ends = &t->ends;
}

static uint64_t
l1_slice (const struct qed_table *t, uint64_t cluster)
{
  return qed_l1_index (&t->g, cluster) >> QED_SLICE_BITS;
}

struct slot *
qed_load_l1 (struct qed_table *t, uint64_t cluster)
{
  uint64_t slice = l1_slice (t, cluster);

  return load (t, slice | L1_KEY, t->g.l1_offset, slice);
}

struct slot *
qed_look_up (struct qed_table *t, uint64_t cluster, struct qed_view *view)
{
  uint64_t key = cluster >> QED_SLICE_BITS;
  struct slot *s = find (t, key);

  if (s == NULL || s->state != VALID) {
    s = qed_load_l1 (t, cluster);
    if (s == NULL)
      return NULL;
    view_l1 (t, s, cluster, view);
    if (view->type != QED_VIEW_ENTRIES)
      return s;
    s = load (t, key, view->l2_offset,
              qed_l2_index (&t->g, cluster) >> QED_SLICE_BITS);
    if (s == NULL)
      return NULL;
  }
  touch (s);
  view_l2 (t, s, cluster, view);
  return s;
}

/* The slot of KEY if it's found without the lock and VALID; VIEW gets what to
 * validate.  What is found may be changing: that any number is one of a slot,
 * and that the chain ends some day, is all that the walk relies on.
 */
static const struct slot *
peek (struct qed_table *t, uint64_t key, struct qed_view *view)
{
  uint32_t i = ACQUIRE (bucket (t, key));

  for (unsigned steps = 0; i != NONE && steps < MAX_STEPS; ++steps) {
    struct slot *s = &t->slots[i];

    if (ACQUIRE (&s->key) == key) {
      view->seq = &s->seq;
      view->seen = ACQUIRE (&s->seq);
      /* It may have become another slice's, and VALID, in between. */
      if (!(view->seen & 1) || ACQUIRE (&s->key) != key)
        return NULL;
      touch (s);
      return s;
    }
    i = ACQUIRE (&s->next);
  }
  return NULL;
}

/* qed_look_up without the lock.  False: it isn't known. */
static bool
look_up_unlocked (struct qed_table *t, uint64_t cluster,
                  struct qed_view *view)
{
  const struct slot *s = peek (t, cluster >> QED_SLICE_BITS, view);

  if (s != NULL) {
    view_l2 (t, s, cluster, view);
    return true;
  }
  s = peek (t, l1_slice (t, cluster) | L1_KEY, view);
  if (s == NULL)
    return false;
  view_l1 (t, s, cluster, view);
  return view->type != QED_VIEW_ENTRIES;
}

int
qed_table_find (struct qed_table *t, uint64_t cluster, struct qed_view *view)
{
  if (!view->locked && look_up_unlocked (t, cluster, view))
    return 0;
  pthread_mutex_lock (&t->lock);
  view->locked = true;
  if (qed_look_up (t, cluster, view) == NULL) {
    pthread_mutex_unlock (&t->lock);
    return -1;
  }
  return 0;
}

bool
qed_table_end (struct qed_table *t, struct qed_view *view)
{
  if (view->locked) {
    pthread_mutex_unlock (&t->lock);
    return true;
  }
  /* All loads of the slot were acquire, so this one comes after them. */
  view->locked = RELAXED (view->seq) != view->seen;
  return !view->locked;
}

uint64_t
qed_count_unallocated (const struct qed_view *view, uint64_t max)
{
  const uint64_t groups = ACQUIRE (view->groups);
  uint64_t n = 1;

  while (n < max) {
    const uint64_t i = view->index + n;

    if (i % QED_GROUP == 0 && !(groups >> i / QED_GROUP & 1)) {
      const uint64_t rest = groups >> i / QED_GROUP;

      n = rest == 0 ? max :
        n + QED_GROUP * (unsigned) __builtin_ctzll (rest);
    }
    else if (qed_load_entry (&view->entries[n]) != QED_ENTRY_UNALLOCATED)
      break;
    else
      n++;
  }
  return n < max ? n : max;
}

/* The first cluster from CLUSTER on whose slice has pending links. */
static uint64_t
next_pending (struct qed_table *t, uint64_t cluster)
{
  uint64_t next = UINT64_MAX;

  pthread_mutex_lock (&t->lock);
  for (int set = 0; set < 2; ++set)
    for (uint32_t i = t->first_pending[set]; i != NONE;
         i = t->slots[i].next_pending[set]) {
      uint64_t first = RELAXED (&t->slots[i].key) << QED_SLICE_BITS;

      if (first >= cluster && first < next)
        next = first;
    }
  pthread_mutex_unlock (&t->lock);
  return next;
}

uint64_t
qed_table_hole (struct qed_table *t, uint64_t l2_offset, uint64_t cluster)
{
  uint64_t in_table = qed_l2_index (&t->g, cluster) * sizeof (uint64_t);
  uint64_t length = t->g.table_bytes - in_table, offset = l2_offset + in_table;
  /* First what isn't in the file yet: it may get there in between. */
  uint64_t pending = next_pending (t, cluster), n;
  bool hole;
  int64_t end;

  if (pending == cluster)
    return 0;
  end = t->st->ops->next_extent (t->st, offset, &hole);
  if (end == -1 || !hole || (uint64_t) end <= offset)
    return 0;
  if ((uint64_t) end - offset < length)
    length = (uint64_t) end - offset;
  n = length / SLICE_BYTES * QED_SLICE_ENTRIES;
  return n < pending - cluster ? n : pending - cluster;
}

/* ---- the ends of the file ---- */

void
qed_table_reset (struct qed_table *t, uint64_t file_end)
{
  pthread_mutex_lock (&t->lock);
  for (uint32_t i = 0; i < t->nr_slots; ++i) {
    while (t->slots[i].state == LOADING)
      pthread_cond_wait (&t->changed, &t->lock);
    if (t->slots[i].state == VALID)
      forget (t, &t->slots[i]);
  }
  /* Those that were read meanwhile too, so that no slot is VALID with some of
   * the old ends and some of the new ones.
   */
  for (uint32_t i = 0; i < t->nr_slots; ++i)
    if (t->slots[i].state == VALID)
      forget (t, &t->slots[i]);
  set_ends (t, file_end, file_end, file_end);
  pthread_mutex_unlock (&t->lock);
}

void
qed_table_grow (struct qed_table *t, uint64_t fresh, uint64_t file_end)
{
  pthread_mutex_lock (&t->lock);
  set_ends (t, RELAXED (&t->ends.at_open), fresh, file_end);
  pthread_mutex_unlock (&t->lock);
}
