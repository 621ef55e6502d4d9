/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* What copy-on-read and streaming share.  See copier.c. */

#ifndef QED_COPIER_H
#define QED_COPIER_H

#include <pthread.h>
#include <stdatomic.h>

#include "image.h"
#include "qed.h"

/* A range of the disk that is read from the backing file, and then kept in the
 * image: whole clusters, up to the end of the disk.
 */
struct qed_copy {
  uint64_t offset, length;
  enum qed_copy_state {
    QED_COPY_READING, QED_COPY_READY, QED_COPY_FAILED,
    QED_COPY_STALE,             /* not all of it was unallocated: look again */
  } state;
  unsigned users;               /* threads that need it */
  bool large;                   /* one cluster, and no bytes: qed_keep_copy */
  uint8_t bytes[];              /* constant unless READING */
};

/* Larger clusters aren't copied in memory. */
#define QED_MAX_COPY_CLUSTER (UINT64_C (8) << 20)

/* Copies, at most. */
#define QED_MAX_COPIES 256

/* Ranges that are known not to be readable, at most. */
#define QED_MAX_BAD 16

struct qed_copier {
  /* Constant: */
  struct qed_image *img;        /* borrowed */
  struct qed_copy_options opts;
  uint64_t end;                 /* of what the backing file has: of the cluster
                                   that it ends in, or of the disk */

  /* Requests of clients that are under way; and whether one has ended since
   * the thread that streams cleared this.
   */
  atomic_uint requests;
  atomic_bool busy;
  atomic_bool streams;          /* the two above matter */

  pthread_mutex_t lock;         /* guards all that follows */
  pthread_cond_t changed;       /* any of it */
  pthread_cond_t room;          /* a copy is gone, and one may begin */

  /* All that are under way, in any order; and how many of them are READY. */
  struct qed_copy_range {
    uint64_t offset, length;    /* the copy's: looking here is quicker */
    struct qed_copy *copy;
  } ranges[QED_MAX_COPIES];
  unsigned nr_ranges, nr_ready;

  uint64_t kept;                /* where the last one that was kept ended */
  uint64_t bytes;               /* in memory, of all copies with users */
  unsigned nr_copies;           /* the same */
  uint64_t no_room_until;       /* qed_now_ms: no read waits for room before */

  unsigned pace;                /* keeping a MiB takes so many microseconds */

  /* Ranges that can't be read whole, which isn't tried before UNTIL. */
  struct qed_bad_range {
    uint64_t offset, length, until;
  } bad[QED_MAX_BAD];
  unsigned next_bad;            /* to be replaced */
  unsigned read_failures;       /* of copies, one after the other */

  bool failing;                 /* copying has failed lately, and that was
                                   said */
  atomic_bool stop;             /* is set with the lock */
  uint64_t failed_at;           /* qed_now_ms: when it did last */
  uint64_t paused_until;        /* the same: nothing is copied before */
  unsigned pause_ms;            /* how long the next pause is */

  pthread_t keeper, streamer;
  bool has_streamer;
};

/* The following are called with the lock, which those that wait drop meanwhile.
 *
 * Begin a copy of at most COUNT bytes (> 0) of what is unallocated at OFFSET,
 * which is in no copy that is under way.  It has one user.  NULL: the memory
 * for copies, of which copies may have MAX bytes, is in use.
 */
extern struct qed_copy *qed_copy_begin (struct qed_copier *c, uint64_t count,
                                        uint64_t offset, uint64_t max);

/* Read the backing file into it, and let it be kept; or it is STALE.  -1, with
 * a message: it can't be read, and the copy is FAILED.
 */
extern int qed_copy_read (struct qed_copier *c, struct qed_copy *copy);

/* Its user doesn't need it any more. */
extern void qed_copy_release (struct qed_copier *c, struct qed_copy *copy);

/* The copy that OFFSET is in, or NULL. */
extern struct qed_copy *qed_copy_find (const struct qed_copier *c,
                                       uint64_t offset);

/* Copying has failed, and qed_get_error says why: pause, or end it if nothing
 * can be written any more.  WHAT failed.  Drops the lock meanwhile.
 */
extern void qed_copier_pause (struct qed_copier *c, const char *what);

/* It works. */
extern void qed_copier_succeed (struct qed_copier *c);

/* Is copying paused? */
extern bool qed_copier_is_paused (const struct qed_copier *c);

/* Wait for a change, or (qed_now_ms) until UNTIL. */
extern void qed_copier_wait (struct qed_copier *c, uint64_t until);

/* Milliseconds, monotonic; and "never". */
extern uint64_t qed_now_ms (void);
#define QED_NEVER UINT64_MAX

/* A copier without threads; NULL: ENOMEM.  It is freed when it has none: copies
 * that are still to be kept are lost.
 */
extern struct qed_copier *
qed_copier_new (struct qed_image *img, const struct qed_copy_options *opts);
extern void qed_copier_free (struct qed_copier *c);

/* The thread that keeps copies in the image. */
extern void *qed_keeper_thread (void *copier);

#endif /* QED_COPIER_H */
