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

/* The open image, as its own modules see it. */

#ifndef QED_IMAGE_H
#define QED_IMAGE_H

#include <pthread.h>
#include <stdatomic.h>

#include "qed.h"

/* Fields are set by qed_open and constant from then on, so need no lock,
 * but for those said to; the table cache has its own.
 */
struct qed_image {
  struct qed_storage *st;       /* owned */
  struct qed_table *table;      /* owned */
  struct qed_header h;
  struct qed_geometry g;

  /* A stretch of the file that was seen to hold data without a hole, so that
   * not each request for extents has to ask; and how often that was forgotten.
   * Guarded by lock.
   */
  pthread_mutex_t lock;
  uint64_t data_start, data_end, data_forgotten;

  /* An entry was seen that may not be followed: never mark it clean (I6). */
  atomic_bool corrupt;

  /* NULL, or owned: the image is writable.  Set once, under writer_lock; who
   * writes has called qed_make_writable and so may look without it.
   */
  struct qed_writer *writer;
  pthread_mutex_t writer_lock;
};

/* EINVAL unless the range is inside the disk. */
extern int qed_check_range (const struct qed_image *img, uint64_t offset,
                            uint64_t length);

/* Holes have come into the file where there was data. */
extern void qed_forget_data (struct qed_image *img);

/* EIO: say why the entry that maps OFFSET may not be followed.  In
 * cluster.c.
 */
extern int qed_unsound_error (struct qed_image *img, uint64_t offset);

#endif /* QED_IMAGE_H */
