/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Storage on a regular file or a block device.
 *
 * An image is opened read-only first, with a reader's locks, so nothing can
 * write to it (I10).  To become writable the same file is opened again, for
 * writing, once for each sync that may be under way.  The first descriptor
 * keeps the locks, because another description with locks would conflict with
 * it (locks.c).
 *
 * A file that the user has passed as an open descriptor is treated in the same
 * way.  A process may have a descriptor of what it may not open, though.  Then
 * duplicates of the descriptor are used, which share one description.  The
 * kernel reports a failed write only once to that, so syncs take turns, and
 * the first failure stays.
 *
 * struct file is immutable after the constructor, with two exceptions: the
 * names of a new file (new-file.c) and the descriptors for writing, which are
 * set before the first operation that uses them.  So no mutex is needed but for
 * these turns: all operations are system calls that may run in parallel.  In
 * particular lseek with SEEK_DATA moves the file's position, but nothing uses
 * that.
 */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <linux/fs.h>
#include <linux/magic.h>

#include "error.h"
#include "locks.h"
#include "storage-file.h"

const char *volatile qed_unfinished_file;

/* ---- the operations ---- */

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
sync_in_turn (struct file *f)
{
  int err;

  pthread_mutex_lock (&f->turn);
  if (f->sync_error == 0 && fdatasync (f->sync_fds[0]) == -1) {
    err = errno;
    if (err != EINTR)
      f->sync_error = err;
  }
  else
    err = f->sync_error;
  pthread_mutex_unlock (&f->turn);
  errno = err;
  return err == 0 ? 0 : -1;
}

static int
file_sync (struct qed_storage *st)
{
  struct file *f = (struct file *) st;
  int i = 0, r;

  if (f->take_turns)
    return sync_in_turn (f);
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

/* Filesystems and devices without the operation say so in many ways.  EINVAL,
 * for instance, may come from a block device when the range isn't in whole
 * blocks.
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
try_zero_range (struct qed_storage *st, uint64_t offset, uint64_t length)
{
  if (((const struct file *) st)->on_fuse) {
    errno = EOPNOTSUPP;
    return -1;
  }
  return try_fallocate (st, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                        offset, length);
}

static int
file_zero (struct qed_storage *st, uint64_t offset, uint64_t length)
{
  int r = try_zero_range (st, offset, length);

  /* Some filesystems, such as tmpfs, can allocate and punch a hole but not
   * zero a range.  Where only the hole can be had, nothing may change, so
   * allocation is tried first.
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

/* Close the descriptors for writing, but not FD, which may be one of them. */
static void
close_writable (struct file *f)
{
  for (int i = 0; i < QED_MAX_SYNCS; ++i) {
    if (f->sync_fds[i] >= 0 && f->sync_fds[i] != f->fd)
      close (f->sync_fds[i]);
    f->sync_fds[i] = -1;
  }
  f->writable_fd = -1;
  f->take_turns = false;
}

static void
file_close (struct qed_storage *st)
{
  struct file *f = (struct file *) st;

  if (f->temporary) {
    qed_unfinished_file = NULL;
    unlink (f->temporary);
  }
  close_writable (f);
  if (f->fd >= 0)
    close (f->fd);
  if (f->passed >= 0)
    close (f->passed);
  if (f->replaced >= 0)
    close (f->replaced);
  if (f->directory >= 0)
    close (f->directory);
  free (f->temporary);
  free (f->target);
  free (f->path);
  pthread_mutex_destroy (&f->turn);
  free (f);
}

/* ---- to and from writing ---- */

static bool
same_file (int fd1, int fd2)
{
  struct stat st1, st2;

  return fstat (fd1, &st1) == 0 && fstat (fd2, &st2) == 0 &&
    st1.st_dev == st2.st_dev && st1.st_ino == st2.st_ino;
}

void
qed_fd_link (int fd, char link[QED_FD_LINK_BYTES])
{
  snprintf (link, QED_FD_LINK_BYTES, "/proc/self/fd/%d", fd);
}

/* Open the file of F again, whatever has become of its name. */
static int
open_again (struct file *f, int access)
{
  char link[QED_FD_LINK_BYTES];
  const int flags = access | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
  int fd;

  qed_fd_link (f->fd, link);
  fd = open (link, flags);
  if (fd >= 0 || errno != ENOENT || f->nameless)
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

void
qed_file_note_filesystem (struct file *f)
{
  struct statfs fs;

  f->on_fuse = fstatfs (f->fd, &fs) == -1 || fs.f_type == FUSE_SUPER_MAGIC;
}

/* The file can't be opened again, for the reason in errno.  Duplicate the
 * descriptor that was passed, if there is one, and it does what is needed:
 * without one of FLAGS.
 */
static int
duplicate_passed (struct file *f, int flags)
{
  const bool usable = f->passed >= 0 &&
    (errno == EACCES || errno == EPERM || errno == ENOENT) &&
    (fcntl (f->passed, F_GETFL) & flags) == 0;

  return usable ? fcntl (f->passed, F_DUPFD_CLOEXEC, 0) : -1;
}

/* The kernel lets root open a read-only device for writing.  Each write would
 * fail then.
 */
static bool
is_read_only (const struct file *f)
{
  int r = 0;

  return f->st.fixed_size && ioctl (f->fd, BLKROGET, &r) == 0 && r;
}

static int
open_for_writing (struct file *f)
{
  if (is_read_only (f))
    return qed_error (EROFS, "%s: the device is read-only", f->path);
  if (f->passed >= 0 && (fcntl (f->passed, F_GETFL) & O_ACCMODE) != O_RDWR)
    return qed_error (EROFS, "%s: the descriptor isn't open for writing",
                      f->path);
  for (int i = 0; i < QED_MAX_SYNCS && !f->take_turns; ++i) {
    f->sync_fds[i] = open_again (f, O_RDWR);
    if (f->sync_fds[i] == -1 && i == 0) {
      /* With O_APPEND each write would go to the end of the file. */
      f->sync_fds[i] = duplicate_passed (f, O_APPEND | O_DIRECT);
      f->take_turns = f->sync_fds[i] >= 0;
    }
    if (f->sync_fds[i] == -1)
      return qed_error (errno, "%s: open for writing: %m", f->path);
  }
  f->writable_fd = f->sync_fds[0];
  qed_file_note_filesystem (f);
  return 0;
}

/* The reader's locks become a writer's, and stay a reader's if that is
 * refused.  The file is opened first: without permission to write there is no
 * need for the locks.
 */
static int
file_make_writable (struct qed_storage *st)
{
  struct file *f = (struct file *) st;

  if (open_for_writing (f) == -1 ||
      (f->locked &&
       qed_take_locks (f->fd, st->name, &qed_lock_writer, f->locked) == -1)) {
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
    qed_return_locks (f->fd, &qed_lock_writer, f->locked);
  close_writable (f);
}

/* ---- the constructor ---- */

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

struct file *
qed_file_new (const char *path)
{
  struct file *f = calloc (1, sizeof *f);

  if (f == NULL || (f->path = strdup (path)) == NULL) {
    free (f);
    qed_error (errno, "%s: %m", path);
    return NULL;
  }
  f->st.ops = &file_ops;
  f->st.name = f->path;
  pthread_mutex_init (&f->turn, NULL);
  f->fd = f->writable_fd = f->passed = f->replaced = f->directory = -1;
  for (int i = 0; i < QED_MAX_SYNCS; ++i)
    f->sync_fds[i] = -1;
  return f;
}

/* ---- opening ---- */

int
qed_file_check_type (const struct stat *st, const char *name)
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

int
qed_file_check_named (int fd, const char *path, const char *name)
{
  struct stat opened, named;

  if (fstat (fd, &opened) == -1 || stat (path, &named) == -1)
    return qed_error (errno, "%s: stat: %m", name);
  if (opened.st_dev != named.st_dev || opened.st_ino != named.st_ino)
    return qed_error (EBUSY, "%s: another process has just replaced this "
                      "file: make sure that it is still the right one", name);
  return 0;
}

static bool
is_rotational (int fd)
{
  unsigned short r = 0;

  return ioctl (fd, BLKROTATIONAL, &r) == 0 && r;
}

/* F->fd was opened: what is it?  On failure F is closed. */
static struct qed_storage *
identify (struct file *f)
{
  struct stat st;

  if (fstat (f->fd, &st) == -1)
    qed_error (errno, "%s: stat: %m", f->path);
  else if (qed_file_check_type (&st, f->path) == 0) {
    /* A device has many names, in many filesystems, but one number. */
    f->st.fixed_size = S_ISBLK (st.st_mode);
    f->st.device = S_ISBLK (st.st_mode) ? st.st_rdev : st.st_dev;
    f->st.inode = S_ISBLK (st.st_mode) ? UINT64_MAX : st.st_ino;
    return &f->st;
  }
  file_close (&f->st);
  return NULL;
}

struct qed_storage *
qed_storage_find (const char *path)
{
  struct file *f = qed_file_new (path);

  if (f == NULL)
    return NULL;

  /* Opening some devices for reading already does something, and opening a
   * FIFO waits for a writer.  O_PATH only finds the file.
   */
  f->fd = open (path, O_PATH | O_CLOEXEC);
  if (f->fd == -1) {
    qed_error (errno, "%s: open: %m", path);
    file_close (&f->st);
    return NULL;
  }
  return identify (f);
}

/* Call the file of F, a descriptor that was passed, by its path, if it has
 * one.
 */
static void
name_passed (struct file *f)
{
  char *path = qed_storage_resolve (&f->st);

  f->nameless = path == NULL;
  if (path) {
    free (f->path);
    f->st.name = f->path = path;
  }
}

struct qed_storage *
qed_storage_find_fd (int fd)
{
  const int flags = fcntl (fd, F_GETFL);
  char name[sizeof "fd=" + 3 * sizeof (int)];
  struct file *f;

  snprintf (name, sizeof name, "fd=%d", fd);
  if (flags == -1)
    qed_error (errno, "%s: no such descriptor is open: %m", name);
  else if (flags & O_PATH || (flags & O_ACCMODE) == O_WRONLY)
    qed_error (EINVAL, "%s: the descriptor isn't open for reading", name);
  else if ((f = qed_file_new (name)) != NULL) {
    f->fd = fcntl (fd, F_DUPFD_CLOEXEC, 0);
    f->passed = fcntl (fd, F_DUPFD_CLOEXEC, 0);
    if (f->fd >= 0 && f->passed >= 0) {
      if (identify (f) == NULL)
        return NULL;
      name_passed (f);
      return &f->st;
    }
    qed_error (errno, "%s: dup: %m", name);
    file_close (&f->st);
  }
  return NULL;
}

bool
qed_storage_is_file (const struct qed_storage *st)
{
  return st->ops == &file_ops;
}

bool
qed_storage_has_path (const struct qed_storage *st)
{
  return qed_storage_is_file (st) && !((const struct file *) st)->nameless;
}

int64_t
qed_storage_space (const struct qed_storage *st)
{
  struct stat sb;

  if (fstat (file_fd (st), &sb) == -1)
    return qed_error (errno, "%s: stat: %m", st->name);
  return (int64_t) sb.st_blocks * 512;
}

/* The name of what has no path, such as an export. */
static char *
copy_name (const struct qed_storage *st)
{
  char *name = strdup (st->name);

  if (name == NULL)
    qed_error (errno, "%s: %m", st->name);
  return name;
}

char *
qed_storage_resolve (struct qed_storage *st)
{
  struct file *f = (struct file *) st;
  char link[QED_FD_LINK_BYTES], buf[PATH_MAX];
  struct stat opened, named;
  ssize_t n;
  char *path;

  if (!qed_storage_has_path (st))
    return copy_name (st);
  qed_fd_link (f->fd, link);
  n = readlink (link, buf, sizeof buf);
  path = n == -1 ? realpath (f->path, NULL) : strndup (buf, (size_t) n);
  if (path == NULL) {
    qed_error (errno, "%s: resolve the name: %m", f->path);
    return NULL;
  }
  /* The link of a deleted file, for instance, isn't a path to it. */
  if (fstat (f->fd, &opened) == -1 || stat (path, &named) == -1 ||
      opened.st_dev != named.st_dev || opened.st_ino != named.st_ino) {
    qed_error (ESTALE, "%s: resolve the name: the file has been renamed, "
               "replaced or deleted", f->path);
    free (path);
    return NULL;
  }
  return path;
}

int
qed_storage_begin (struct qed_storage *st)
{
  struct file *f = (struct file *) st;
  int fd;

  if (!qed_storage_is_file (st))
    return 0;
  fd = open_again (f, O_RDONLY);
  if (fd == -1)
    fd = duplicate_passed (f, O_DIRECT);
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

  if (!qed_storage_is_file (st))
    return 0;
  f->locked = reader == QED_READS_IMAGE ? &qed_lock_reader :
    &qed_lock_raw_reader;
  if (qed_take_locks (f->fd, f->path, f->locked, NULL) == -1)
    return -1;
  return f->passed >= 0 ? 0 : qed_file_check_named (f->fd, f->path, f->path);
}

int
qed_storage_is_written (struct qed_storage *st)
{
  return !qed_storage_is_file (st) ? -1 : qed_fd_is_written (file_fd (st));
}
