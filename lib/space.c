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
 * Space is never given back, but for what a failed write left as it was, for
 * instance because the filesystem is full: who tries again and again must not
 * make the file grow.  What was written in part isn't made a hole again for
 * the next one: a crash could undo just that.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>

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
  pthread_mutex_unlock (&w->lock);
  if (first)
    r = find_room (img, &end, &limit);
  if (r == 0)
    r = extend (img, end, limit, bytes, &size);
  if (r == 0)
    qed_table_grow (img->table, first ? end : w->first, size);
  pthread_mutex_lock (&w->lock);
  w->extending = false;
  w->file_size = size;
  if (r == 0 && first) {
    w->checked = true;
    w->first = w->end = end;
    w->limit = limit;
  }
  pthread_cond_broadcast (&w->changed);
  return r;
}

/* Take BYTES from what was undone, if there is a place large enough.  Called
 * with the lock, as are all up to qed_alloc.
 */
static bool
take_undone (struct qed_writer *w, uint64_t bytes, uint64_t *offset)
{
  for (int i = 0; i < QED_MAX_UNDONE; ++i)
    if (w->undone[i].bytes >= bytes) {
      *offset = w->undone[i].offset;
      w->undone[i].offset += bytes;
      w->undone[i].bytes -= bytes;
      return true;
    }
  return false;
}

static void
add_undone (struct qed_writer *w, uint64_t bytes, uint64_t offset)
{
  for (int i = 0; i < QED_MAX_UNDONE; ++i)
    if (w->undone[i].bytes == 0) {
      w->undone[i].offset = offset;
      w->undone[i].bytes = bytes;
      return;
    }
}

/* What was undone at the end isn't given away any more. */
static void
draw_back_end (struct qed_writer *w)
{
  for (int i = 0; i < QED_MAX_UNDONE; ++i)
    if (w->undone[i].bytes > 0 &&
        w->undone[i].offset + w->undone[i].bytes == w->end) {
      w->end = w->undone[i].offset;
      w->undone[i].bytes = 0;
      i = -1; /* another one may be the last now */
    }
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

  if (img->st->fixed_size)
    return find_room (img, &end, &limit); /* that's an error */
  pthread_mutex_lock (&w->lock);
  limit = w->limit;
  room = w->checked && w->end < limit ? limit - w->end : 0;
  if (!w->checked)
    room = UINT64_MAX;
  for (int i = 0; i < QED_MAX_UNDONE; ++i)
    room += w->undone[i].bytes;
  pthread_mutex_unlock (&w->lock);
  return count <= room >> img->g.cluster_bits ? 0 : limit_error (img, limit);
}

int
qed_alloc (struct qed_image *img, uint64_t count, uint64_t *offset)
{
  struct qed_writer *w = img->writer;
  uint64_t bytes = count << img->g.cluster_bits;
  int r = 0;

  pthread_mutex_lock (&w->lock);
  if (!take_undone (w, bytes, offset)) {
    while (r == 0 && w->file_size - w->end < bytes)
      if (w->extending)
        pthread_cond_wait (&w->changed, &w->lock);
      else
        r = make_room (img, bytes);
    if (r == 0) {
      *offset = w->end;
      w->end += bytes;
    }
  }
  pthread_mutex_unlock (&w->lock);
  return r;
}

void
qed_alloc_undo (struct qed_image *img, uint64_t count, uint64_t offset)
{
  struct qed_writer *w = img->writer;
  uint64_t bytes = count << img->g.cluster_bits;
  int err = errno;
  bool hole;
  int64_t end = img->st->ops->next_extent (img->st, offset, &hole);

  if (end != -1 && hole && (uint64_t) end >= offset + bytes) {
    pthread_mutex_lock (&w->lock);
    add_undone (w, bytes, offset);
    draw_back_end (w);
    pthread_mutex_unlock (&w->lock);
  }
  errno = err;
}

int
qed_cut_tail (struct qed_image *img)
{
  struct qed_writer *w = img->writer;

  if (w->file_size == w->end || img->st->fixed_size)
    return 0;
  if (qed_storage_resize (img->st, w->end) == -1)
    return -1;
  atomic_store (&w->unsynced, true);
  w->file_size = w->end;
  return 0;
}
