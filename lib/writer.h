/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* What a writable image has beyond a readable one.  See writer.c. */

#ifndef QED_WRITER_H
#define QED_WRITER_H

#include <pthread.h>

#include "image.h"
#include "qed.h"
#include "space.h"
#include "sync.h"

/* A stretch of guest clusters in which one thread is allocating (I8), or, with
 * QED_CLAIM_L1 added, an L1 entry for which it makes an L2 table.  It lives on
 * that thread's stack.
 */
#define QED_CLAIM_L1 (UINT64_C (1) << 63)
struct qed_claim {
  uint64_t first, last;         /* both included */
  struct qed_claim *next;
};

/* NEED_CHECK in the file (I6).  SETTING and CLEARING belong to the thread that
 * does it, without the lock; the others wait for the end of it.  UNKNOWN: that
 * failed, so it has to be done again, whichever of the two is needed.
 */
enum qed_need_check {
  QED_CLEAN, QED_SETTING, QED_DIRTY, QED_CLEARING, QED_UNKNOWN
};

/* Memory for copy-up. */
struct qed_buffer {
  struct qed_buffer *next;      /* of those not in use */
  uint8_t bytes[];
};

struct qed_writer {
  struct qed_sync sync;         /* has a lock of its own */
  struct qed_space space;       /* the same */

  pthread_mutex_t lock;         /* guards all that follows */
  pthread_cond_t changed;       /* any of it, but for claims being added */

  struct qed_claim *claims;     /* those in force */
  unsigned all_waiting;         /* threads that wait for one on everything */

  struct qed_header h;          /* as it is in the file, except NEED_CHECK */
  enum qed_need_check need_check;
  uint64_t allocations;         /* begun; no change means idleness */

  /* Commits are numbered as they begin, and one runs at a time. */
  uint64_t commits_begun, commits_ended;

  struct qed_buffer *buffers;   /* not in use */
  unsigned nr_buffers;

  /* The thread that commits, and marks an idle image as clean. */
  unsigned idle_ms, commit_ms;
  bool has_thread, stop;
  pthread_cond_t wake;          /* for it alone: dirty, pending links, stop */
  pthread_t thread;
};

/* ---- writer.c ---- */

/* 0 if the image is writable and nothing has failed, else -1: EROFS, or what
 * failed.
 */
extern int qed_check_writable (const struct qed_image *img);

/* Make everything durable whose call has returned, including links: commit. */
extern int qed_sync_all (struct qed_image *img);

/* Link in memory, for a commit: qed_table_link_later.  What the links point to
 * has been written before, and qed_mark_unsynced called.
 */
extern int qed_link_later (struct qed_image *img, uint64_t cluster,
                           uint64_t n, uint64_t offset);

/* Wait until no other thread has a claim on FIRST .. LAST, and have it;
 * NEED_CHECK is set durably when this returns 0.
 */
extern int qed_claim (struct qed_image *img, struct qed_claim *c,
                      uint64_t first, uint64_t last);
extern void qed_unclaim (struct qed_image *img, struct qed_claim *c);

/* The same, but it returns 1 instead of waiting for another thread's claim. */
extern int qed_try_claim (struct qed_image *img, struct qed_claim *c,
                          uint64_t first, uint64_t last);

/* A writer for IMG, without a thread and with IMG->writer not set yet; NULL:
 * ENOMEM.  It is freed when it has no thread and no claims.
 */
extern struct qed_writer *qed_writer_new (struct qed_image *img);
extern void qed_writer_free (struct qed_writer *w);

/* Start the thread that commits and marks an idle image as clean; and end it
 * if there is one.
 */
extern int qed_writer_start (struct qed_image *img);
extern void qed_writer_stop (struct qed_writer *w);

/* Mark the image as clean if no thread has a claim, all is in order, and it
 * isn't marked as clean already.  CLOSING: no call follows, so that tables may
 * move.
 */
extern int qed_clear_need_check (struct qed_image *img, bool closing);

/* ---- writable.c ---- */

/* Stop the thread, make all durable, mark the image as clean.  The writer is
 * freed, also when that fails.
 */
extern int qed_writer_close (struct qed_image *img);

/* ---- an image's parts, for short ---- */

/* See sync.h. */
static inline void
qed_mark_unsynced (struct qed_image *img)
{
  qed_sync_mark (&img->writer->sync);
}

static inline int
qed_writer_fail (struct qed_image *img, int err)
{
  return qed_sync_fail (&img->writer->sync, err);
}

/* See space.h. */
static inline int
qed_alloc (struct qed_image *img, uint64_t count, uint64_t *offset)
{
  return qed_space_alloc (&img->writer->space, count, offset);
}

static inline void
qed_alloc_undo (struct qed_image *img, uint64_t count, uint64_t offset,
                bool restored)
{
  qed_space_undo (&img->writer->space, count, offset, restored);
}

static inline void
qed_alloc_unused (struct qed_image *img, uint64_t count, uint64_t offset)
{
  qed_space_unused (&img->writer->space, count, offset);
}

static inline bool
qed_room_is_limited (const struct qed_image *img)
{
  return qed_space_is_limited (&img->writer->space);
}

static inline int
qed_check_room (struct qed_image *img, uint64_t count)
{
  return qed_space_check_room (&img->writer->space, count);
}

static inline int
qed_check_length (struct qed_image *img)
{
  return qed_space_check_length (&img->writer->space);
}

static inline void
qed_expect_cut (struct qed_image *img, uint64_t size)
{
  qed_space_expect_cut (&img->writer->space, size);
}

static inline void
qed_set_space (struct qed_image *img, uint64_t size)
{
  qed_space_set (&img->writer->space, size);
}

#endif /* QED_WRITER_H */
