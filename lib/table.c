/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* L1 and L2 entries in a bounded cache.
 *
 * Tables can have 1 GiB each, so they are cached in slices of 4 KiB = 512
 * entries, the smallest table there is.  The cache is an array of slots with
 * a hash table over it and CLOCK replacement: memory is set by cache_size at
 * open and never grows (I7); what isn't touched costs no memory.
 *
 * A slice of an L2 table is known by which guest clusters it maps, not by
 * its place in the file, so a lookup that hits needs only the L2 slice.  Only
 * a miss asks the L1 table, whose slices are cached in the same slots.  An L1
 * entry that is 0 or unsound ends the search there.
 *
 * States of a slot, and what takes it from one to the next; seq counts the
 * steps to VALID and from there, so it is odd in this state and no other:
 *
 *     EMPTY --claim--> LOADING --read ok--> VALID --evict--> (claim again)
 *       ^                 |         seq++         seq++
 *       +---read failed---+
 *
 * LOADING belongs to the thread that claimed it, which reads into it without
 * the lock; others who want the same slice wait for it, so a slice is read
 * once.  A thread never claims a slot while it has one LOADING, so waiting
 * for a slot to claim ends, however few there are.
 *
 * A lookup that hits takes no lock, and writes nothing that others read but
 * CLOCK's mark, if that isn't set (I7).  It walks the bucket, notes the slot's
 * seq, which must be odd, looks at entries, and is right if seq is still the
 * same then.  If not, or if it found nothing, it looks again with the lock.
 *
 *   - While seq stays the same the slot holds one slice, and its entries
 *     change only by links, one 64-bit store each.  Mapping only grows (I1), so any
 *     mix of old and new entries is a right answer, and links needn't change
 *     seq.  An entry is stored when its write has succeeded (I4), before
 *     the caller goes on, so a later lookup sees it.
 *   - The slot's next slice is stored when seq has become even.  These are
 *     release stores, and lookups use acquire loads: one that saw any of that
 *     slice sees that seq has changed.
 *   - Seq is compared last, so an entry is not used as the old slice's when it
 *     is the new one's.
 *   - The chain may change during the walk.  A wrong turn leads to another
 *     slot, which has another key, and the walk has a limit: at worst it
 *     misses what is there.
 *   - Entries are checked against the ends (I9), which are loaded after them.
 *     The ends grow before an entry needs that; when they are reset, all slots
 *     are emptied first, so seq has changed for those who see the new ends.
 *
 * Linking (I4) writes entries to the file first and then changes them in the
 * slot, which is pinned meanwhile: it isn't evicted, so nobody can read the
 * slice from the file while it is being written.  Who has pinned a slot does
 * not wait for another.
 *
 * Pending links (I3) are entries that have been changed in the slot only; it
 * isn't evicted until they are in the file.  They are in one of two sets: those
 * made since the last commit began, and those that it writes.  A commit writes
 * a slice from its first to its last entry of that set, with the old values for
 * the other one, which may not be durable before what they point to is.  So no
 * other writes may go to that slice at the same time: a commit waits until it
 * isn't pinned, and who has pinned it until the commit has written it.  The
 * same goes for reserving, which writes a slice back as it is in the file, so
 * that it has its space there.  Half of the slots stay free for others, unless
 * there is a slot for every slice.
 *
 * I9: L1 entries are checked here, where they are followed; L2 entries by
 * the caller (cluster.c), who follows them.  Nothing is linked in a slice that
 * has an unsound entry.
 *
 * Locking: t->lock guards slots, buckets, hand, the entries of VALID slots,
 * what is pending, and the ends: all of them change under it only, but for the
 * entries of LOADING slots and CLOCK's mark.  What a lookup reads without it
 * is atomic.  No I/O is done under it.
 */

#include <config.h>

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "error.h"
#include "format.h"
#include "storage.h"
#include "table.h"

#define SLICE_BYTES (QED_SLICE_ENTRIES * sizeof (uint64_t))

/* Every table is made of whole slices. */
_Static_assert (QED_MIN_CLUSTER_SIZE * QED_MIN_TABLE_SIZE % SLICE_BYTES == 0,
                "slice");

/* A slice's key: the number of its first guest cluster (L2) or L1 entry,
 * divided by QED_SLICE_ENTRIES.  Both are below 2^52.
 */
#define L1_KEY (UINT64_C (1) << 63)

enum slot_state { EMPTY, LOADING, VALID };

struct slot {
  /* Read without the lock. */
  _Atomic uint64_t seq;         /* odd: VALID; see above */
  _Atomic uint64_t key;
  _Atomic uint64_t l2_offset;   /* of the table an L2 slice is part of */
  _Atomic uint32_t next;        /* in the bucket; NONE at the end */
  atomic_bool referenced;       /* used since CLOCK's hand came by */

  uint8_t state;
  uint32_t pins;                /* by threads that change the slice */
  bool sound;                   /* all entries are: see check_slice */
  bool writing;                 /* all of it, or a commit's part */
  bool reserved;                /* it has its space in the file */
  bool pending[2];              /* it's in the list of that set */
  uint32_t next_pending[2];     /* there */
};

#define NONE UINT32_MAX

/* A lookup without the lock gives up after so many slots of a bucket. */
#define MAX_STEPS 32

/* Which entries of a slot are pending, a bit each, in either set; and which of
 * them are QED_ENTRY_ZERO in the file, the others being 0.
 */
struct pending {
  uint64_t bits[2][QED_SLICE_ENTRIES / 64];
  uint64_t zero[QED_SLICE_ENTRIES / 64];
};

struct qed_table {
  /* What every lookup reads: hardly ever written. */
  struct qed_storage *st;       /* borrowed */
  struct qed_geometry g;
  struct qed_ends ends;
  uint32_t nr_slots;
  uint32_t bucket_mask;
  _Atomic uint32_t *buckets;    /* slot numbers */
  struct slot *slots;
  qed_entry (*entries)[QED_SLICE_ENTRIES]; /* of each slot, decoded */
  struct pending *pending;      /* of each slot */
  void *memory;                 /* all of the four arrays */
  size_t memory_bytes;

  /* Lest the lock share a cache line with that. */
  char apart[64];

  pthread_mutex_t lock;
  pthread_cond_t changed;       /* a slot left LOADING, or is pinned no more */
  uint32_t hand;
  uint32_t first_pending[2];    /* slots with entries in that set */
  unsigned open_set;            /* where new pending links go: 0 or 1 */
  uint32_t nr_pending, max_pending; /* slots with any */
  atomic_bool any_pending;      /* the open set isn't empty */
};

/* ---- the cache ---- */

/* Atomics for what is written under the lock and read without it: release, so
 * that a lookup that saw the new value sees the slot's new seq too.
 */
#define PUBLISH(p, v) atomic_store_explicit (p, v, memory_order_release)
#define ACQUIRE(p) atomic_load_explicit (p, memory_order_acquire)

/* For those who have the lock, or have the slot to themselves. */
#define RELAXED(p) atomic_load_explicit (p, memory_order_relaxed)

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
  /* At most two buckets for each slot: see layout. */
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

/* Called with the lock held, as are all up to load. */
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

/* CLOCK's mark.  Written only if it isn't there, so that those who look up the
 * same slice don't take its line from each other.
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
  /* The first round clears the marks, so the second finds what there is. */
  for (uint64_t tries = 0; tries < 2 * (uint64_t) t->nr_slots; ++tries) {
    struct slot *s = &t->slots[t->hand];

    t->hand = t->hand + 1 < t->nr_slots ? t->hand + 1 : 0;
    if (s->state == LOADING || s->pins > 0 || s->writing ||
        s->pending[0] || s->pending[1])
      continue;
    if (s->state == VALID) {
      if (RELAXED (&s->referenced)) {
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

static qed_entry *
slot_entries (const struct qed_table *t, const struct slot *s)
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
    for (size_t i = 0; i < QED_SLICE_ENTRIES; ++i)
      PUBLISH (&slot_entries (t, s)[i], le64toh (buf[i]));
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
  view->whole_slice = i == 0;
  view->l2_offset = ACQUIRE (&s->l2_offset);
  view->ends = &t->ends;
}

static uint64_t
l1_slice (const struct qed_table *t, uint64_t cluster)
{
  return qed_l1_index (&t->g, cluster) >> QED_SLICE_BITS;
}

static struct slot *
load_l1 (struct qed_table *t, uint64_t cluster)
{
  uint64_t slice = l1_slice (t, cluster);

  return load (t, slice | L1_KEY, t->g.l1_offset, slice);
}

/* The slot that the view is of: an L2 slice if there is one, else an L1
 * slice.  Called with the lock held; NULL: a table can't be read.
 */
static struct slot *
look_up (struct qed_table *t, uint64_t cluster, struct qed_view *view)
{
  uint64_t key = cluster >> QED_SLICE_BITS;
  struct slot *s = find (t, key);

  if (s == NULL || s->state != VALID) {
    s = load_l1 (t, cluster);
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

/* look_up without the lock.  False: it isn't known. */
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
  if (look_up (t, cluster, view) == NULL) {
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

/* ---- changing ---- */

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

/* I9: all that is in a slice must be sound before it is changed, and then it
 * stays sound.  Called with the lock held.
 */
static int
check_slice (struct qed_table *t, struct slot *s)
{
  bool l1 = RELAXED (&s->key) & L1_KEY;
  uint64_t length = l1 ? t->g.table_bytes : t->g.cluster_size;
  uint64_t table = RELAXED (&s->l2_offset), own_table = l1 ? 0 : table;

  for (size_t i = 0; !s->sound && i < QED_SLICE_ENTRIES; ++i) {
    uint64_t e = RELAXED (&slot_entries (t, s)[i]);
    uint64_t end = qed_end_for (&t->ends, e);

    if (e != 0 && (l1 || e != QED_ENTRY_ZERO) &&
        !qed_entry_sound (&t->g, e, length, end, own_table))
      return qed_error (EIO, "%s: table at %" PRIu64 ": %s entry 0x%" PRIx64
                        " %s: nothing is allocated beside a corrupt entry: "
                        "run qed-img check -r all", t->st->name,
                        table, l1 ? "L1" : "L2", e,
                        qed_entry_unsound (&t->g, e, length, end, own_table));
  }
  s->sound = true;
  return 0;
}

int
qed_table_prepare (struct qed_table *t, uint64_t cluster, bool *absent,
                   bool *unsound)
{
  struct qed_view view = { .type = QED_VIEW_UNSOUND };
  struct slot *s;
  int r = -1;

  pthread_mutex_lock (&t->lock);
  s = look_up (t, cluster, &view);
  if (s != NULL)
    r = check_slice (t, s);
  pthread_mutex_unlock (&t->lock);
  *absent = view.type == QED_VIEW_ABSENT;
  *unsound = s != NULL && r == -1;
  return r;
}

/* Where N entries of S, a pinned slot, from INDEX on stand in the file. */
static uint64_t
entries_offset (const struct qed_table *t, const struct slot *s,
                uint64_t index)
{
  uint64_t key = RELAXED (&s->key);
  uint64_t first = key & L1_KEY ? (key & ~L1_KEY) << QED_SLICE_BITS :
    qed_l2_index (&t->g, key << QED_SLICE_BITS);

  return RELAXED (&s->l2_offset) + (first + index) * sizeof (uint64_t);
}

/* Their write failed: is in the file what is in memory, or can it be?  A
 * filesystem that is full has mostly written nothing, and would fail again.
 */
static enum qed_link_failure
restore_entries (struct qed_table *t, const struct slot *s, uint64_t index,
                 uint64_t n)
{
  uint64_t old[QED_SLICE_ENTRIES], now[QED_SLICE_ENTRIES];
  uint64_t offset = entries_offset (t, s, index);
  size_t bytes = n * sizeof old[0];

  for (uint64_t i = 0; i < n; ++i)
    old[i] = htole64 (RELAXED (&slot_entries (t, s)[index + i]));
  if (qed_storage_read (t->st, now, bytes, offset) == 0 &&
      memcmp (old, now, bytes) == 0)
    return QED_LINK_UNTOUCHED;
  return qed_storage_write (t->st, old, bytes, offset) == 0 ?
    QED_LINK_RESTORED : QED_LINK_LOST;
}

/* The I-th of the entries that are to map what is at OFFSET. */
static uint64_t
entry_after (const struct qed_table *t, uint64_t offset, uint64_t i)
{
  return offset == QED_ENTRY_ZERO ? offset : offset + (i << t->g.cluster_bits);
}

/* Link: see table.h.  Called with the lock held, returns without it. */
static int
change (struct qed_table *t, struct slot *s, uint64_t index, uint64_t n,
        uint64_t offset, enum qed_link_failure *how)
{
  qed_entry *entries = slot_entries (t, s) + index;
  uint64_t buf[QED_SLICE_ENTRIES];
  int r, err;

  s->pins++;
  while (s->writing)
    pthread_cond_wait (&t->changed, &t->lock);
  pthread_mutex_unlock (&t->lock);

  for (uint64_t i = 0; i < n; ++i)
    buf[i] = htole64 (entry_after (t, offset, i));
  r = qed_storage_write (t->st, buf, n * sizeof buf[0],
                         entries_offset (t, s, index));
  err = errno;
  if (r == -1)
    *how = restore_entries (t, s, index, n);

  pthread_mutex_lock (&t->lock);
  if (r == 0)
    for (uint64_t i = 0; i < n; ++i)
      PUBLISH (&entries[i], le64toh (buf[i]));
  s->pins--;
  pthread_cond_broadcast (&t->changed);
  pthread_mutex_unlock (&t->lock);
  errno = err;
  return r;
}

/* The slot with CLUSTER's L2 entry.  Called with the lock held; NULL: a table
 * can't be read, or there is none.
 */
static struct slot *
look_up_l2 (struct qed_table *t, uint64_t cluster)
{
  struct qed_view view;
  struct slot *s = look_up (t, cluster, &view);

  if (s != NULL && view.type != QED_VIEW_ENTRIES) {
    qed_error (EIO, "%s: L1 entry 0x%" PRIx64 ": the L2 table has gone",
               t->st->name, view.l2_offset);
    return NULL;
  }
  return s;
}

int
qed_table_link (struct qed_table *t, uint64_t cluster, uint64_t n,
                uint64_t offset, enum qed_link_failure *how)
{
  struct slot *s;

  *how = QED_LINK_UNTOUCHED;
  pthread_mutex_lock (&t->lock);
  s = look_up_l2 (t, cluster);
  if (s == NULL) {
    pthread_mutex_unlock (&t->lock);
    return -1;
  }
  return change (t, s, cluster & (QED_SLICE_ENTRIES - 1), n, offset, how);
}

int
qed_table_link_l2 (struct qed_table *t, uint64_t cluster, uint64_t offset,
                   enum qed_link_failure *how)
{
  struct slot *s;

  *how = QED_LINK_UNTOUCHED;
  pthread_mutex_lock (&t->lock);
  s = load_l1 (t, cluster);
  if (s == NULL) {
    pthread_mutex_unlock (&t->lock);
    return -1;
  }
  return change (t, s, qed_l1_index (&t->g, cluster) &
                 (QED_SLICE_ENTRIES - 1), 1, offset, how);
}

/* ---- pending links (I3) ---- */

/* The slot with CLUSTER's L2 entry, once nobody is changing it in the file.
 * Called with the lock, which it drops meanwhile.
 */
static struct slot *
look_up_quiet (struct qed_table *t, uint64_t cluster)
{
  struct slot *s;

  /* While nobody has pinned it, it may go: so look again. */
  while ((s = look_up_l2 (t, cluster)) != NULL &&
         (s->pins > 0 || s->writing))
    pthread_cond_wait (&t->changed, &t->lock);
  return s;
}

static bool
is_set (const uint64_t *bits, uint64_t i)
{
  return bits[i / 64] >> i % 64 & 1;
}

/* Write the entries FIRST .. LAST of S: those pending in a set of which WRITTEN
 * isn't true as they are in the file.  Called with the lock, which it drops
 * meanwhile, and when nobody else is changing the slice in the file.
 */
static int
write_slice (struct qed_table *t, struct slot *s, uint64_t first,
             uint64_t last, const bool written[2])
{
  const struct pending *p = &t->pending[s - t->slots];
  uint64_t buf[QED_SLICE_ENTRIES];
  int r;

  for (uint64_t i = first; i <= last; ++i) {
    bool old = (is_set (p->bits[0], i) && !written[0]) ||
      (is_set (p->bits[1], i) && !written[1]);

    buf[i] = htole64 (!old ? RELAXED (&slot_entries (t, s)[i]) :
                      is_set (p->zero, i) ? QED_ENTRY_ZERO :
                      QED_ENTRY_UNALLOCATED);
  }
  s->writing = true;
  pthread_mutex_unlock (&t->lock);
  r = qed_storage_write (t->st, buf + first, (last - first + 1) * sizeof *buf,
                         entries_offset (t, s, first));
  pthread_mutex_lock (&t->lock);
  s->writing = false;
  pthread_cond_broadcast (&t->changed);
  return r;
}

int
qed_table_reserve (struct qed_table *t, uint64_t cluster)
{
  static const bool none[2];
  struct slot *s;
  int r = 0;

  pthread_mutex_lock (&t->lock);
  s = look_up_l2 (t, cluster);
  if (s != NULL && !s->reserved)
    s = look_up_quiet (t, cluster);
  /* A part of it may be in the file, where blocks are smaller. */
  if (s != NULL && !s->reserved) {
    r = write_slice (t, s, 0, QED_SLICE_ENTRIES - 1, none);
    s->reserved = r == 0;
  }
  pthread_mutex_unlock (&t->lock);
  return s == NULL ? -1 : r;
}

/* Put S into the list of the open set.  False: too many are pending. */
static bool
add_pending (struct qed_table *t, struct slot *s)
{
  unsigned set = t->open_set;

  if (s->pending[set])
    return true;
  if (!s->pending[!set]) {
    if (t->nr_pending >= t->max_pending)
      return false;
    t->nr_pending++;
  }
  s->pending[set] = true;
  s->next_pending[set] = t->first_pending[set];
  t->first_pending[set] = (uint32_t) (s - t->slots);
  return true;
}

static void
set_pending (struct qed_table *t, struct slot *s, uint64_t i, uint64_t entry)
{
  struct pending *p = &t->pending[s - t->slots];
  qed_entry *e = &slot_entries (t, s)[i];
  uint64_t bit = UINT64_C (1) << i % 64;

  p->bits[t->open_set][i / 64] |= bit;
  if (RELAXED (e) == QED_ENTRY_ZERO)
    p->zero[i / 64] |= bit;
  PUBLISH (e, entry);
}

int
qed_table_link_later (struct qed_table *t, uint64_t cluster, uint64_t n,
                      uint64_t offset, bool *first)
{
  uint64_t index = cluster & (QED_SLICE_ENTRIES - 1);
  struct slot *s;
  int r = -1;

  *first = false;
  pthread_mutex_lock (&t->lock);
  s = look_up_l2 (t, cluster);
  if (s != NULL && !add_pending (t, s))
    r = 1;
  else if (s != NULL) {
    /* Before a lookup can see them: a flush that follows it shall commit. */
    *first = !atomic_exchange (&t->any_pending, true);
    for (uint64_t i = 0; i < n; ++i)
      set_pending (t, s, index + i, entry_after (t, offset, i));
    r = 0;
  }
  pthread_mutex_unlock (&t->lock);
  return r;
}

bool
qed_table_pending (const struct qed_table *t)
{
  return atomic_load (&t->any_pending);
}

void
qed_table_begin_commit (struct qed_table *t)
{
  pthread_mutex_lock (&t->lock);
  t->open_set = !t->open_set; /* that one is empty: the last commit's */
  atomic_store (&t->any_pending, false);
  pthread_mutex_unlock (&t->lock);
}

/* Write what is pending in SET of the slice in S.  Called with the lock, which
 * it drops meanwhile.
 */
static int
commit_slice (struct qed_table *t, struct slot *s, unsigned set)
{
  const bool written[2] = { set == 0, set == 1 };
  struct pending *p = &t->pending[s - t->slots];
  uint64_t first = 0, last = QED_SLICE_ENTRIES - 1;
  int r;

  while (s->pins > 0 || s->writing)
    pthread_cond_wait (&t->changed, &t->lock);
  while (!is_set (p->bits[set], first))
    first++;
  while (!is_set (p->bits[set], last))
    last--;
  r = write_slice (t, s, first, last, written);
  for (uint64_t i = 0; r == 0 && i < QED_SLICE_ENTRIES / 64; ++i) {
    p->zero[i] &= ~p->bits[set][i];
    p->bits[set][i] = 0;
  }
  return r;
}

int
qed_table_commit (struct qed_table *t)
{
  unsigned set;
  int r = 0;

  pthread_mutex_lock (&t->lock);
  set = !t->open_set;
  while (r == 0 && t->first_pending[set] != NONE) {
    struct slot *s = &t->slots[t->first_pending[set]];

    r = commit_slice (t, s, set);
    if (r == 0) {
      t->first_pending[set] = s->next_pending[set];
      s->pending[set] = false;
      if (!s->pending[!set])
        t->nr_pending--;
    }
  }
  pthread_mutex_unlock (&t->lock);
  return r;
}
