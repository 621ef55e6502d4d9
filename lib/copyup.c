/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Copy-up: a partial write to an unallocated cluster of an overlay, with the
 * backing file's content around it.
 *
 * The rest of the cluster has to read as before, so it is copied from the
 * backing file.  What the request overwrites isn't read, nor is what is known
 * to be zeros in the backing file.  At the outer edges zeros aren't written
 * either: the cluster is fresh space (I2).  Copies and data go out with one
 * write unless the clusters are very large.
 *
 * Locking: the lock of the writer guards the list of free buffers only.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "allocate.h"
#include "error.h"
#include "image.h"
#include "storage.h"
#include "writer.h"

/* The size of a buffer, in bytes: both ends of a write, if they fit in. */
#define MAX_COPY (UINT64_C (512) << 10)

/* So many free buffers are kept, for as many threads. */
#define MAX_BUFFERS 16

static uint64_t
buffer_size (const struct qed_image *img)
{
  uint64_t both = 2 * img->g.cluster_size;

  return both < MAX_COPY ? both : MAX_COPY;
}

static struct qed_buffer *
get_buffer (struct qed_image *img)
{
  struct qed_writer *w = img->writer;
  struct qed_buffer *b;

  pthread_mutex_lock (&w->lock);
  b = w->buffers;
  if (b) {
    w->buffers = b->next;
    w->nr_buffers--;
  }
  pthread_mutex_unlock (&w->lock);
  if (b == NULL && (b = malloc (sizeof *b + buffer_size (img))) == NULL)
    qed_error (errno, "%s: %m", img->st->name);
  return b;
}

static void
put_buffer (struct qed_image *img, struct qed_buffer *b)
{
  struct qed_writer *w = img->writer;

  pthread_mutex_lock (&w->lock);
  if (w->nr_buffers < MAX_BUFFERS) {
    b->next = w->buffers;
    w->buffers = b;
    w->nr_buffers++;
    b = NULL;
  }
  pthread_mutex_unlock (&w->lock);
  free (b);
}

/* A range of the backing file in memory, and the places where it isn't zeros.
 * If there are more places than these, the last of them has zeros inside.
 */
#define MAX_PLACES 8
struct copy {
  uint8_t *bytes;
  uint64_t offset;              /* of the disk */
  struct { uint64_t first, end; } places[MAX_PLACES]; /* in BYTES */
  int n;
};

static int
copy_extent (void *opaque, uint64_t offset, uint64_t length, bool zero)
{
  struct copy *c = opaque;
  uint64_t first = offset - c->offset;

  if (zero) {
    memset (c->bytes + first, 0, length);
    return 0;
  }
  if (c->n < MAX_PLACES)
    c->places[c->n++].first = first;
  c->places[c->n - 1].end = first + length;
  return 0;
}

/* Read COUNT bytes at OFFSET from the backing file.  Those from *FIRST to
 * before *END have to be written: both are 0 if all is zeros.
 */
static int
read_copy (struct qed_image *img, uint8_t *bytes, uint64_t count,
           uint64_t offset, uint64_t *first, uint64_t *end)
{
  struct copy c = { .bytes = bytes, .offset = offset };

  if (count > 0 &&
      qed_extents_backing (img, offset, count, copy_extent, &c) == -1)
    return -1;
  for (int i = 0; i < c.n; ++i)
    if (qed_pread_backing (img, bytes + c.places[i].first,
                           c.places[i].end - c.places[i].first,
                           offset + c.places[i].first) == -1)
      return -1;
  *first = c.n > 0 ? c.places[0].first : 0;
  *end = c.n > 0 ? c.places[c.n - 1].end : 0;
  return 0;
}

/* Copy up a range that is too large to be kept in memory. */
static int
copy_in_parts (struct qed_image *img, struct qed_buffer *b, uint64_t count,
               uint64_t offset, uint64_t file_offset)
{
  const uint64_t max = buffer_size (img);

  while (count > 0) {
    uint64_t n = count < max ? count : max, first, end;

    if (read_copy (img, b->bytes, n, offset, &first, &end) == -1 ||
        qed_storage_write_sparse (img->st, b->bytes + first, end - first,
                                  file_offset + first) == -1)
      return -1;
    count -= n;
    offset += n;
    file_offset += n;
  }
  return 0;
}

static int
write_with_buffer (struct qed_image *img, const struct qed_piece *p,
                   struct qed_buffer *b, uint64_t file_offset)
{
  const uint64_t end = p->offset + p->count;
  uint8_t *tail = b->bytes + p->head;
  uint64_t head_first, head_end, tail_first, tail_end;
  struct iovec iov[3];
  int n = 0;

  if (p->head + p->tail > buffer_size (img) || p->buf == NULL)
    return copy_in_parts (img, b, p->head, p->offset - p->head,
                          file_offset) == -1 ||
      copy_in_parts (img, b, p->tail, end,
                     file_offset + p->head + p->count) == -1 ||
      (p->buf && qed_storage_write (img->st, p->buf, p->count,
                                    file_offset + p->head) == -1) ? -1 : 0;

  if (read_copy (img, b->bytes, p->head, p->offset - p->head,
                 &head_first, &head_end) == -1 ||
      read_copy (img, tail, p->tail, end, &tail_first, &tail_end) == -1)
    return -1;
  /* One write takes one range, so inner zeros are written, too. */
  if (head_end == 0)
    head_first = p->head;
  if (head_first < p->head)
    iov[n++] = (struct iovec) { b->bytes + head_first, p->head - head_first };
  iov[n++] = (struct iovec) { (void *) (uintptr_t) p->buf, p->count };
  if (tail_end > 0)
    iov[n++] = (struct iovec) { tail, tail_end };
  return qed_storage_writev (img->st, iov, n, file_offset + head_first);
}

int
qed_write_with_copies (struct qed_image *img, const struct qed_piece *p,
                       uint64_t file_offset)
{
  struct qed_buffer *b = get_buffer (img);
  int r;

  if (b == NULL)
    return -1;
  r = write_with_buffer (img, p, b, file_offset);
  put_buffer (img, b);
  return r;
}
