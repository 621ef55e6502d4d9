/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */


/* What a writable image has beyond a readable one.  See writer.c and space.c.
 */

#ifndef QED_WRITER_H
#define QED_WRITER_H

#include <stdatomic.h>
#include <pthread.h>

#include "qed.h"

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

/* Memory to copy clusters up with. */
struct qed_buffer {
  struct qed_buffer *next;      /* of those not in use */
  uint8_t bytes[];
};

/* A range of the file that was given away, is referred to by nothing, and may
 * be given away again once a sync has ended that has the number SYNC or a
 * greater one: space.c.
 */
struct qed_undone {
  uint64_t offset, bytes;       /* bytes 0: none */
  uint64_t sync;                /* 0: at once; UINT64_MAX: never */
};

/* Of more than so many some are forgotten until the image is closed. */
#define QED_MAX_UNDONE 32

struct qed_writer {
  pthread_mutex_t lock;         /* guards all that follows but the atomics */
  pthread_cond_t changed;       /* any of it, but for claims being added */

  struct qed_claim *claims;     /* those in force */

  struct qed_header h;          /* as it is in the file, but NEED_CHECK */
  enum qed_need_check need_check;
  uint64_t allocations;         /* begun; whoever looks twice sees idleness */

  /* Space: clusters up to END are given away, the file has FILE_SIZE bytes and
   * may have LIMIT.  One thread at a time extends it.  FILE_SIZE changes before
   * the file is cut and after it was extended, so the file is shorter only if
   * another process has cut it: qed_check_length.
   */
  uint64_t first;               /* taken in this session, once CHECKED */
  uint64_t end;
  uint64_t file_size;
  uint64_t resizes;             /* of which FILE_SIZE told */

  /* What is written behind this may make a file that was cut as long as it
   * was.
   */
  _Atomic uint64_t last_cluster;
  uint64_t limit;
  bool extending;
  bool checked;                 /* where the first of them may be is known */
  atomic_bool near_limit;       /* the next extension may fail at LIMIT */
  struct qed_undone undone[QED_MAX_UNDONE];
  bool any_undone;              /* some of these aren't empty, maybe */
  bool forgotten;               /* there are more than these */

  /* Syncs are numbered as they begin.  LAST_SYNCED: the greatest of those that
   * have ended, with or without success; SYNCING: how many have not.
   */
  uint64_t syncs_begun, last_synced;
  unsigned syncing;
  atomic_bool unsynced;         /* set after a write, cleared before a sync */

  /* Commits are numbered in the same way, and one runs at a time. */
  uint64_t commits_begun, commits_ended;

  struct qed_buffer *buffers;   /* not in use */
  unsigned nr_buffers;

  /* errno of what made further writing impossible (I5), 0 if nothing has,
   * and the message.  The message is set before, and both only once.
   */
  atomic_int failed;
  char why[512];

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

/* Metadata is lost or syncs fail: ERR and qed_get_error () say how.  From now
 * on qed_check_writable fails.  Returns -1 with errno ERR and the message.
 */
extern int qed_writer_fail (struct qed_image *img, int err);

/* Make everything durable whose call has returned, including links: commit. */
extern int qed_sync_all (struct qed_image *img);

/* The same without links that wait for a commit. */
extern int qed_sync_written (struct qed_image *img);

/* Something was written; or in part, which is as good. */
extern void qed_mark_unsynced (struct qed_image *img);

/* Link in memory, for a commit: qed_table_link_later.  What the links point to
 * has been written before, and qed_mark_unsynced called.
 */
extern int qed_link_later (struct qed_image *img, uint64_t cluster,
                           uint64_t n, uint64_t offset);

/* Wait until nobody else has a claim on FIRST .. LAST, and have it; NEED_CHECK
 * is set durably when this returns 0.
 */
extern int qed_claim (struct qed_image *img, struct qed_claim *c,
                      uint64_t first, uint64_t last);
extern void qed_unclaim (struct qed_image *img, struct qed_claim *c);

/* Stop the thread, make all durable, mark the image as clean.  The writer is
 * freed, also when that fails.
 */
extern int qed_writer_close (struct qed_image *img);

/* ---- space.c ---- */

/* Give away COUNT contiguous clusters at the end of the file, which read as
 * zeros (I2).  ENOSPC, EFBIG … if the file can't be extended.
 */
extern int qed_alloc (struct qed_image *img, uint64_t count,
                      uint64_t *offset);

/* May it be known in advance that clusters can't be given away?  Then whether
 * COUNT of them can be.  ENOSPC, EFBIG: they can't.
 */
extern bool qed_room_is_limited (const struct qed_image *img);
extern int qed_check_room (struct qed_image *img, uint64_t count);

/* Writing to these clusters has failed, and nothing refers to them: in memory
 * and, unless RESTORED, which says that this was written and isn't durable, in
 * the file.  Others get them when they read as zeros again.  errno and message
 * stay.
 */
extern void qed_alloc_undo (struct qed_image *img, uint64_t count,
                            uint64_t offset, bool restored);

/* Nothing was written to these clusters, nor refers to them: others may have
 * them, whatever the filesystem knows of holes.
 */
extern void qed_alloc_unused (struct qed_image *img, uint64_t count,
                              uint64_t offset);

/* Cut the file to what is in use.  Nobody allocates meanwhile.  *LEFT: before
 * that there is space that was undone.
 */
extern int qed_cut_tail (struct qed_image *img, bool *left);

/* The file has SIZE bytes and ends with what is in use; nothing is undone. */
extern void qed_set_space (struct qed_image *img, uint64_t size);

/* The file will be cut by the caller, but not to less than SIZE. */
extern void qed_expect_cut (struct qed_image *img, uint64_t size);

/* Has somebody else cut the file?  Then data is lost: everything fails from now
 * on, with EIO, and the image stays marked NEED_CHECK.
 */
extern int qed_check_length (struct qed_image *img);

#endif /* QED_WRITER_H */
