/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* QEMU's locks on an image file (DESIGN.md, Locking), so that neither opens
 * what the other is writing.
 *
 * They are open-file-description locks on single bytes.  Byte 100+i says "I
 * use permission i", byte 200+i "I forbid others permission i".  All are
 * shared: nobody ever takes an exclusive one.  To learn whether another
 * process holds a byte, F_OFD_GETLK asks whether an exclusive lock would be
 * granted.
 *
 * The locks belong to the open file description, so they survive nbdkit's
 * fork into the background.  Two descriptions of one file conflict even
 * inside one process: only one of them may have locks.
 *
 * This file knows descriptors and nothing of what they are open for.  It keeps
 * no state: the caller remembers which locks a descriptor has.
 */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "error.h"
#include "locks.h"

enum { CONSISTENT_READ, WRITE, WRITE_UNCHANGED, RESIZE, NR_PERMISSIONS };

static const char *const permission_names[NR_PERMISSIONS] = {
  "consistent read", "write", "write unchanged", "resize",
};

#define USES(permission) (1U << (permission))
#define FORBIDS(permission) (1U << (NR_PERMISSIONS + (permission)))

/* One row of the table in DESIGN.md, Locking: sets of USES and FORBIDS. */
struct qed_lock_user {
  unsigned holds;
  unsigned tests;
};

const struct qed_lock_user qed_lock_reader = {
  .holds = USES (CONSISTENT_READ) | FORBIDS (WRITE) | FORBIDS (RESIZE),
  .tests = FORBIDS (CONSISTENT_READ) | USES (WRITE) | USES (RESIZE),
};

/* A raw backing file may be written to meanwhile: that is its owner's
 * business.
 */
const struct qed_lock_user qed_lock_raw_reader = {
  .holds = USES (CONSISTENT_READ),
  .tests = FORBIDS (CONSISTENT_READ),
};

const struct qed_lock_user qed_lock_writer = {
  .holds = USES (CONSISTENT_READ) | USES (WRITE) | USES (RESIZE) |
           FORBIDS (WRITE) | FORBIDS (RESIZE),
  .tests = FORBIDS (CONSISTENT_READ) | FORBIDS (WRITE) | FORBIDS (RESIZE) |
           USES (WRITE) | USES (RESIZE),
};

/* The file is about to be replaced by a new image.  The row is that of
 * qemu-img create.
 */
const struct qed_lock_user qed_lock_creator = {
  .holds = USES (WRITE) | USES (RESIZE) | FORBIDS (RESIZE),
  .tests = FORBIDS (WRITE) | FORBIDS (RESIZE) | USES (RESIZE),
};

static int
lock_byte (int fd, int cmd, short type, int i, short *found)
{
  struct flock fl = {
    .l_type = type, .l_whence = SEEK_SET, .l_len = 1,
    .l_start = i < NR_PERMISSIONS ? 100 + i : 200 + i - NR_PERMISSIONS,
  };
  int r = fcntl (fd, cmd, &fl);

  if (found)
    *found = fl.l_type;
  return r;
}

static void
unlock (int fd, unsigned bits)
{
  for (int i = 0; i < 2 * NR_PERMISSIONS; ++i)
    if (bits & (1U << i))
      lock_byte (fd, F_OFD_SETLK, F_UNLCK, i, NULL);
}

/* Try once, with the bytes of HELD locked already.  0: locked.  -1: the
 * system's errno.  1: a conflict, and *BIT is the byte's number in the sets
 * above.  Unless 0 is returned, no more is locked than before.
 */
static int
try_lock (int fd, const struct qed_lock_user *user, unsigned held, int *bit)
{
  const unsigned adds = user->holds & ~held;
  int r = 0;
  short found;

  for (int i = 0; r == 0 && i < 2 * NR_PERMISSIONS; ++i)
    if (adds & (1U << i))
      r = lock_byte (fd, F_OFD_SETLK, F_RDLCK, i, NULL);

  for (int i = 0; r == 0 && i < 2 * NR_PERMISSIONS; ++i)
    if (user->tests & (1U << i)) {
      r = lock_byte (fd, F_OFD_GETLK, F_WRLCK, i, &found);
      if (r == 0 && found != F_UNLCK) {
        *bit = i;
        r = 1;
      }
    }

  if (r != 0) {
    int err = errno;

    unlock (fd, adds);
    errno = err;
  }
  return r;
}

int
qed_take_locks (int fd, const char *name, const struct qed_lock_user *user,
                const struct qed_lock_user *held)
{
  int r = 0, bit = 0;

  /* Two processes that open the file at the same time may see each other's
   * locks and both give up: try again a few times, after different pauses.
   */
  for (int tries = 0; tries < 5; ++tries) {
    const struct timespec pause = {
      .tv_nsec = 2000000 * (1 + tries) + 100000 * (getpid () % 16),
    };

    r = try_lock (fd, user, held ? held->holds : 0, &bit);
    if (r != 1)
      break;
    nanosleep (&pause, NULL);
  }

  if (r == 1)
    return qed_error (EBUSY, "%s: locked: another process has the image open "
                      "and %s permission '%s': close it there first", name,
                      bit < NR_PERMISSIONS ? "uses" : "forbids others",
                      permission_names[bit % NR_PERMISSIONS]);
  if (r == -1 && (errno == EAGAIN || errno == EACCES))
    return qed_error (EBUSY, "%s: locked: another process has the image "
                      "locked exclusively: close it there first", name);
  if (r == -1 && qed_debug)
    qed_debug ("%s: no locks on this filesystem: %m", name);
  return 0;
}

void
qed_return_locks (int fd, const struct qed_lock_user *user,
                  const struct qed_lock_user *kept)
{
  unlock (fd, user->holds & ~kept->holds);
}

int
qed_fd_is_written (int fd)
{
  short found;

  return lock_byte (fd, F_OFD_GETLK, F_WRLCK, WRITE, &found) == -1 ?
    -1 : found != F_UNLCK;
}
