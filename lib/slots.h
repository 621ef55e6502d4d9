/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The slots of the table cache, as table.c and link.c see them.
 *
 * Locking: t->lock guards slots, buckets, hand, the entries of VALID slots,
 * what is pending, and the ends.  All of them change under it only, but for
 * the entries and groups of LOADING slots, and CLOCK's mark.  Whatever a lookup
 * reads without the lock is atomic.  No I/O is done under the lock.
 */

#ifndef QED_SLOTS_H
#define QED_SLOTS_H

#include <pthread.h>
#include <stdatomic.h>

#include "qed.h"
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
  _Atomic uint64_t seq;         /* odd: VALID; see table.c */
  _Atomic uint64_t key;
  _Atomic uint64_t l2_offset;   /* of the table an L2 slice is part of */
  _Atomic uint32_t next;        /* in the bucket; NONE at the end */
  atomic_bool referenced;       /* used since CLOCK's hand came by */

  /* A bit for each group of QED_GROUP entries that aren't all 0.  It is set
   * before one of them changes.
   */
  _Atomic uint64_t groups;

  uint8_t state;
  uint32_t pins;                /* by threads that change the slice */
  bool sound;                   /* all entries are: see check_slice */
  bool writing;                 /* all of it, or a commit's part */
  bool reserved;                /* it has its space in the file */
  bool pending[2];              /* it's in the list of that set */
  uint32_t next_pending[2];     /* there */
};

#define NONE UINT32_MAX

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

  /* Keeps the lock off that cache line. */
  char apart[64];

  pthread_mutex_t lock;
  pthread_cond_t changed;       /* a slot left LOADING, or is pinned no more */
  uint32_t hand;
  uint32_t first_pending[2];    /* slots with entries in that set */
  unsigned open_set;            /* where new pending links go: 0 or 1 */
  uint32_t nr_pending, max_pending; /* slots with any */
  atomic_bool any_pending;      /* the open set isn't empty */
};

/* Atomics for what is written under the lock and read without it: release, so
 * that a lookup that saw the new value sees the slot's new seq too.
 */
#define PUBLISH(p, v) atomic_store_explicit (p, v, memory_order_release)
#define ACQUIRE(p) atomic_load_explicit (p, memory_order_acquire)

/* For a thread that has the lock, or has the slot to itself. */
#define RELAXED(p) atomic_load_explicit (p, memory_order_relaxed)

static inline qed_entry *
slot_entries (const struct qed_table *t, const struct slot *s)
{
  return t->entries[s - t->slots];
}

/* N entries of S from INDEX on are about to be set.  Called with the lock. */
static inline void
mark_groups (struct slot *s, uint64_t index, uint64_t n)
{
  uint64_t groups = RELAXED (&s->groups);

  for (uint64_t i = index / QED_GROUP; i <= (index + n - 1) / QED_GROUP; ++i)
    groups |= UINT64_C (1) << i;
  PUBLISH (&s->groups, groups);
}

/* The slot that the view is of: an L2 slice if there is one, else an L1 slice.
 * Called with the lock, which it drops while it reads or waits.  NULL, with a
 * message: a table can't be read.
 */
extern struct slot *qed_look_up (struct qed_table *t, uint64_t cluster,
                                 struct qed_view *view);

/* The slot of the L1 slice that CLUSTER's L1 entry is in, in the same way. */
extern struct slot *qed_load_l1 (struct qed_table *t, uint64_t cluster);

#endif /* QED_SLOTS_H */
