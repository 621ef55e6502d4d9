/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Changing L1 and L2 entries: links, pending links and their commit.
 *
 * A link (I4) writes entries to the file first and then changes them in the
 * slot.  The slot is pinned meanwhile: it isn't evicted, so no thread can read
 * the slice from the file while it is being written.  A thread that has pinned
 * a slot doesn't wait for another slot.
 *
 * Pending links (I3) are entries that have been changed in the slot only.  The
 * slot isn't evicted until they are in the file.  They are in one of two sets:
 * those made since the last commit began, and those that it writes.  A commit
 * writes a slice from the first to the last entry of its set.  In between it
 * writes the old values of the other set, whose data may not be durable.  So
 * no other write may go to that slice at the same time: a commit waits until
 * the slot isn't pinned, and a thread that has pinned it waits until the
 * commit has written it.  The same goes for reserving, which writes a slice
 * back as it is in the file, so that the filesystem allocates it.  Half of the
 * slots stay free of pending links, unless there is a slot for every slice.
 *
 * I9: nothing is linked in a slice that has an unsound entry.
 *
 * Locking: see slots.h.
 */

#include <config.h>

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "error.h"
#include "format.h"
#include "slots.h"
#include "storage.h"

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
  s = qed_look_up (t, cluster, &view);
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

/* Their write failed: does the file have what is in memory, or can that be
 * restored?  A full filesystem has mostly written nothing, and would fail
 * again.
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
  if (r == 0) {
    mark_groups (s, index, n);
    for (uint64_t i = 0; i < n; ++i)
      PUBLISH (&entries[i], le64toh (buf[i]));
  }
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
  struct slot *s = qed_look_up (t, cluster, &view);

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
  s = qed_load_l1 (t, cluster);
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

/* Write the entries FIRST ..  LAST of S: those pending in a set of which
 * WRITTEN isn't true as they are in the file.  Called with the lock, which it
 * drops meanwhile, and when nobody else is changing the slice in the file.
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
    mark_groups (s, index, n);
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
