/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The open image, as its own modules see it. */

#ifndef QED_IMAGE_H
#define QED_IMAGE_H

#include <pthread.h>
#include <stdatomic.h>

#include "qed.h"
#include "stretch.h"

/* The fields are set when the image is opened and constant from then on, so
 * they need no lock, unless a comment says otherwise.  Only the offline
 * operations (offline.c), which run alone, change H, G, BACKING and OVERLAY;
 * and streaming, in the end, what H says of a backing file, which nothing else
 * reads then, and BACKING: see below.  The table cache has a lock of its own.
 */
struct qed_image {
  struct qed_storage *st;       /* owned */
  struct qed_table *table;      /* owned */
  struct qed_header h;
  struct qed_geometry g;

  /* The backing file: owned; NULL: zeros.  An overlay is an image that has a
   * backing file, or names one in its header, when it is opened, so that its
   * unallocated clusters need not read as zeros when that is done the next
   * time.
   *
   * Streaming drops the backing file of an open image, when all that it is
   * read for has been allocated.  A thread that finds none may have looked the
   * cluster up before that, and must do it again.  USERS counts the threads
   * that use it.
   */
  struct qed_backing *_Atomic backing;
  bool overlay;
  atomic_uint users;

  bool rotational;              /* storage or backing file, at open */

  bool salvage;                 /* unsound clusters read as zeros */

  struct qed_stretch data;      /* of the image file */

  /* An entry was seen that may not be followed: never mark it clean (I6). */
  atomic_bool corrupt;

  /* NULL, or owned: the image is writable.  Set once, under writer_lock.  A
   * writing call comes after qed_make_writable, so it needs no lock to look.
   */
  struct qed_writer *writer;
  pthread_mutex_t writer_lock;
};

/* ---- the backing file ---- */

/* Use the backing file until qed_leave_backing.  NULL: there is none, and
 * nothing to leave.
 */
static inline struct qed_backing *
qed_enter_backing (struct qed_image *img)
{
  struct qed_backing *b;

  if (img->backing == NULL)     /* and it stays so */
    return NULL;
  atomic_fetch_add (&img->users, 1);
  b = img->backing;
  if (b == NULL)
    atomic_fetch_sub (&img->users, 1);
  return b;
}

static inline void
qed_leave_backing (struct qed_image *img)
{
  atomic_fetch_sub (&img->users, 1);
}

/* Close the backing file, when no thread uses it any more.  Nothing that it is
 * read for is unallocated, and this is visible.
 */
extern void qed_drop_backing (struct qed_image *img);

/* ---- read.c ---- */

/* The extents of a range of the backing file, or zeros where it ends or there
 * is none: see qed_extents.
 */
extern int qed_extents_backing (struct qed_image *img, uint64_t offset,
                                uint64_t length, qed_extent_fn *fn,
                                void *opaque);

/* Read a range of the backing file, in the same way. */
extern int qed_pread_backing (struct qed_image *img, void *buf, size_t count,
                              uint64_t offset);

/* ---- keep.c ---- */

/* BYTES (NULL: zeros) is what the backing file has in a range of whole
 * clusters, which may end at the end of the disk: allocate for it those that
 * are unallocated, unless another thread is writing to them.  Once *STOP is
 * true it may leave them out.
 */
extern int qed_keep (struct qed_image *img, const uint8_t *bytes,
                     uint64_t count, uint64_t offset, const atomic_bool *stop);

/* The same for the cluster at OFFSET, which is read under the claim because it
 * is too large to be kept in memory.
 */
extern int qed_keep_copy (struct qed_image *img, uint64_t offset);

/* ---- mapping.c ---- */

/* EINVAL unless the range is inside the disk. */
extern int qed_check_range (const struct qed_image *img, uint64_t offset,
                            uint64_t length);

/* EIO: say why the entry that maps OFFSET may not be followed, and note that
 * the image is corrupt.
 */
extern int qed_unsound_error (struct qed_image *img, uint64_t offset);

#endif /* QED_IMAGE_H */
