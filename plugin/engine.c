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
  struct qed_copier *copier;    /* constant as long as IMAGE; or NULL */
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
open_image (struct qed_storage *st, const struct engine_options *opts)
{
  struct qed_image *img = qed_open_chain_in (st, opts->chain);

  if (img == NULL)
    library_error ();
  else if ((opts->chain->salvage && report_all_damage (img) == -1) ||
           (copying_is_wanted () &&
            copying_prepare (img, &opts->write) == -1)) {
    ending_close (img);
    img = NULL;
  }
  return img;
}

static void
close_image (struct qed_image *img, struct qed_copier *copier)
{
  qed_copier_stop (copier);
  ending_close (img);
}

/* Begin to copy, if that is wanted. */
static int
start_copying (struct qed_image *img, struct qed_copier **copier)
{
  *copier = copying_is_wanted () ? copying_start (img) : NULL;
  return copying_is_wanted () && *copier == NULL ? -1 : 0;
}

/* Open the image in ST, and begin to copy.  NULL: that failed. */
static struct qed_image *
open_and_start (struct qed_storage *st, const struct engine_options *opts,
                struct qed_copier **copier)
{
  struct qed_image *img = open_image (st, opts);

  *copier = NULL;
  if (img && !opts->write.before_fork && start_copying (img, copier) == -1) {
    ending_close (img);
    img = NULL;
  }
  return img;
}

static void
set_handles (struct engine *e)
{
  for (int writable = 0; writable <= 1; ++writable)
    e->handles[writable] = (struct handle) {
      .engine = e, .image = e->image, .copier = e->copier,
      .writable = writable,
    };
}

struct engine *
engine_open (struct qed_storage *st, const struct engine_options *opts)
{
  struct qed_copier *copier;
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

  img = open_and_start (st, opts, &copier);
  if (img == NULL) {
    remove_engine (e);
    return NULL;
  }
  pthread_mutex_lock (&lock);
  e->image = img;
  e->copier = copier;
  set_handles (e);
  e->users = 1;
  pthread_cond_broadcast (&changed);
  pthread_mutex_unlock (&lock);
  return e;
}

int
engine_begin (struct engine *e, bool forked)
{
  if (qed_after_fork (e->image, forked) == -1)
    return library_error ();
  if (start_copying (e->image, &e->copier) == -1)
    return -1;
  set_handles (e);
  return 0;
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
  struct qed_copier *copier = e->copier;
  bool last;

  pthread_mutex_lock (&lock);
  last = --e->users == 0;
  if (last)
    e->image = NULL;
  pthread_mutex_unlock (&lock);
  if (last) {
    close_image (img, copier);
    remove_engine (e);
  }
}

void
engine_close_all (void)
{
  for (struct engine *e = engines, *next; e; e = next) {
    next = e->next;
    if (e->image) {
      close_image (e->image, e->copier);
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
