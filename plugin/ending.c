/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* What is to be given up when nbdkit ends, or a client goes away.
 *
 * nbdkit doesn't tell a plugin that it is ending until all requests are
 * complete.  But it lets nbdkit_nanosleep fail, and logs that: in a thread of a
 * connection when that connection goes away too, in any other thread only when
 * nbdkit ends.  So it is only asked when there may be something to give up.
 */

#include <config.h>

#include <pthread.h>
#include <stddef.h>

#include "plugin.h"

/* This thread closes an image, which must run to its end. */
static __thread bool closing;

/* Reading all tables of a large image may take long.  The library calls this
 * to stop early when nbdkit is ending or the connection has gone.
 */
static bool
is_in_vain (void)
{
  return !closing && nbdkit_nanosleep (0, 1) == -1;
}

static void *
ask_nbdkit (void *ending)
{
  *(bool *) ending = nbdkit_nanosleep (0, 1) == -1;
  return NULL;
}

/* A server hangs, and is given up only when nbdkit ends.  This thread may
 * belong to a connection, so another one has to ask.
 */
static bool
is_ending (void)
{
  bool ending = false;
  pthread_t thread;

  if (pthread_create (&thread, NULL, ask_nbdkit, &ending) == 0)
    pthread_join (thread, NULL);
  return ending;
}

void
ending_watch (void)
{
  qed_interrupted = is_in_vain;
  qed_is_ending = is_ending;
}

void
ending_close (struct qed_image *img)
{
  closing = true;
  if (qed_close (img) == -1)
    library_error ();
  closing = false;
}
