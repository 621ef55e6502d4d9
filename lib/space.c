/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */


/* Space for clusters and tables, at the end of the file.
 *
 *     0                              end            file_size
 *     +------------------------------+--------------+
 *     | header, tables, data         | a hole       |
 *     +------------------------------+--------------+
 *
 * I2: what lies between END and FILE_SIZE was never anything but a hole, so
 * what is taken from it reads as zeros.  It is large, so that extending the
 * file, and making its length durable, doesn't cost anything in the long run,
 * and is cut off when the image is marked as clean.  A partial cluster, which
 * the file may have ended with when it was opened, is cut off first.
 *
 * I9: a corrupt image may have entries that point past the end of the file,
 * and would map what others get there, if not now then when it is opened the
 * next time.  So before the file is extended for the first time its tables are
 * read.  What such entries point to is left out: what is near is jumped over,
 * what is far limits the length of the file.
 *
 * Space in use is never given back.  But a request can fail after it took some,
 * for instance because the filesystem is full, and a client that tries again
 * and again must not make the file grow.  Such space is undone:
 *
 *     a hole as before      It can be given away at once.
 *     written in part       A hole is punched.  The space can be given away
 *                           once a sync has ended that began after that: until
 *                           then a crash could bring the old bytes back (I2).
 *                           An allocation that would fit syncs, and doesn't
 *                           make the file longer.
 *     can't be punched      Nobody gets it.
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
 * again.  What is undone elsewhere is given back when the image is closed, by
 * moving what is behind it (repair.c).  Until then the image stays marked.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "check.h"
#include "error.h"
#include "format.h"
#include "image.h"
#include "storage.h"
#include "table.h"
#include "writer.h"

/* A multiple of every cluster size. */
#define EXTEND_BYTES UINT64_C (0x4000000)
_Static_assert (EXTEND_BYTES % QED_MAX_CLUSTER_SIZE == 0, "extend");

/* Before the first extension: where may clusters be taken?  *END is where the
 * file ends.
 */
static int
find_room (struct qed_image *img, uint64_t *end, uint64_t *limit)
{
  struct qed_past_end past;

  if (img->st->fixed_size)
    return qed_error (ENOSPC, "%s: no more clusters can be allocated: the "
                      "image is a block device, which can't be extended",
                      img->st->name);
  if (qed_find_past_end (img->st, &img->h, *end, &past) == -1)
    return -1;
  if (past.count > 0) {
    atomic_store (&img->corrupt, true);
    if (qed_debug)
      qed_debug ("%s: %" PRIu64 " entries point past the end of the file: "
                 "the image is corrupt: run qed-img check -r all",
                 img->st->name, past.count);
  }
  *end = past.near_end;
  *limit = past.far < INT64_MAX ? past.far : INT64_MAX;
  return 0;
}

static int
limit_error (struct qed_image *img, uint64_t limit)
{
  atomic_store (&img->writer->near_limit, true);
  return qed_error (EFBIG, "%s: no more clusters can be allocated: the file "
                    "can't be longer, or a corrupt entry points to %" PRIu64
                    ": qed-img check -r all would tell", img->st->name, limit);
}

/* Called with the lock. */
static void
set_file_size (struct qed_writer *w, uint64_t size)
{
  w->file_size = size;
  w->resizes++;
  atomic_store (&w->last_cluster,
                size > w->h.cluster_size ? size - w->h.cluster_size : 0);
}

void
qed_expect_cut (struct qed_image *img, uint64_t size)
{
  struct qed_writer *w = img->writer;

  pthread_mutex_lock (&w->lock);
  set_file_size (w, size);
  pthread_mutex_unlock (&w->lock);
}

/* If the file is resized while its length is looked at then that says nothing,
 * and is done again.
 */
int
qed_check_length (struct qed_image *img)
{
  struct qed_writer *w = img->writer;
  uint64_t known, before = 0, after;
  int64_t size;

  pthread_mutex_lock (&w->lock);
  do {
    known = w->file_size;
    before = w->resizes;
    pthread_mutex_unlock (&w->lock);
    size = qed_storage_size (img->st);
    if (size == -1)
      return 0; /* isn't known: what else is done will show */
    pthread_mutex_lock (&w->lock);
    after = w->resizes;
  } while ((uint64_t) size < known && before != after);
  pthread_mutex_unlock (&w->lock);

  if ((uint64_t) size >= known)
    return 0;
  atomic_store (&img->corrupt, true);
  qed_error (EIO, "%s: the file has been cut short while in use: it has %"
             PRIi64 " bytes, and should have %" PRIu64 ": run qed-img check "
             "-r all", img->st->name, size, known);
  return qed_writer_fail (img, EIO);
}

/* Extend the file so that BYTES and more follow END, up to LIMIT; *SIZE is its
 * length, and becomes the new one.  Called without the lock.
 */
static int
extend (struct qed_image *img, uint64_t end, uint64_t limit, uint64_t bytes,
        uint64_t *size)
{
  uint64_t least, want;

  if (end > limit || bytes > limit - end)
    return limit_error (img, limit);
  least = end + bytes;
  want = least;
  if (EXTEND_BYTES <= limit - least)
    want += EXTEND_BYTES;
  else
    atomic_store (&img->writer->near_limit, true);

  if (qed_check_length (img) == -1)
    return -1;
  if (*size & (img->g.cluster_size - 1)) {
    if (qed_storage_resize (img->st, *size & ~(img->g.cluster_size - 1)) == -1)
      return -1;
    *size &= ~(img->g.cluster_size - 1);
  }
  /* A limit of the system's may be between the two. */
  if (qed_storage_resize (img->st, want) == -1) {
    want = least;
    if (qed_storage_resize (img->st, want) == -1)
      return -1;
  }
  *size = want;
  atomic_store (&img->writer->unsynced, true);
  return 0;
}

/* One thread does it while the others wait; nobody is given anything before
 * the first time.  Called with the lock, which it drops meanwhile.
 */
static int
make_room (struct qed_image *img, uint64_t bytes)
{
  struct qed_writer *w = img->writer;
  /* Meanwhile others may take what there is, which leaves enough. */
  uint64_t end = w->end, size = w->file_size, limit = w->limit;
  bool first = !w->checked;
  int r = 0;

  w->extending = true;
  if (size & (img->g.cluster_size - 1)) /* it will be cut first */
    set_file_size (w, size & ~(img->g.cluster_size - 1));
  pthread_mutex_unlock (&w->lock);
  if (first)
    r = find_room (img, &end, &limit);
  if (r == 0)
    r = extend (img, end, limit, bytes, &size);
  if (r == 0)
    qed_table_grow (img->table, first ? end : w->first, size);
  pthread_mutex_lock (&w->lock);
  w->extending = false;
  set_file_size (w, size);
  if (r == 0 && first) {
    w->checked = true;
    w->first = w->end = end;
    w->limit = limit;
  }
  pthread_cond_broadcast (&w->changed);
  return r;
}

/* Does U read as zeros, durably?  Called with the lock, as are all up to
 * qed_alloc.
 */
static bool
is_usable (const struct qed_writer *w, const struct qed_undone *u)
{
  return u->bytes > 0 && u->sync <= w->last_synced &&
    atomic_load (&w->failed) == 0;
}

/* Take BYTES from what was undone, if there is a place large enough. */
static bool
take_undone (struct qed_writer *w, uint64_t bytes, uint64_t *offset)
{
  for (struct qed_undone *u = w->undone; u < w->undone + QED_MAX_UNDONE; ++u)
    if (u->bytes >= bytes && is_usable (w, u)) {
      *offset = u->offset;
      u->offset += bytes;
      u->bytes -= bytes;
      return true;
    }
  return false;
}

/* Would there be such a place after a sync? */
static bool
sync_would_help (const struct qed_writer *w, uint64_t bytes)
{
  const struct qed_undone *u = w->undone;

  for (; u < w->undone + QED_MAX_UNDONE; ++u)
    if (u->bytes >= bytes && u->sync != UINT64_MAX)
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
add_undone (struct qed_writer *w, struct qed_undone new)
{
  struct qed_undone *place = NULL;

  for (int i = 0; i < QED_MAX_UNDONE; ++i) {
    struct qed_undone *u = &w->undone[i];

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
    w->forgotten = true;
}

/* The end of the space in use, without what is undone there.  ANY: though it
 * doesn't read as zeros.
 */
static uint64_t
end_of_use (const struct qed_writer *w, bool any)
{
  uint64_t end = w->end;

  for (int i = 0; i < QED_MAX_UNDONE; ++i) {
    const struct qed_undone *u = &w->undone[i];

    if (u->bytes > 0 && u->offset + u->bytes == end &&
        (any || is_usable (w, u))) {
      end = u->offset;
      i = -1; /* another one may be the last now */
    }
  }
  return end;
}

static void
set_end (struct qed_writer *w, uint64_t end)
{
  w->end = end;
  w->any_undone = false;
  for (int i = 0; i < QED_MAX_UNDONE; ++i)
    if (w->undone[i].offset >= end)
      w->undone[i].bytes = 0;
    else
      w->any_undone |= w->undone[i].bytes > 0;
}

bool
qed_room_is_limited (const struct qed_image *img)
{
  return img->st->fixed_size || atomic_load (&img->writer->near_limit);
}

int
qed_check_room (struct qed_image *img, uint64_t count)
{
  struct qed_writer *w = img->writer;
  uint64_t end, limit, room;

  pthread_mutex_lock (&w->lock);
  end = w->end;
  limit = w->limit;
  room = !w->checked ? INT64_MAX : end < limit ? limit - end : 0;
  for (int i = 0; i < QED_MAX_UNDONE; ++i)
    if (is_usable (w, &w->undone[i]))
      room += w->undone[i].bytes;
  pthread_mutex_unlock (&w->lock);
  if (img->st->fixed_size)
    return find_room (img, &end, &limit); /* it is known without looking */
  return count <= room >> img->g.cluster_bits ? 0 : limit_error (img, limit);
}

/* Take BYTES from what was undone, if there is a place, maybe after a sync.
 * Drops the lock meanwhile.
 */
static int
use_undone (struct qed_image *img, uint64_t bytes, uint64_t *offset,
            bool *taken)
{
  struct qed_writer *w = img->writer;
  int r = 0;

  *taken = take_undone (w, bytes, offset);
  if (!*taken && sync_would_help (w, bytes)) {
    pthread_mutex_unlock (&w->lock);
    r = qed_sync_written (img);
    pthread_mutex_lock (&w->lock);
    *taken = r == 0 && take_undone (w, bytes, offset);
  }
  set_end (w, end_of_use (w, false));
  return r;
}

int
qed_alloc (struct qed_image *img, uint64_t count, uint64_t *offset)
{
  struct qed_writer *w = img->writer;
  uint64_t bytes = count << img->g.cluster_bits;
  bool taken = false;
  int r = 0;

  pthread_mutex_lock (&w->lock);
  if (w->any_undone)
    r = use_undone (img, bytes, offset, &taken);
  while (r == 0 && !taken && w->file_size - w->end < bytes)
    if (w->extending)
      pthread_cond_wait (&w->changed, &w->lock);
    else
      r = make_room (img, bytes);
  if (r == 0 && !taken) {
    *offset = w->end;
    w->end += bytes;
  }
  pthread_mutex_unlock (&w->lock);
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
qed_alloc_undo (struct qed_image *img, uint64_t count, uint64_t offset,
                bool restored)
{
  struct qed_writer *w = img->writer;
  struct qed_undone u = {
    .offset = offset, .bytes = count << img->g.cluster_bits
  };
  int err = errno;
  bool hole = is_hole (img->st, u.bytes, offset);
  bool spoilt = !hole && !make_hole (img->st, u.bytes, offset);

  if (!hole) {
    qed_forget_data (&img->data);
    qed_mark_unsynced (img);
  }
  pthread_mutex_lock (&w->lock);
  u.sync = spoilt ? UINT64_MAX : hole && !restored ? 0 : w->syncs_begun + 1;
  add_undone (w, u);
  set_end (w, end_of_use (w, false));
  pthread_mutex_unlock (&w->lock);
  errno = err;
}

void
qed_alloc_unused (struct qed_image *img, uint64_t count, uint64_t offset)
{
  struct qed_writer *w = img->writer;
  const struct qed_undone u = {
    .offset = offset, .bytes = count << img->g.cluster_bits
  };

  pthread_mutex_lock (&w->lock);
  add_undone (w, u);
  set_end (w, end_of_use (w, false));
  pthread_mutex_unlock (&w->lock);
}

int
qed_cut_tail (struct qed_image *img, bool *left)
{
  struct qed_writer *w = img->writer;
  uint64_t end, size;
  int r = 0;

  pthread_mutex_lock (&w->lock);
  end = end_of_use (w, true);
  size = w->file_size;
  pthread_mutex_unlock (&w->lock);
  if (size != end && !img->st->fixed_size) {
    if (qed_check_length (img) == -1)
      return -1;
    qed_expect_cut (img, end);
    r = qed_storage_resize (img->st, end);
    if (r == 0)
      atomic_store (&w->unsynced, true);
  }
  pthread_mutex_lock (&w->lock);
  if (r == -1)
    set_file_size (w, size);
  else if (!img->st->fixed_size)
    set_end (w, end);
  *left = w->forgotten || w->any_undone;
  pthread_mutex_unlock (&w->lock);
  return r;
}

void
qed_set_space (struct qed_image *img, uint64_t size)
{
  struct qed_writer *w = img->writer;

  pthread_mutex_lock (&w->lock);
  set_file_size (w, size);
  set_end (w, size & ~(img->g.cluster_size - 1));
  memset (w->undone, 0, sizeof w->undone);
  w->any_undone = w->forgotten = false;
  pthread_mutex_unlock (&w->lock);
}
