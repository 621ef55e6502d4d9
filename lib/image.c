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

/* The open image: open and close, reading, extents, prefetching.
 *
 * The read path: qed_pread asks for the run at the current offset (cluster.c)
 * and reads it with one system call, or fills in zeros, until all is there.
 * Nothing is allocated, no lock is held across I/O, and a request inside
 * one run costs one system call, none if it is zeros.
 *
 * The file's length is taken once, at open: only the library itself extends
 * it.  Should somebody without respect for locks cut the file, reads fail
 * with EIO (storage.c).
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "format.h"
#include "image.h"
#include "storage.h"
#include "table.h"
#include "writer.h"

/* ---- open ---- */

/* Read the name of the backing file, which validation found to lie inside
 * the header clusters.
 */
static char *
read_backing_name (struct qed_storage *st, const struct qed_header *h)
{
  size_t size = h->backing_filename_size;
  char *name = malloc (size + 1);

  if (name == NULL) {
    qed_error (errno, "%s: %m", st->name);
    return NULL;
  }
  if (qed_storage_read (st, name, size, h->backing_filename_offset) == -1)
    goto err;
  if (memchr (name, '\0', size) != NULL) {
    qed_error (EINVAL, "%s: header: the backing file's name of %zu bytes "
               "must have no NUL byte", st->name, size);
    goto err;
  }
  name[size] = '\0';
  return name;

 err:
  free (name);
  return NULL;
}

/* As qed_read_header, and tell the length that the header was checked
 * against.
 */
static int
read_header (struct qed_storage *st, struct qed_header *h, char **backing,
             uint64_t *file_size)
{
  uint8_t buf[QED_HEADER_BYTES];
  int64_t size = qed_storage_size (st);

  if (size == -1)
    return -1;
  if (size < QED_HEADER_BYTES)
    return qed_error (EINVAL, "%s: header: the file has %" PRIi64
                      " bytes: a QED image starts with a header of %d bytes: "
                      "this is not a QED image",
                      st->name, size, QED_HEADER_BYTES);
  if (qed_storage_read (st, buf, sizeof buf, 0) == -1 ||
      qed_header_decode (buf, st->name, h) == -1 ||
      qed_header_validate (h, (uint64_t) size, st->name) == -1)
    return -1;

  *file_size = (uint64_t) size;
  *backing = NULL;
  if (h->features & QED_F_BACKING_FILE) {
    *backing = read_backing_name (st, h);
    if (*backing == NULL)
      return -1;
  }
  return 0;
}

int
qed_read_header (struct qed_storage *st, struct qed_header *h, char **backing)
{
  uint64_t file_size;
  char *name;

  if (read_header (st, h, &name, &file_size) == -1)
    return -1;
  if (backing)
    *backing = name;
  else
    free (name);
  return 0;
}

struct qed_image *
qed_open (struct qed_storage *st, size_t cache_size)
{
  struct qed_image *img;
  char *backing = NULL;
  uint64_t file_end;

  if (cache_size < QED_MIN_CACHE_SIZE) {
    qed_error (EINVAL, "%s: cache size %zu: must be at least %zu bytes",
               st->name, cache_size, QED_MIN_CACHE_SIZE);
    return NULL;
  }
  img = calloc (1, sizeof *img);
  if (img == NULL) {
    qed_error (errno, "%s: %m", st->name);
    return NULL;
  }

  if (read_header (st, &img->h, &backing, &file_end) == -1)
    goto err;
  if (backing) {
    qed_error (ENOTSUP, "%s: header: features 0x%" PRIx64 ": the image has "
               "the backing file '%s', and backing files are not supported "
               "yet", st->name, img->h.features, backing);
    goto err;
  }
  qed_geometry_init (&img->g, &img->h);
  file_end &= ~(img->g.cluster_size - 1);
  img->table = qed_table_new (st, &img->g, file_end, cache_size);
  if (img->table == NULL)
    goto err;
  pthread_mutex_init (&img->lock, NULL);
  pthread_mutex_init (&img->writer_lock, NULL);
  img->st = st;
  return img;

 err:
  free (backing);
  free (img);
  return NULL;
}

int
qed_close (struct qed_image *img)
{
  int r = 0, err;

  if (img == NULL)
    return 0;
  if (img->writer)
    r = qed_writer_close (img);
  err = errno;
  qed_table_free (img->table);
  pthread_mutex_destroy (&img->lock);
  pthread_mutex_destroy (&img->writer_lock);
  qed_storage_close (img->st);
  free (img);
  errno = err;
  return r;
}

const struct qed_header *
qed_get_header (const struct qed_image *img)
{
  return &img->h;
}

bool
qed_is_rotational (const struct qed_image *img)
{
  return img->st->rotational;
}

int
qed_check_range (const struct qed_image *img, uint64_t offset,
                 uint64_t length)
{
  if (offset > img->g.image_size || length > img->g.image_size - offset)
    return qed_error (EINVAL, "%s: range of %" PRIu64 " bytes at %" PRIu64
                      ": must be inside the disk of %" PRIu64 " bytes",
                      img->st->name, length, offset, img->g.image_size);
  return 0;
}

/* ---- reading ---- */

int
qed_pread (struct qed_image *img, void *buf, size_t count, uint64_t offset)
{
  if (qed_check_range (img, offset, count) == -1)
    return -1;

  while (count > 0) {
    struct qed_run run;
    int r = qed_map (img, offset, count, &run);

    if (r == -1)
      return -1;
    switch (run.type) {
    case QED_RUN_UNALLOCATED:
    case QED_RUN_ZERO:
      memset (buf, 0, run.length);
      break;
    case QED_RUN_DATA:
      r = qed_storage_read (img->st, buf, run.length, run.file_offset);
      break;
    case QED_RUN_UNSOUND:
      r = qed_unsound_error (img, offset);
      break;
    }
    if (r == -1)
      return -1;
    buf = (char *) buf + run.length;
    count -= run.length;
    offset += run.length;
  }
  return 0;
}

int
qed_prefetch (struct qed_image *img, uint64_t offset, uint64_t length)
{
  if (qed_check_range (img, offset, length) == -1)
    return -1;

  while (length > 0) {
    struct qed_run run;

    if (qed_map (img, offset, length, &run) == -1)
      return -1;
    /* About unsound clusters it's the reader who needs to hear. */
    if (run.type == QED_RUN_DATA &&
        img->st->ops->prefetch (img->st, run.file_offset, run.length) == -1)
      return qed_error (errno, "%s: prefetch of %" PRIu64 " bytes at %"
                        PRIu64 ": %m",
                        img->st->name, run.length, run.file_offset);
    offset += run.length;
    length -= run.length;
  }
  return 0;
}

/* ---- extents ---- */

/* What is collected before it is told, so that neighbours differ. */
struct collector {
  int (*fn) (void *opaque, uint64_t offset, uint64_t length, bool zero);
  void *opaque;
  uint64_t offset, length;
  bool zero;
};

/* Append an extent.  0: go on; 1: fn has enough; -1: fn failed. */
static int
collect (struct collector *c, uint64_t length, bool zero)
{
  int r = 0;

  if (c->length > 0 && c->zero != zero) {
    r = c->fn (c->opaque, c->offset, c->length, c->zero);
    c->offset += c->length;
    c->length = 0;
  }
  c->zero = zero;
  c->length += length;
  return r;
}

/* Where does the stretch of data that OFFSET of the file is known to lie in
 * end?  0 if it isn't known.  *FORGOTTEN is for learn_data.
 */
static uint64_t
known_data_end (struct qed_image *img, uint64_t offset, uint64_t *forgotten)
{
  uint64_t r;

  pthread_mutex_lock (&img->lock);
  r = offset >= img->data_start && offset < img->data_end ? img->data_end : 0;
  *forgotten = img->data_forgotten;
  pthread_mutex_unlock (&img->lock);
  return r;
}

/* Remember that there is data, unless a hole may have come in between. */
static void
learn_data (struct qed_image *img, uint64_t start, uint64_t end,
            uint64_t forgotten)
{
  pthread_mutex_lock (&img->lock);
  if (img->data_forgotten == forgotten) {
    img->data_start = start;
    img->data_end = end;
  }
  pthread_mutex_unlock (&img->lock);
}

void
qed_forget_data (struct qed_image *img)
{
  pthread_mutex_lock (&img->lock);
  img->data_start = img->data_end = 0;
  img->data_forgotten++;
  pthread_mutex_unlock (&img->lock);
}

/* How far does the image file have data, or a hole, from OFFSET on, within
 * LENGTH?  A file that can't tell has data.
 */
static uint64_t
host_extent (struct qed_image *img, uint64_t offset, uint64_t length,
             bool *hole)
{
  uint64_t forgotten, end = known_data_end (img, offset, &forgotten);

  *hole = false;
  if (end == 0) {
    int64_t r = img->st->ops->next_extent (img->st, offset, hole);

    if (r == -1 || (uint64_t) r <= offset) {
      *hole = false;
      return length;
    }
    end = (uint64_t) r;
    if (!*hole)
      learn_data (img, offset, end, forgotten);
  }
  return end - offset < length ? end - offset : length;
}

/* A run of data may lie in holes of the file in part. */
static int
collect_data (struct qed_image *img, struct collector *c,
              const struct qed_run *run)
{
  uint64_t done = 0;
  int r = 0;

  while (r == 0 && done < run->length) {
    bool hole;
    uint64_t n = host_extent (img, run->file_offset + done,
                              run->length - done, &hole);

    r = collect (c, n, hole);
    done += n;
  }
  return r;
}

int
qed_extents (struct qed_image *img, uint64_t offset, uint64_t length,
             int (*fn) (void *opaque, uint64_t offset, uint64_t length,
                        bool zero),
             void *opaque)
{
  struct collector c = { .fn = fn, .opaque = opaque, .offset = offset };
  int r = 0;

  if (qed_check_range (img, offset, length) == -1)
    return -1;

  while (r == 0 && length > 0) {
    struct qed_run run;

    if (qed_map (img, offset, length, &run) == -1)
      return -1;
    if (run.type == QED_RUN_DATA)
      r = collect_data (img, &c, &run);
    else
      r = collect (&c, run.length, run.type != QED_RUN_UNSOUND);
    offset += run.length;
    length -= run.length;
  }
  if (r == 0 && c.length > 0)
    r = fn (opaque, c.offset, c.length, c.zero);
  return r == -1 ? -1 : 0;
}
