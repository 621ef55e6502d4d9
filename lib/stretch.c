/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Where a file is known to hold data.
 *
 * A file is asked for its holes with lseek, which for a file without any would
 * be a system call for each request.  So the last stretch of data that was seen
 * is remembered.  A request that makes holes calls qed_forget_data before and
 * after: what another thread learned in between isn't kept either.
 */

#include <config.h>

#include "stretch.h"

void
qed_stretch_init (struct qed_stretch *s)
{
  *s = (struct qed_stretch) { .start = 0 };
  pthread_mutex_init (&s->lock, NULL);
}

void
qed_stretch_destroy (struct qed_stretch *s)
{
  pthread_mutex_destroy (&s->lock);
}

void
qed_forget_data (struct qed_stretch *s)
{
  pthread_mutex_lock (&s->lock);
  s->start = s->end = 0;
  s->forgotten++;
  pthread_mutex_unlock (&s->lock);
}

/* Where does the stretch of data that OFFSET of the file is known to lie in
 * end?  0 if it isn't known.  *FORGOTTEN is for learn_data.
 */
static uint64_t
known_data_end (struct qed_stretch *s, uint64_t offset, uint64_t *forgotten)
{
  uint64_t r;

  pthread_mutex_lock (&s->lock);
  r = offset >= s->start && offset < s->end ? s->end : 0;
  *forgotten = s->forgotten;
  pthread_mutex_unlock (&s->lock);
  return r;
}

/* Remember that there is data, unless a hole may have come in between. */
static void
learn_data (struct qed_stretch *s, uint64_t start, uint64_t end,
            uint64_t forgotten)
{
  pthread_mutex_lock (&s->lock);
  if (s->forgotten == forgotten) {
    s->start = start;
    s->end = end;
  }
  pthread_mutex_unlock (&s->lock);
}

uint64_t
qed_file_extent (struct qed_storage *st, struct qed_stretch *s,
                 uint64_t offset, uint64_t length, bool *hole)
{
  uint64_t forgotten, end = known_data_end (s, offset, &forgotten);

  *hole = false;
  if (end == 0) {
    int64_t r = st->ops->next_extent (st, offset, hole);

    if (r == -1 || (uint64_t) r <= offset) {
      *hole = false;
      return length;
    }
    end = (uint64_t) r;
    if (!*hole)
      learn_data (s, offset, end, forgotten);
  }
  return end - offset < length ? end - offset : length;
}

void
qed_stretch_begin (struct qed_stretch *s, struct qed_storage *st)
{
  bool hole;
  int64_t end = st->ops->next_extent (st, 0, &hole);

  if (end > 0 && !hole)
    learn_data (s, 0, (uint64_t) end, s->forgotten);
}
