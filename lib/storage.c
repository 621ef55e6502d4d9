/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The image file.
 *
 * Above: callers in the library, who want all or nothing and a message.
 * Below: struct qed_storage_ops, which look like system calls, so that
 * tests can put faults or a recorder there.  Here: the loops between the
 * two, and the operations on real files.
 *
 * Locks are QEMU's (DESIGN.md, Locking): shared open-file-description locks
 * on single bytes.  Byte 100+i says "I use permission i", byte 200+i "I
 * forbid others permission i".  Nobody ever takes an exclusive one; who
 * wants to know whether somebody else holds a byte asks with F_OFD_GETLK
 * whether an exclusive lock would be granted.  They belong to the open file
 * description, so nbdkit's fork into the background keeps them.
 *
 * An image is opened read-only first, with a reader's locks; there is nothing
 * that it could be written by (I10).  To become writable the same file is
 * opened again, for writing, once for each sync that may be under way; the
 * first descriptor stays the one that holds the locks, because another
 * description with locks would be in conflict with it.
 *
 * struct file is immutable after the constructor, but for the names of a
 * new file and the descriptors for writing, which are set before the first
 * operation that uses them; all operations are system calls that may run in
 * parallel.  In particular lseek with SEEK_DATA moves the file's
 * position, but nothing here uses that.
 */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <linux/fs.h>

#include "error.h"
#include "storage.h"

/* ---- for callers in the library ---- */

int
qed_storage_read (struct qed_storage *st, void *buf, size_t count,
                  uint64_t offset)
{
  while (count > 0) {
    ssize_t r = st->ops->pread (st, buf, count, offset);

    if (r == -1 && errno == EINTR)
      continue;
    if (r == -1)
      return qed_error (errno, "%s: read of %zu bytes at %" PRIu64 ": %m",
                        st->name, count, offset);
    if (r == 0)
      return qed_error (EIO, "%s: read of %zu bytes at %" PRIu64
                        ": the file has been cut short while in use",
                        st->name, count, offset);
    buf = (char *) buf + r;
    count -= (size_t) r;
    offset += (uint64_t) r;
  }
  return 0;
}

int
qed_storage_write (struct qed_storage *st, const void *buf, size_t count,
                   uint64_t offset)
{
  while (count > 0) {
    ssize_t r = st->ops->pwrite (st, buf, count, offset);

    if (r == -1 && errno == EINTR)
      continue;
    if (r <= 0)
      return qed_error (r == 0 ? EIO : errno,
                        "%s: write of %zu bytes at %" PRIu64 ": %m",
                        st->name, count, offset);
    buf = (const char *) buf + r;
    count -= (size_t) r;
    offset += (uint64_t) r;
  }
  return 0;
}

int
qed_storage_writev (struct qed_storage *st, struct iovec *iov, int iovcnt,
                    uint64_t offset)
{
  while (iovcnt > 0) {
    ssize_t r = st->ops->pwritev (st, iov, iovcnt, offset);

    if (r == -1 && errno == EINTR)
      continue;
    if (r <= 0)
      return qed_error (r == 0 ? EIO : errno, "%s: write at %" PRIu64 ": %m",
                        st->name, offset);
    offset += (uint64_t) r;
    for (; iovcnt > 0 && (size_t) r >= iov->iov_len; ++iov, --iovcnt)
      r -= (ssize_t) iov->iov_len;
    if (iovcnt > 0) {
      iov->iov_base = (char *) iov->iov_base + r;
      iov->iov_len -= (size_t) r;
    }
  }
  return 0;
}

int64_t
qed_storage_size (struct qed_storage *st)
{
  int64_t r;

  do
    r = st->ops->get_size (st);
  while (r == -1 && errno == EINTR);
  if (r == -1)
    return qed_error (errno, "%s: length of the file: %m", st->name);
  return r;
}

int
qed_storage_resize (struct qed_storage *st, uint64_t size)
{
  int r;

  do
    r = st->ops->resize (st, size);
  while (r == -1 && errno == EINTR);
  if (r == -1)
    return qed_error (errno, "%s: change of length to %" PRIu64 ": %m",
                      st->name, size);
  return 0;
}

int
qed_storage_sync (struct qed_storage *st)
{
  int r;

  /* An interrupted sync has reported nothing yet; any other failure must not
   * be repeated, because it would seem to succeed.
   */
  do
    r = st->ops->sync (st);
  while (r == -1 && errno == EINTR);
  if (r == -1)
    return qed_error (errno, "%s: sync: %m", st->name);
  return 0;
}

/* The message about a range. */
static int
range_error (struct qed_storage *st, const char *what, uint64_t offset,
             uint64_t length)
{
  return qed_error (errno, "%s: %s of %" PRIu64 " bytes at %" PRIu64 ": %m",
                    st->name, what, length, offset);
}

int
qed_storage_punch (struct qed_storage *st, uint64_t offset, uint64_t length)
{
  int r;

  do
    r = st->ops->punch (st, offset, length);
  while (r == -1 && errno == EINTR);
  return r == -1 ? range_error (st, "hole", offset, length) : 0;
}

int
qed_storage_zero (struct qed_storage *st, uint64_t offset, uint64_t length)
{
  int r;

  do
    r = st->ops->zero (st, offset, length);
  while (r == -1 && errno == EINTR);
  return r == -1 ? range_error (st, "zero", offset, length) : 0;
}

int
qed_storage_prefetch (struct qed_storage *st, uint64_t offset,
                      uint64_t length)
{
  return st->ops->prefetch (st, offset, length) == -1 ?
    range_error (st, "prefetch", offset, length) : 0;
}

void
qed_storage_close (struct qed_storage *st)
{
  if (st != NULL)
    st->ops->close (st);
}

/* ---- real files ---- */

struct lock_user;

struct file {
  struct qed_storage st;
  int fd;                       /* for reading; has the locks */
  int writable_fd;              /* for the rest, or -1; may be FD itself */
  char *path;                   /* as the user gave it; also st.name */
  const struct lock_user *locked; /* whose locks FD has got, or NULL */

  /* For sync: the file, opened once for each of those that may be under way,
   * or -1.  The kernel reports that something could not be written once to
   * each open file description, so two syncs must not share one.
   */
  int sync_fds[QED_MAX_SYNCS];
  atomic_bool syncing[QED_MAX_SYNCS];

  /* Only of a file that is being created: */
  char *target;                 /* path with symbolic links followed */
  char *temporary;              /* its name until published, or NULL */
  int replaced;                 /* locked descriptor of the old file, or -1 */
  int directory;                /* where the new file is, or -1 */
};

static int
file_fd (const struct qed_storage *st)
{
  return ((const struct file *) st)->fd;
}

static int
writable_fd (const struct qed_storage *st)
{
  return ((const struct file *) st)->writable_fd;
}

static ssize_t
file_pread (struct qed_storage *st, void *buf, size_t count, uint64_t offset)
{
  return pread (file_fd (st), buf, count, (off_t) offset);
}

static ssize_t
file_pwrite (struct qed_storage *st, const void *buf, size_t count,
             uint64_t offset)
{
  return pwrite (writable_fd (st), buf, count, (off_t) offset);
}

static ssize_t
file_pwritev (struct qed_storage *st, const struct iovec *iov, int iovcnt,
              uint64_t offset)
{
  return pwritev (writable_fd (st), iov, iovcnt, (off_t) offset);
}

static int64_t
file_get_size (struct qed_storage *st)
{
  /* Unlike fstat this works for block devices too. */
  return lseek (file_fd (st), 0, SEEK_END);
}

static int
file_resize (struct qed_storage *st, uint64_t size)
{
  return ftruncate (writable_fd (st), (off_t) size);
}

static int
file_sync (struct qed_storage *st)
{
  struct file *f = (struct file *) st;
  int i = 0, r;

  while (atomic_exchange (&f->syncing[i], true))
    i = (i + 1) % QED_MAX_SYNCS;
  r = fdatasync (f->sync_fds[i]);
  atomic_store (&f->syncing[i], false);
  return r;
}

static int64_t
file_next_extent (struct qed_storage *st, uint64_t offset, bool *hole)
{
  int fd = file_fd (st);
  off_t r = lseek (fd, (off_t) offset, SEEK_DATA);

  *hole = r != (off_t) offset;
  if (r == -1 && errno == ENXIO) /* a hole up to the end */
    return lseek (fd, 0, SEEK_END);
  if (r == -1 && errno == EINVAL) { /* not supported: no holes known */
    *hole = false;
    return lseek (fd, 0, SEEK_END);
  }
  return *hole ? r : lseek (fd, (off_t) offset, SEEK_HOLE);
}

static int
file_prefetch (struct qed_storage *st, uint64_t offset, uint64_t length)
{
  int r = posix_fadvise (file_fd (st), (off_t) offset, (off_t) length,
                         POSIX_FADV_WILLNEED);

  if (r != 0) {
    errno = r;
    return -1;
  }
  return 0;
}

/* Filesystems and devices that can't do it say so in many ways; EINVAL, for
 * instance, may be a block device's for a range that isn't in whole blocks.
 */
static int
try_fallocate (struct qed_storage *st, int mode, uint64_t offset,
               uint64_t length)
{
  int r = fallocate (writable_fd (st), mode, (off_t) offset, (off_t) length);

  if (r == -1 && (errno == EINVAL || errno == ENODEV || errno == ENOSYS ||
                  errno == ENOTTY))
    errno = EOPNOTSUPP;
  return r;
}

static int
file_punch (struct qed_storage *st, uint64_t offset, uint64_t length)
{
  return try_fallocate (st, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                        offset, length);
}

static int
file_zero (struct qed_storage *st, uint64_t offset, uint64_t length)
{
  int r = try_fallocate (st, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                         offset, length);

  /* tmpfs, for instance, has only the two halves of it.  Where there is only a
   * hole to be had nothing may be changed: so the other one is tried first.
   */
  if (r == -1 && errno == EOPNOTSUPP &&
      (r = try_fallocate (st, FALLOC_FL_KEEP_SIZE, offset, length)) == 0 &&
      (r = file_punch (st, offset, length)) == 0)
    r = try_fallocate (st, FALLOC_FL_KEEP_SIZE, offset, length);
  return r;
}

static int64_t
file_free_space (struct qed_storage *st)
{
  struct statvfs fs;

  if (fstatvfs (file_fd (st), &fs) == -1)
    return -1;
  return (int64_t) (fs.f_bavail * fs.f_frsize);
}

static int file_make_writable (struct qed_storage *st);
static void file_make_readonly (struct qed_storage *st);

/* The descriptors for writing, of which FD itself may be one. */
static void
close_writable (struct file *f)
{
  for (int i = 0; i < QED_MAX_SYNCS; ++i) {
    if (f->sync_fds[i] >= 0 && f->sync_fds[i] != f->fd)
      close (f->sync_fds[i]);
    f->sync_fds[i] = -1;
  }
  f->writable_fd = -1;
}

static void
file_close (struct qed_storage *st)
{
  struct file *f = (struct file *) st;

  if (f->temporary)
    unlink (f->temporary);
  close_writable (f);
  if (f->fd >= 0)
    close (f->fd);
  if (f->replaced >= 0)
    close (f->replaced);
  if (f->directory >= 0)
    close (f->directory);
  free (f->temporary);
  free (f->target);
  free (f->path);
  free (f);
}

static const struct qed_storage_ops file_ops = {
  .pread = file_pread,
  .pwrite = file_pwrite,
  .pwritev = file_pwritev,
  .get_size = file_get_size,
  .resize = file_resize,
  .sync = file_sync,
  .next_extent = file_next_extent,
  .prefetch = file_prefetch,
  .punch = file_punch,
  .zero = file_zero,
  .free_space = file_free_space,
  .make_writable = file_make_writable,
  .make_readonly = file_make_readonly,
  .close = file_close,
};

/* A struct file without a descriptor, for PATH, which is copied. */
static struct file *
new_file (const char *path)
{
  struct file *f = calloc (1, sizeof *f);

  if (f == NULL || (f->path = strdup (path)) == NULL) {
    free (f);
    qed_error (errno, "%s: %m", path);
    return NULL;
  }
  f->st.ops = &file_ops;
  f->st.name = f->path;
  f->fd = f->writable_fd = f->replaced = f->directory = -1;
  for (int i = 0; i < QED_MAX_SYNCS; ++i)
    f->sync_fds[i] = -1;
  return f;
}

/* ---- locks ---- */

enum { CONSISTENT_READ, WRITE, WRITE_UNCHANGED, RESIZE, NR_PERMISSIONS };

static const char *const permission_names[NR_PERMISSIONS] = {
  "consistent read", "write", "write unchanged", "resize",
};

#define USES(permission) (1U << (permission))
#define FORBIDS(permission) (1U << (NR_PERMISSIONS + (permission)))

/* One row of the table in DESIGN.md, Locking: sets of USES and FORBIDS. */
struct lock_user {
  unsigned holds;
  unsigned tests;
};

static const struct lock_user lock_reader = {
  .holds = USES (CONSISTENT_READ) | FORBIDS (WRITE) | FORBIDS (RESIZE),
  .tests = FORBIDS (CONSISTENT_READ) | USES (WRITE) | USES (RESIZE),
};

/* Who reads a raw backing file: writing to it is its owner's business. */
static const struct lock_user lock_raw_reader = {
  .holds = USES (CONSISTENT_READ),
  .tests = FORBIDS (CONSISTENT_READ),
};

static const struct lock_user lock_writer = {
  .holds = USES (CONSISTENT_READ) | USES (WRITE) | USES (RESIZE) |
           FORBIDS (WRITE) | FORBIDS (RESIZE),
  .tests = FORBIDS (CONSISTENT_READ) | FORBIDS (WRITE) | FORBIDS (RESIZE) |
           USES (WRITE) | USES (RESIZE),
};

/* Whoever replaces the file by another image: as qemu-img create. */
static const struct lock_user lock_creator = {
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

/* One try, with HELD locked already.  0: locked.  -1: the system's errno.
 * 1: a conflict, and *BIT is the byte's number in the sets above.  But for 0
 * nothing more is locked than before.
 */
static int
try_lock (int fd, const struct lock_user *user, unsigned held, int *bit)
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

static int
take_locks (int fd, const char *name, const struct lock_user *user,
            unsigned held)
{
  int r = 0, bit = 0;

  /* Two who open at the same time may see each other's locks and both give
   * up: try again a few times, after different pauses.
   */
  for (int tries = 0; tries < 5; ++tries) {
    const struct timespec pause = {
      .tv_nsec = 2000000 * (1 + tries) + 100000 * (getpid () % 16),
    };

    r = try_lock (fd, user, held, &bit);
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

/* ---- opening ---- */

/* Can a file with this stat be an image? */
static int
check_file_type (const struct stat *st, const char *name)
{
  if (!S_ISREG (st->st_mode) && !S_ISBLK (st->st_mode))
    return qed_error (S_ISDIR (st->st_mode) ? EISDIR : EINVAL,
                      "%s: is a %s: an image must be a regular file or a "
                      "block device", name,
                      S_ISDIR (st->st_mode) ? "directory" :
                      S_ISFIFO (st->st_mode) ? "FIFO" :
                      S_ISCHR (st->st_mode) ? "character device" :
                      S_ISSOCK (st->st_mode) ? "socket" :
                      "special file");
  return 0;
}

static bool
same_file (int fd1, int fd2)
{
  struct stat st1, st2;

  return fstat (fd1, &st1) == 0 && fstat (fd2, &st2) == 0 &&
    st1.st_dev == st2.st_dev && st1.st_ino == st2.st_ino;
}

/* FD is locked now: is it still the file of that name?  Whoever replaces an
 * image by another one has locks on the old file, which we may have waited
 * for.
 */
static int
check_still_named (int fd, const char *path, const char *name)
{
  struct stat opened, named;

  if (fstat (fd, &opened) == -1 || stat (path, &named) == -1)
    return qed_error (errno, "%s: stat: %m", name);
  if (opened.st_dev != named.st_dev || opened.st_ino != named.st_ino)
    return qed_error (EBUSY, "%s: another process has just replaced this "
                      "file: look whether it is still the right one", name);
  return 0;
}

static bool
is_rotational (int fd)
{
  unsigned short r = 0;

  return ioctl (fd, BLKROTATIONAL, &r) == 0 && r;
}

/* The link in /proc to the file that FD has open. */
#define FD_LINK_BYTES (sizeof "/proc/self/fd/" + 3 * sizeof (int))

static void
fd_link (int fd, char link[FD_LINK_BYTES])
{
  snprintf (link, FD_LINK_BYTES, "/proc/self/fd/%d", fd);
}

/* Open the file that FD has open again: whatever has become of its name. */
static int
open_again (struct file *f, int access)
{
  char link[FD_LINK_BYTES];
  const int flags = access | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
  int fd;

  fd_link (f->fd, link);
  fd = open (link, flags);
  if (fd >= 0 || errno != ENOENT)
    return fd;

  /* There is no /proc here, so it has to be the name. */
  fd = open (f->path, flags);
  if (fd >= 0 && !same_file (f->fd, fd)) {
    close (fd);
    errno = ESTALE;
    return -1;
  }
  return fd;
}

struct qed_storage *
qed_storage_find (const char *path)
{
  struct file *f = new_file (path);
  struct stat st;

  if (f == NULL)
    return NULL;

  /* Opening for reading is an action already for some devices, and of a FIFO
   * waits for a writer.  O_PATH only finds the file.
   */
  f->fd = open (path, O_PATH | O_CLOEXEC);
  if (f->fd == -1) {
    qed_error (errno, "%s: open: %m", path);
    goto err;
  }
  if (fstat (f->fd, &st) == -1) {
    qed_error (errno, "%s: stat: %m", path);
    goto err;
  }
  if (check_file_type (&st, path) == -1)
    goto err;
  /* A device has many names, in many filesystems, but one number. */
  f->st.fixed_size = S_ISBLK (st.st_mode);
  f->st.device = S_ISBLK (st.st_mode) ? st.st_rdev : st.st_dev;
  f->st.inode = S_ISBLK (st.st_mode) ? UINT64_MAX : st.st_ino;
  return &f->st;

 err:
  qed_storage_close (&f->st);
  return NULL;
}

char *
qed_storage_resolve (struct qed_storage *st)
{
  struct file *f = (struct file *) st;
  char link[FD_LINK_BYTES], buf[PATH_MAX];
  struct stat opened, named;
  ssize_t n;
  char *path;

  fd_link (f->fd, link);
  n = readlink (link, buf, sizeof buf);
  path = n == -1 ? realpath (f->path, NULL) : strndup (buf, (size_t) n);
  if (path == NULL) {
    qed_error (errno, "%s: where the name leads: %m", f->path);
    return NULL;
  }
  /* The link of a deleted file, for instance, isn't a path to it. */
  if (fstat (f->fd, &opened) == -1 || stat (path, &named) == -1 ||
      opened.st_dev != named.st_dev || opened.st_ino != named.st_ino) {
    qed_error (ESTALE, "%s: where the name leads: nowhere now: the file has "
               "been renamed, replaced or deleted", f->path);
    free (path);
    return NULL;
  }
  return path;
}

int
qed_storage_begin (struct qed_storage *st)
{
  struct file *f = (struct file *) st;
  int fd = open_again (f, O_RDONLY);

  if (fd == -1)
    return qed_error (errno, "%s: open: %m", f->path);
  close (f->fd);
  f->fd = fd;
  f->st.rotational = f->st.fixed_size && is_rotational (fd);
  return 0;
}

int
qed_storage_lock (struct qed_storage *st, enum qed_reader reader)
{
  struct file *f = (struct file *) st;

  f->locked = reader == QED_READS_IMAGE ? &lock_reader : &lock_raw_reader;
  return take_locks (f->fd, f->path, f->locked, 0) == -1 ? -1 :
    check_still_named (f->fd, f->path, f->path);
}

struct qed_storage *
qed_storage_open (const char *path, bool lock)
{
  struct qed_storage *st = qed_storage_find (path);

  if (st && (qed_storage_begin (st) == -1 ||
             (lock && qed_storage_lock (st, QED_READS_IMAGE) == -1))) {
    qed_storage_close (st);
    return NULL;
  }
  return st;
}

int
qed_storage_is_written (struct qed_storage *st)
{
  short found;

  return lock_byte (file_fd (st), F_OFD_GETLK, F_WRLCK, WRITE, &found) == -1 ?
    -1 : found != F_UNLCK;
}

static int
open_for_writing (struct file *f)
{
  for (int i = 0; i < QED_MAX_SYNCS; ++i) {
    f->sync_fds[i] = open_again (f, O_RDWR);
    if (f->sync_fds[i] == -1)
      return qed_error (errno, "%s: open for writing: %m", f->path);
  }
  f->writable_fd = f->sync_fds[0];
  return 0;
}

/* The reader's locks become a writer's, and stay a reader's when that is
 * refused.  Whether we may write at all is asked first, because who may not
 * has no need for locks.
 */
static int
file_make_writable (struct qed_storage *st)
{
  struct file *f = (struct file *) st;

  if (open_for_writing (f) == -1 ||
      (f->locked &&
       take_locks (f->fd, st->name, &lock_writer, f->locked->holds) == -1)) {
    int err = errno;

    close_writable (f);
    errno = err;
    return -1;
  }
  return 0;
}

static void
file_make_readonly (struct qed_storage *st)
{
  struct file *f = (struct file *) st;

  if (f->locked)
    unlock (f->fd, lock_writer.holds & ~f->locked->holds);
  close_writable (f);
}

/* ---- creating ---- */

/* PATH exists: make sure that it may be replaced, and lock it. */
static int
open_replaced (struct file *f)
{
  struct stat st;

  if (stat (f->target, &st) == 0 && check_file_type (&st, f->path) == -1)
    return -1;
  f->replaced = open (f->target, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (f->replaced == -1)
    return errno == ENOENT ? 0 : qed_error (errno, "%s: open: %m", f->path);
  if (fstat (f->replaced, &st) == -1)
    return qed_error (errno, "%s: stat: %m", f->path);
  if (check_file_type (&st, f->path) == -1)
    return -1;
  if (!S_ISREG (st.st_mode))
    return qed_error (EINVAL, "%s: is a block device: an image is created in "
                      "a regular file only, because it grows", f->path);
  if (take_locks (f->replaced, f->path, &lock_creator, 0) == -1)
    return -1;
  return check_still_named (f->replaced, f->target, f->path);
}

/* Open the directory of the new file, so that nothing but its sync is left
 * to do, and to fail, after the rename.
 */
static int
open_directory (struct file *f)
{
  const char *slash = strrchr (f->target, '/');
  /* "/name" is in "/", "name" in ".". */
  size_t n = slash == f->target ? 1 : slash ? (size_t) (slash - f->target) : 0;
  char *dir = n ? strndup (f->target, n) : strdup (".");

  if (dir)
    f->directory = open (dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (f->directory == -1)
    qed_error (errno, "%s: open its directory: %m", f->path);
  free (dir);
  return f->directory == -1 ? -1 : 0;
}

/* The new file's first name: beside its last one, so that it can be renamed
 * to that, and short, because the last one may be as long as names can be.
 */
static int
open_temporary (struct file *f)
{
  const char *slash = strrchr (f->target, '/');
  int dir = slash ? (int) (slash - f->target) + 1 : 0;

  /* Until it has the owner and mode of the file it replaces, nobody else may
   * open it.
   */
  mode_t mode = f->replaced >= 0 ? 0600 : 0666;

  /* A name that is taken was left behind by a process that was killed. */
  for (int i = 0; i < 100; ++i) {
    if (asprintf (&f->temporary, "%.*s.qed-create.%ld.%d", dir, f->target,
                  (long) getpid (), i) == -1) {
      f->temporary = NULL;
      return qed_error (ENOMEM, "%s: %m", f->path);
    }
    f->fd = open (f->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    f->writable_fd = f->sync_fds[0] = f->fd;
    if (f->fd >= 0)
      return 0;
    qed_error (errno, "%s: create %s: %m", f->path, f->temporary);
    free (f->temporary); /* not ours to remove */
    f->temporary = NULL;
    if (errno != EEXIST)
      break;
  }
  return -1;
}

/* The new file gets mode and owner of the one it replaces.  If we may not give
 * it away, what was allowed to the old file's group isn't to ours.
 */
static int
copy_permissions (struct file *f)
{
  struct stat st;
  mode_t mode;

  if (fstat (f->replaced, &st) == -1)
    goto err;
  mode = st.st_mode & 0777;
  if (fchown (f->fd, st.st_uid, st.st_gid) == -1) {
    if (errno != EPERM)
      goto err;
    mode &= ~(mode_t) S_IRWXG;
  }
  if (fchmod (f->fd, mode) == 0)
    return 0;

 err:
  return qed_error (errno, "%s: copy of the permissions: %m", f->path);
}

struct qed_storage *
qed_storage_create (const char *path)
{
  struct file *f = new_file (path);

  if (f == NULL)
    return NULL;
  if (path[0] == '\0') {
    qed_error (ENOENT, "'': create: the name is empty");
    goto err;
  }
  /* A symbolic link stays, and the file it leads to is replaced. */
  f->target = realpath (path, NULL);
  if (f->target == NULL && (f->target = strdup (path)) == NULL) {
    qed_error (errno, "%s: %m", path);
    goto err;
  }
  if (open_replaced (f) == -1 || open_directory (f) == -1 ||
      open_temporary (f) == -1 ||
      (f->replaced >= 0 && copy_permissions (f) == -1))
    goto err;
  return &f->st;

 err:
  qed_storage_close (&f->st);
  return NULL;
}

/* Give the file its last name, unless a file appeared there that
 * open_replaced didn't see and whose locks we don't have.
 */
static int
rename_new (const char *from, const char *to)
{
  if (renameat2 (AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
    return 0;
  if (errno != EINVAL && errno != ENOSYS)
    return -1;
  /* A filesystem without that flag, such as NFS. */
  if (link (from, to) == -1)
    return -1;
  unlink (from);
  return 0;
}

int
qed_storage_publish (struct qed_storage *st)
{
  struct file *f = (struct file *) st;
  int r;

  r = f->replaced >= 0 ? rename (f->temporary, f->target) :
    rename_new (f->temporary, f->target);
  if (r == -1 && errno == EEXIST)
    return qed_error (EEXIST, "%s: create: the name is a symbolic link that "
                      "leads nowhere, or another process has just taken it",
                      f->path);
  if (r == -1)
    return qed_error (errno, "%s: rename from %s: %m", f->path, f->temporary);
  free (f->temporary);
  f->temporary = NULL;
  if (fsync (f->directory) == -1)
    return qed_error (errno, "%s: sync of its directory: %m", f->path);
  return 0;
}
