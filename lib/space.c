/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Space for clusters and tables, at the end of the file or of what is in use.
 *
 *     0                              end            file_size
 *     +------------------------------+--------------+
 *     | header, tables, data         | a hole       |
 *     +------------------------------+--------------+
 *
 * I2: between END and FILE_SIZE there was never anything but a hole, so
 * clusters from there read as zeros.  The hole is large: the cost of extending
 * the file, and of making its length durable, is spread over many allocations.
 * It is cut off when the image is marked as clean.  If the file ended with a
 * partial cluster when it was opened, that is cut off first.
 *
 * I9: a corrupt image may have entries that point past the end of the file.
 * New clusters there would be mapped by such an entry too, at the latest when
 * the image is opened the next time.  So before the file is extended for the
 * first time all tables are read.  Clusters that such entries point to aren't
 * allocated: near ones are jumped over, and far ones limit the length of the
 * file.
 *
 * Storage of a fixed size, such as a block device, can't be extended, and what
 * is behind the image there may be anything:
 *
 *     0                              end            fresh_end     file_size
 *     +------------------------------+--------------+--------------+
 *     | header, tables, data         | zeros        | anything     |
 *     +------------------------------+--------------+--------------+
 *
 * The header doesn't say where END is: it is where the last thing ends that a
 * sound entry points to.  So before the first allocation all tables are read.
 * A check at open (writable.c) has found it already.  Then, in large steps,
 * the space behind FRESH_END is zeroed.  Only when a sync has made that durable
 * it is given away.  Otherwise a crash might leave a link to a new L2 table, or
 * to a cluster that was written in part, and the old content of the space.
 * After a crash END is found again, wherever FRESH_END was.  An entry that
 * points past the end of the storage never becomes sound, for that doesn't
 * move.
 *
 * Clusters in use are never freed.  But a request can fail after it allocated
 * some, for instance because the filesystem is full, and a client that tries
 * again and again must not make the file grow.  Such an allocation is undone:
 *
 *     a hole as before      It can be allocated at once.
 *     written in part       A hole is punched.  The space can be allocated once
 *                           a sync has ended that began after that: until then
 *                           a crash could bring the old bytes back (I2).  An
 *                           allocation that would fit there syncs instead of
 *                           extending the file.
 *     can't be punched      It isn't allocated again.
 *
 * Clusters whose entries were written and then restored are treated like those
 * that were written in part.  Until the old entries are durable a crash may
 * leave the new ones.  The clusters must read as zeros then, and must not
 * belong to anyone else.  Without a backing file unallocated and zero clusters
 * read as zeros, too.  In an overlay only entries for L2 tables are restored,
 * and these tables are empty.  Links to data are written by commits there, and
 * when a commit fails nothing more is written (I3, I5).
 *
 * Before the image is marked as clean END is drawn back over what is undone
 * there, and the file is cut, durably, so that it is zeros when the file grows
 * again.  On storage of a fixed size FRESH_END is drawn back too, if something
 * of that isn't zeros yet, so that it is zeroed again.  Otherwise FRESH_END
 * stays, so that an image which is written to now and then isn't zeroed each
 * time.  What is undone elsewhere is given back when the image is closed, by
 * moving what is behind it (reclaim.c).  Until then the image stays marked.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "check.h"
#include "error.h"
#include "space.h"
#include "storage.h"

/* A multiple of every cluster size. */
#define EXTEND_BYTES UINT64_C (0x4000000)
_Static_assert (EXTEND_BYTES % QED_MAX_CLUSTER_SIZE == 0, "extend");

/* Where zeros have to be written this takes less than a second. */
#define ZERO_BYTES (UINT64_C (8) << 20)

void
qed_space_init (struct qed_space *s, const struct qed_geometry *g)
{
  s->cluster_bits = g->cluster_bits;
  pthread_mutex_init (&s->lock, NULL);
  pthread_cond_init (&s->changed, NULL);
}

void
qed_space_destroy (struct qed_space *s)
{
  pthread_mutex_destroy (&s->lock);
  pthread_cond_destroy (&s->changed);
}

static uint64_t
in_cluster (const struct qed_space *s)
{
  return (UINT64_C (1) << s->cluster_bits) - 1;
}

void
qed_space_begin (struct qed_space *s, uint64_t file_size, uint64_t end,
                 bool checked)
{
  const bool fixed = s->st->fixed_size;
  const uint64_t clusters_end = file_size & ~in_cluster (s);

  s->file_size = file_size;
  s->first = s->end = fixed && !checked ? clusters_end : end;
  s->fresh_end = fixed ? s->end : file_size;
  s->checked = checked;
  /* The limit of all files: lengths are signed. */
  s->limit = fixed ? clusters_end : INT64_MAX;
  /* Or that isn't known yet. */
  atomic_store (&s->near_limit,
                fixed && (!checked || clusters_end - end < EXTEND_BYTES));
  /* A header and an L1 table: there are two clusters at least. */
  atomic_store (&s->last_cluster,
                file_size - (UINT64_C (1) << s->cluster_bits));
}

/* Before the first extension: where may clusters be taken?  *END is where the
 * file ends.
 */
static int
find_room (struct qed_space *s, uint64_t *end, uint64_t *limit)
{
  struct qed_past_end past;

  if (qed_find_past_end (s->st, s->h, *end, &past) == -1)
    return -1;
  if (past.count > 0) {
    atomic_store (s->corrupt, true);
    if (qed_debug)
      qed_debug ("%s: %" PRIu64 " entries point past the end of the file: "
                 "the image is corrupt: run qed-img check -r all",
                 s->st->name, past.count);
  }
  if (s->st->fixed_size) {
    *end = past.end;
    return 0;
  }
  *end = past.near_end;
  *limit = past.far < INT64_MAX ? past.far : INT64_MAX;
  return 0;
}

/* END is too near to LIMIT. */
static int
limit_error (struct qed_space *s, uint64_t end, uint64_t limit)
{
  atomic_store (&s->near_limit, true);
  if (s->st->fixed_size)
    return qed_error (ENOSPC, "%s: no more clusters can be allocated: of the "
                      "%" PRIu64 " bytes of this device or export %" PRIu64
                      " are left: what is allocated can be written to as "
                      "before; for more make it larger, or copy the image to "
                      "a larger one, and open it again", s->st->name, limit,
                      end < limit ? limit - end : 0);
  return qed_error (EFBIG, "%s: no more clusters can be allocated: the file "
                    "can't be longer, or a corrupt entry points to %" PRIu64
                    ": run qed-img check -r all", s->st->name, limit);
}

/* Called with the lock. */
static void
set_file_size (struct qed_space *s, uint64_t size)
{
  s->file_size = size;
  if (!s->st->fixed_size)
    s->fresh_end = size;
  s->resizes++;
  atomic_store (&s->last_cluster,
                size > in_cluster (s) ? size - in_cluster (s) - 1 : 0);
}

void
qed_space_expect_cut (struct qed_space *s, uint64_t size)
{
  if (s->st->fixed_size)
    return;
  pthread_mutex_lock (&s->lock);
  set_file_size (s, size);
  pthread_mutex_unlock (&s->lock);
}

/* If the file is resized while its length is looked at then that says nothing,
 * and is done again.
 */
int
qed_space_check_length (struct qed_space *s)
{
  uint64_t known, before = 0, after;
  int64_t size;

  pthread_mutex_lock (&s->lock);
  do {
    known = s->file_size;
    before = s->resizes;
    pthread_mutex_unlock (&s->lock);
    size = qed_storage_size (s->st);
    if (size == -1)
      return 0; /* isn't known: what else is done will show */
    pthread_mutex_lock (&s->lock);
    after = s->resizes;
  } while ((uint64_t) size < known && before != after);
  pthread_mutex_unlock (&s->lock);

  if ((uint64_t) size >= known)
    return 0;
  atomic_store (s->corrupt, true);
  qed_error (EIO, "%s: the file has been cut short while in use: it has %"
             PRIi64 " bytes, and should have %" PRIu64 ": run qed-img check "
             "-r all", s->st->name, size, known);
  return qed_sync_fail (s->sync, EIO);
}

/* How far is fresh space to reach, so that BYTES and more follow END? */
static int
choose_end (struct qed_space *s, uint64_t end, uint64_t limit, uint64_t bytes,
            uint64_t *least, uint64_t *want)
{
  if (end > limit || bytes > limit - end)
    return limit_error (s, end, limit);
  *least = *want = end + bytes;
  if (EXTEND_BYTES <= limit - *least)
    *want += EXTEND_BYTES;
  else {
    atomic_store (&s->near_limit, true);
    if (s->st->fixed_size)
      *want = limit;
  }
  return 0;
}

/* Extend the file so that BYTES and more follow END, up to LIMIT; *SIZE is its
 * length, and becomes the new one.  Called without the lock.
 */
static int
extend (struct qed_space *s, uint64_t end, uint64_t limit, uint64_t bytes,
        uint64_t *size)
{
  uint64_t least, want;

  if (choose_end (s, end, limit, bytes, &least, &want) == -1)
    return -1;
  if (qed_space_check_length (s) == -1)
    return -1;
  if (*size & in_cluster (s)) {
    if (qed_storage_resize (s->st, *size & ~in_cluster (s)) == -1)
      return -1;
    *size &= ~in_cluster (s);
  }
  /* A limit of the system's may be between the two. */
  if (qed_storage_resize (s->st, want) == -1) {
    want = least;
    if (qed_storage_resize (s->st, want) == -1)
      return -1;
  }
  *size = want;
  qed_sync_mark (s->sync);
  return 0;
}

/* One thread extends the file while the others wait.  Nothing is allocated
 * before the first time.  Called with the lock, which it drops meanwhile.
 */
static int
make_file_longer (struct qed_space *s, uint64_t bytes)
{
  /* Meanwhile others may take what there is, which leaves enough. */
  uint64_t end = s->end, size = s->file_size, limit = s->limit;
  bool first = !s->checked;
  int r = 0;

  s->extending = true;
  if (size & in_cluster (s)) /* it will be cut first */
    set_file_size (s, size & ~in_cluster (s));
  pthread_mutex_unlock (&s->lock);
  if (first)
    r = find_room (s, &end, &limit);
  if (r == 0)
    r = extend (s, end, limit, bytes, &size);
  if (r == 0)
    qed_table_grow (s->table, first ? end : s->first, size);
  pthread_mutex_lock (&s->lock);
  s->extending = false;
  set_file_size (s, size);
  if (r == 0 && first) {
    s->checked = true;
    s->first = s->end = end;
    s->limit = limit;
  }
  pthread_cond_broadcast (&s->changed);
  return r;
}

/* Storage of a fixed size: find END once.  Nothing is allocated before that.
 * Called with the lock, which it drops meanwhile.
 */
static int
find_end (struct qed_space *s)
{
  uint64_t end = s->end, limit = s->limit;
  int r;

  s->extending = true;
  pthread_mutex_unlock (&s->lock);
  r = find_room (s, &end, &limit);
  pthread_mutex_lock (&s->lock);
  s->extending = false;
  if (r == 0) {
    s->checked = true;
    s->first = s->end = s->fresh_end = end;
    atomic_store (&s->near_limit, limit - end < EXTEND_BYTES);
  }
  pthread_cond_broadcast (&s->changed);
  return r;
}

/* Zero a range, durably.  Called without the lock. */
static int
make_zeros (struct qed_space *s, uint64_t offset, uint64_t end)
{
  int r = 0;

  for (uint64_t n; r == 0 && offset < end; offset += n) {
    n = end - offset < ZERO_BYTES ? end - offset : ZERO_BYTES;
    if (qed_interrupted && qed_interrupted ())
      r = qed_error (ESHUTDOWN, "%s: zeroing space was interrupted: the "
                     "program is terminating", s->st->name);
    else
      r = qed_storage_clear (s->st, offset, n);
  }
  qed_forget_data (s->data);
  qed_sync_mark (s->sync);
  return r == -1 ? -1 : qed_sync_run (s->sync);
}

/* Storage of a fixed size: zero a step behind what was zeroed, so that BYTES
 * and more follow END.  One thread does that while the others wait.  It is
 * given away only when it is durable.  Called with the lock, which it drops
 * meanwhile.
 */
static int
zero_step (struct qed_space *s, uint64_t bytes)
{
  /* Meanwhile others may take what there is, which leaves enough. */
  const uint64_t end = s->end, fresh_end = s->fresh_end;
  uint64_t least, want = 0;
  int r;

  s->extending = true;
  pthread_mutex_unlock (&s->lock);
  r = choose_end (s, end, s->limit, bytes, &least, &want);
  if (r == 0)
    r = qed_space_check_length (s);
  if (r == 0)
    r = make_zeros (s, fresh_end, want);
  pthread_mutex_lock (&s->lock);
  s->extending = false;
  if (r == 0)
    s->fresh_end = want;
  pthread_cond_broadcast (&s->changed);
  return r;
}

/* Make that BYTES follow END, or a step towards that. */
static int
make_room (struct qed_space *s, uint64_t bytes)
{
  return !s->st->fixed_size ? make_file_longer (s, bytes) :
    s->checked ? zero_step (s, bytes) : find_end (s);
}

/* Does U read as zeros, durably?  Called with the lock, as are all static
 * functions up to qed_space_alloc.
 */
static bool
is_usable (const struct qed_space *s, const struct qed_undone *u)
{
  return u->bytes > 0 && u->sync <= atomic_load (&s->sync->last) &&
    atomic_load (&s->sync->failed) == 0;
}

/* Take BYTES from what was undone, if there is a place large enough. */
static bool
take_undone (struct qed_space *s, uint64_t bytes, uint64_t *offset)
{
  for (struct qed_undone *u = s->undone; u < s->undone + QED_MAX_UNDONE; ++u)
    if (u->bytes >= bytes && is_usable (s, u)) {
      *offset = u->offset;
      u->offset += bytes;
      u->bytes -= bytes;
      return true;
    }
  return false;
}

/* Would there be such a place after a sync?  If what is undone is at END there
 * is what follows, too, and that is needed only if it can't be had otherwise.
 */
static bool
sync_would_help (const struct qed_space *s, uint64_t bytes)
{
  const bool full = s->end > s->limit || bytes > s->limit - s->end;
  const struct qed_undone *u = s->undone;

  for (; u < s->undone + QED_MAX_UNDONE; ++u)
    if (u->bytes > 0 && u->sync != UINT64_MAX &&
        (u->bytes >= bytes ||
         (full && u->offset + u->bytes == s->end && s->end <= s->limit &&
          bytes <= s->limit - u->offset)))
      return true;
  return false;
}

/* Neighbours are merged if both may be given away again at once, or both after
 * a sync, or neither.
 */
static bool
are_alike (const struct qed_undone *a, const struct qed_undone *b)
{
  return (a->sync == 0) == (b->sync == 0) &&
    (a->sync == UINT64_MAX) == (b->sync == UINT64_MAX);
}

static void
add_undone (struct qed_space *s, struct qed_undone new)
{
  struct qed_undone *place = NULL;

  for (int i = 0; i < QED_MAX_UNDONE; ++i) {
    struct qed_undone *u = &s->undone[i];

    if (u->bytes > 0 && are_alike (u, &new) &&
        (u->offset + u->bytes == new.offset ||
         new.offset + new.bytes == u->offset)) {
      new.offset = u->offset < new.offset ? u->offset : new.offset;
      new.bytes += u->bytes;
      new.sync = u->sync > new.sync ? u->sync : new.sync;
      u->bytes = 0;
      i = -1; /* it may have another neighbour now */
      place = u;
    }
    else if (u->bytes == 0 && place == NULL)
      place = u;
  }
  if (place)
    *place = new;
  else
    s->forgotten = true;
}

/* The end of the space in use, without what is undone there.  ANY: though it
 * doesn't read as zeros.
 */
static uint64_t
end_of_use (const struct qed_space *s, bool any)
{
  uint64_t end = s->end;

  for (int i = 0; i < QED_MAX_UNDONE; ++i) {
    const struct qed_undone *u = &s->undone[i];

    if (u->bytes > 0 && u->offset + u->bytes == end &&
        (any || is_usable (s, u))) {
      end = u->offset;
      i = -1; /* another one may be the last now */
    }
  }
  return end;
}

static void
set_end (struct qed_space *s, uint64_t end)
{
  s->end = end;
  s->any_undone = false;
  for (int i = 0; i < QED_MAX_UNDONE; ++i)
    if (s->undone[i].offset >= end)
      s->undone[i].bytes = 0;
    else
      s->any_undone |= s->undone[i].bytes > 0;
}

bool
qed_space_is_limited (const struct qed_space *s)
{
  return atomic_load (&s->near_limit);
}

int
qed_space_check_room (struct qed_space *s, uint64_t count)
{
  uint64_t end, limit, room;
  int r = 0;

  pthread_mutex_lock (&s->lock);
  while (r == 0 && s->st->fixed_size && !s->checked)
    if (s->extending)
      pthread_cond_wait (&s->changed, &s->lock);
    else
      r = find_end (s);
  end = s->end;
  limit = s->limit;
  room = !s->checked ? INT64_MAX : end < limit ? limit - end : 0;
  for (int i = 0; i < QED_MAX_UNDONE; ++i)
    if (s->undone[i].sync != UINT64_MAX) /* at the latest after a sync */
      room += s->undone[i].bytes;
  pthread_mutex_unlock (&s->lock);
  return r == -1 ? -1 : count <= room >> s->cluster_bits ? 0 :
    limit_error (s, end, limit);
}

/* Take BYTES from what was undone, if there is a place, maybe after a sync.
 * Drops the lock meanwhile.
 */
static int
use_undone (struct qed_space *s, uint64_t bytes, uint64_t *offset,
            bool *taken)
{
  int r = 0;

  *taken = take_undone (s, bytes, offset);
  if (!*taken && sync_would_help (s, bytes)) {
    pthread_mutex_unlock (&s->lock);
    r = qed_sync_run (s->sync);
    pthread_mutex_lock (&s->lock);
    *taken = r == 0 && take_undone (s, bytes, offset);
  }
  set_end (s, end_of_use (s, false));
  return r;
}

int
qed_space_alloc (struct qed_space *s, uint64_t count, uint64_t *offset)
{
  uint64_t bytes = count << s->cluster_bits;
  bool taken = false;
  int r = 0;

  pthread_mutex_lock (&s->lock);
  if (s->any_undone)
    r = use_undone (s, bytes, offset, &taken);
  while (r == 0 && !taken && s->fresh_end - s->end < bytes)
    if (s->extending)
      pthread_cond_wait (&s->changed, &s->lock);
    else
      r = make_room (s, bytes);
  if (r == 0 && !taken) {
    *offset = s->end;
    s->end += bytes;
  }
  pthread_mutex_unlock (&s->lock);
  return r;
}

static bool
is_hole (struct qed_storage *st, uint64_t bytes, uint64_t offset)
{
  bool hole;
  int64_t end = st->ops->next_extent (st, offset, &hole);

  return end != -1 && hole && (uint64_t) end >= offset + bytes;
}

/* Make a range read as zeros, if that doesn't take long; without a message. */
static bool
make_hole (struct qed_storage *st, uint64_t bytes, uint64_t offset)
{
  int r;

  do
    r = st->ops->punch (st, offset, bytes);
  while (r == -1 && errno == EINTR);
  if (r == -1 && errno == EOPNOTSUPP)
    do
      r = st->ops->zero (st, offset, bytes);
    while (r == -1 && errno == EINTR);
  return r == 0;
}

void
qed_space_undo (struct qed_space *s, uint64_t count, uint64_t offset,
                bool restored)
{
  struct qed_undone u = {
    .offset = offset, .bytes = count << s->cluster_bits
  };
  int err = errno;
  bool hole = is_hole (s->st, u.bytes, offset);
  bool spoilt = !hole && !make_hole (s->st, u.bytes, offset);

  if (!hole) {
    qed_forget_data (s->data);
    qed_sync_mark (s->sync);
  }
  pthread_mutex_lock (&s->lock);
  u.sync = spoilt ? UINT64_MAX : hole && !restored ? 0 :
    atomic_load (&s->sync->begun) + 1;
  add_undone (s, u);
  set_end (s, end_of_use (s, false));
  pthread_mutex_unlock (&s->lock);
  errno = err;
}

void
qed_space_unused (struct qed_space *s, uint64_t count, uint64_t offset)
{
  const struct qed_undone u = {
    .offset = offset, .bytes = count << s->cluster_bits
  };

  pthread_mutex_lock (&s->lock);
  add_undone (s, u);
  set_end (s, end_of_use (s, false));
  pthread_mutex_unlock (&s->lock);
}

/* Storage of a fixed size: draw END back. */
static void
give_tail_back (struct qed_space *s)
{
  uint64_t end;

  set_end (s, end_of_use (s, false));
  end = end_of_use (s, true);
  if (end < s->end) {
    s->fresh_end = end; /* it has to be zeroed again */
    set_end (s, end);
  }
}

static int
cut_file (struct qed_space *s)
{
  uint64_t end, size;
  int r = 0;

  pthread_mutex_lock (&s->lock);
  end = end_of_use (s, true);
  size = s->file_size;
  pthread_mutex_unlock (&s->lock);
  if (size != end) {
    if (qed_space_check_length (s) == -1)
      return -1;
    qed_space_expect_cut (s, end);
    r = qed_storage_resize (s->st, end);
    if (r == 0)
      qed_sync_mark (s->sync);
  }
  pthread_mutex_lock (&s->lock);
  if (r == -1)
    set_file_size (s, size);
  else
    set_end (s, end);
  pthread_mutex_unlock (&s->lock);
  return r;
}

int
qed_space_cut_tail (struct qed_space *s, bool *left)
{
  if (!s->st->fixed_size && cut_file (s) == -1)
    return -1;
  pthread_mutex_lock (&s->lock);
  if (s->st->fixed_size)
    give_tail_back (s);
  *left = s->forgotten || s->any_undone;
  pthread_mutex_unlock (&s->lock);
  return 0;
}

void
qed_space_set (struct qed_space *s, uint64_t size)
{
  pthread_mutex_lock (&s->lock);
  set_file_size (s, size);
  set_end (s, size & ~in_cluster (s));
  if (s->st->fixed_size) {
    s->fresh_end = s->end;
    s->checked = false;
  }
  memset (s->undone, 0, sizeof s->undone);
  s->any_undone = s->forgotten = false;
  pthread_mutex_unlock (&s->lock);
}
