/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Making writes durable, and the failure after which there are no more: see
 * sync.c.
 */

#ifndef QED_SYNC_H
#define QED_SYNC_H

#include <pthread.h>
#include <stdatomic.h>

#include "qed.h"

struct qed_sync {
  struct qed_storage *st;       /* borrowed */

  pthread_mutex_t lock;         /* guards all that follows but the atomics */
  pthread_cond_t changed;       /* a sync ended, or FAILED was set */

  /* Syncs are numbered as they begin.  LAST: the greatest number of those that
   * have ended, with or without success.  Both change under the lock, and may
   * be read without it.
   */
  _Atomic uint64_t begun, last;
  unsigned running;             /* begun and not ended */
  atomic_bool unsynced;         /* set after a write, cleared before a sync */

  /* errno of what made further writing impossible (I5), or 0, and the message.
   * The message is set before FAILED, and both only once.
   */
  atomic_int failed;
  char why[512];
};

/* S is zeros before.  ST is borrowed. */
extern void qed_sync_init (struct qed_sync *s, struct qed_storage *st);
extern void qed_sync_destroy (struct qed_sync *s);

/* Something was written, completely or in part. */
static inline void
qed_sync_mark (struct qed_sync *s)
{
  /* It is set already in most cases.  Then this stores nothing, and no other
   * CPU loses the cache line.
   */
  if (!atomic_load (&s->unsynced))
    atomic_store (&s->unsynced, true);
}

/* Make everything durable whose write has returned before this call.  -1: that
 * failed, now or at any time before (I5).
 */
extern int qed_sync_run (struct qed_sync *s);

/* Has nothing failed?  Else -1 with errno and message of that failure. */
extern int qed_sync_check (struct qed_sync *s);

/* Metadata is lost or a sync has failed: ERR, an errno, and qed_get_error ()
 * say how.  From now on qed_sync_check fails.  Returns -1 with errno ERR and
 * the message.
 */
extern int qed_sync_fail (struct qed_sync *s, int err);

#endif /* QED_SYNC_H */
