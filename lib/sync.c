/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Making writes durable (I5).
 *
 * Threads that need a sync share it.  A sync that is under way may have begun
 * before the write of the thread that asks.  So the thread needs one that
 * begins now.  While as many as the storage takes are under way
 * (QED_MAX_SYNCS) it waits, and all threads that wait share the next one.
 *
 * The first failure is kept: the kernel may have dropped dirty pages, so
 * nothing that is written afterwards can be relied on.  Every later write,
 * flush and close reports it.
 *
 * Locking: s->lock is held for a few instructions only, never across I/O.  No
 * other lock is taken under it; it may be taken under others.
 */

#include <config.h>

#include <errno.h>
#include <stdio.h>

#include "error.h"
#include "storage.h"
#include "sync.h"

void
qed_sync_init (struct qed_sync *s, struct qed_storage *st)
{
  s->st = st;
  pthread_mutex_init (&s->lock, NULL);
  pthread_cond_init (&s->changed, NULL);
  /* Writes of a process that had the image open before may not be durable. */
  atomic_init (&s->unsynced, true);
}

void
qed_sync_destroy (struct qed_sync *s)
{
  pthread_mutex_destroy (&s->lock);
  pthread_cond_destroy (&s->changed);
}

int
qed_sync_check (struct qed_sync *s)
{
  int err = atomic_load (&s->failed);

  return err ? qed_error (err, "%s", s->why) : 0;
}

int
qed_sync_fail (struct qed_sync *s, int err)
{
  pthread_mutex_lock (&s->lock);
  if (atomic_load (&s->failed) == 0) {
    snprintf (s->why, sizeof s->why, "%s: nothing more is written to the "
              "image since this error: %s", s->st->name, qed_get_error ());
    atomic_store (&s->failed, err);
    pthread_cond_broadcast (&s->changed);
  }
  pthread_mutex_unlock (&s->lock);
  errno = err;
  return -1;
}

/* Called with the lock, which it drops meanwhile. */
static int
begin_sync (struct qed_sync *s)
{
  const uint64_t number = atomic_fetch_add (&s->begun, 1) + 1;
  int r;

  s->running++;
  atomic_store (&s->unsynced, false);
  pthread_mutex_unlock (&s->lock);
  r = qed_storage_sync (s->st);
  if (r == -1)
    qed_sync_fail (s, errno);
  pthread_mutex_lock (&s->lock);
  s->running--;
  if (atomic_load (&s->last) < number)
    atomic_store (&s->last, number);
  pthread_cond_broadcast (&s->changed);
  return r;
}

int
qed_sync_run (struct qed_sync *s)
{
  uint64_t need;
  int r = 0;

  pthread_mutex_lock (&s->lock);
  need = atomic_load (&s->begun) + (atomic_load (&s->unsynced) ? 1 : 0);
  while (r == 0 && atomic_load (&s->last) < need)
    if (atomic_load (&s->begun) >= need || s->running == QED_MAX_SYNCS)
      pthread_cond_wait (&s->changed, &s->lock);
    else
      r = begin_sync (s);
  pthread_mutex_unlock (&s->lock);
  return r == -1 ? -1 : qed_sync_check (s);
}
