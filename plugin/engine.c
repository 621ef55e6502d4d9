/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The images that are open, one engine for each, which all connections to it
 * share.
 *
 * What counts is the file, so that an image and a symbolic link to it have one
 * engine.  The first connection opens the image and the last one closes it.
 * Connections that come meanwhile wait for that.  Then they share the image,
 * or open it again: also if opening it has failed, since the reason may have
 * gone.
 *
 * When nbdkit ends it doesn't close the connections that are left, so nothing
 * may hang on that.
 *
 * Locking: LOCK guards the list of engines, and in each of them all but the
 * constants.  It isn't held across I/O.
 */

#include <config.h>

#include <pthread.h>
#include <stdlib.h>

#include "plugin.h"

struct engine {
  uint64_t device, inode;       /* constant: which file it is */
  struct engine *next;
  unsigned users;
  struct qed_image *image;      /* constant from the first use to the last;
                                   NULL: it is being opened or closed */
  struct handle handles[2];     /* constant as long as IMAGE */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct engine *engines;

/* Called with the lock, which it drops if it has to wait. */
static struct engine *
find_engine (const struct qed_storage *st)
{
  struct engine *e = engines;

  while (e && (e->device != st->device || e->inode != st->inode ||
               e->image == NULL))
    if (e->device == st->device && e->inode == st->inode) {
      pthread_cond_wait (&changed, &lock);
      e = engines;
    }
    else
      e = e->next;
  return e;
}

/* A new one, whose image is going to be opened.  Called with the lock. */
static struct engine *
add_engine (const struct qed_storage *st)
{
  struct engine *e = calloc (1, sizeof *e);

  if (e == NULL) {
    complain ("calloc: %m");
    return NULL;
  }
  e->device = st->device;
  e->inode = st->inode;
  e->next = engines;
  engines = e;
  return e;
}

/* The image of E was closed, or couldn't be opened. */
static void
remove_engine (struct engine *e)
{
  struct engine **p = &engines;

  pthread_mutex_lock (&lock);
  while (*p != e)
    p = &(*p)->next;
  *p = e->next;
  pthread_cond_broadcast (&changed);
  pthread_mutex_unlock (&lock);
  free (e);
}

static struct qed_image *
open_image (struct qed_storage *st, const struct qed_chain_options *opts)
{
  struct qed_image *img = qed_open_chain_in (st, opts);

  if (img == NULL)
    library_error ();
  else if (opts->salvage && report_all_damage (img) == -1) {
    ending_close (img);
    img = NULL;
  }
  return img;
}

struct engine *
engine_open (struct qed_storage *st, const struct qed_chain_options *opts)
{
  struct qed_image *img;
  struct engine *e;
  bool found;

  if (st == NULL)
    return NULL;
  pthread_mutex_lock (&lock);
  e = find_engine (st);
  found = e != NULL;
  if (found)
    e->users++;
  else
    e = add_engine (st);
  pthread_mutex_unlock (&lock);
  if (found || e == NULL) {
    qed_storage_close (st);
    return e;
  }

  img = open_image (st, opts);
  if (img == NULL) {
    remove_engine (e);
    return NULL;
  }
  pthread_mutex_lock (&lock);
  e->image = img;
  e->handles[0] = (struct handle) { e, img, false };
  e->handles[1] = (struct handle) { e, img, true };
  e->users = 1;
  pthread_cond_broadcast (&changed);
  pthread_mutex_unlock (&lock);
  return e;
}

void
engine_use (struct engine *e)
{
  pthread_mutex_lock (&lock);
  e->users++;
  pthread_mutex_unlock (&lock);
}

void
engine_close (struct engine *e)
{
  struct qed_image *img = e->image;
  bool last;

  pthread_mutex_lock (&lock);
  last = --e->users == 0;
  if (last)
    e->image = NULL;
  pthread_mutex_unlock (&lock);
  if (last) {
    ending_close (img);
    remove_engine (e);
  }
}

void
engine_close_all (void)
{
  for (struct engine *e = engines, *next; e; e = next) {
    next = e->next;
    if (e->image) {
      ending_close (e->image);
      remove_engine (e);
    }
  }
}

struct handle *
engine_handle (struct engine *e, bool writable)
{
  return &e->handles[writable];
}

struct qed_image *
engine_image (const struct engine *e)
{
  return e->image;
}
