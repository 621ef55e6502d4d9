/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Where a new image or raw disk goes: a new file, and publishing it; or a block
 * device.
 *
 * The new file is made beside the name it will have, and renamed to that when
 * it is complete: at no time can another process see half an image there, and
 * if creation fails, a file that was there before is untouched.  Where the
 * filesystem has files without a name it has none until then, so that a process
 * that is killed leaves nothing behind.
 *
 * A file that is to be replaced is locked first (locks.c) and stays locked
 * until the storage is closed.  A name that didn't exist can't be locked, so
 * the rename fails if it has appeared meanwhile.  The directory is open before
 * the rename and synced after it: when publish has returned 0, the name is
 * durable.
 *
 * A block device has its name already, and the image is written into it.  It is
 * opened exclusively, which fails if it is mounted or part of another device.
 *
 * One thread creates a file; nothing here is locked against others.
 */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/stat.h>

#include "error.h"
#include "locks.h"
#include "storage-file.h"

static int
taken (const struct file *f)
{
  return qed_error (EEXIST, "%s: create: the name is a dangling symbolic link, "
                    "or another process has just taken it", f->path);
}

/* If the target exists, make sure that it may be replaced, and lock it. */
static int
open_replaced (struct file *f)
{
  struct stat st;

  if (stat (f->target, &st) == 0 && qed_file_check_type (&st, f->path) == -1)
    return -1;
  f->replaced = open (f->target, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (f->replaced == -1 && errno == ENOENT && lstat (f->target, &st) == 0)
    return taken (f);
  if (f->replaced == -1)
    return errno == ENOENT ? 0 : qed_error (errno, "%s: open: %m", f->path);
  if (fstat (f->replaced, &st) == -1)
    return qed_error (errno, "%s: stat: %m", f->path);
  if (qed_file_check_type (&st, f->path) == -1)
    return -1;
  if (!S_ISREG (st.st_mode))
    return qed_error (EBUSY, "%s: another process has just replaced this "
                      "file: make sure that it is still the right one",
                      f->path);
  if (qed_take_locks (f->replaced, f->path, &qed_lock_creator, NULL) == -1)
    return -1;
  return qed_file_check_named (f->replaced, f->target, f->path);
}

/* Open the directory of the new file now, so that after the rename only its
 * sync can fail.
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

/* Until the new file has the owner and mode of the file it replaces, nobody
 * else may open it.
 */
static mode_t
new_mode (const struct file *f)
{
  return f->replaced >= 0 ? 0600 : 0666;
}

/* Open a file without a name, which is gone even if this process is killed.
 * -1, without a message: the filesystem can't, or there is no /proc to name it.
 */
static int
open_nameless (struct file *f)
{
  char link[QED_FD_LINK_BYTES];

  f->fd = openat (f->directory, ".", O_RDWR | O_TMPFILE | O_CLOEXEC,
                  new_mode (f));
  if (f->fd == -1)
    return -1;
  qed_fd_link (f->fd, link);
  if (access (link, F_OK) == 0)
    return 0;
  close (f->fd);
  f->fd = -1;
  return -1;
}

/* Create the file under the name f->temporary. */
static int
create_named (struct file *f)
{
  f->fd = open (f->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC,
                new_mode (f));
  return f->fd >= 0 ? 0 : -1;
}

/* Give the file that has none the name TO, unless that is taken. */
static int
link_nameless (const struct file *f, const char *to)
{
  char link[QED_FD_LINK_BYTES];

  qed_fd_link (f->fd, link);
  return linkat (AT_FDCWD, link, AT_FDCWD, to, AT_SYMLINK_FOLLOW);
}

static int
link_temporary (struct file *f)
{
  return link_nameless (f, f->temporary);
}

/* Let TAKE give the new file its first name.  That is beside the last one, so
 * that the file can be renamed, and short, because the last one may be as long
 * as a name can be.
 */
static int
take_temporary (struct file *f, int (*take) (struct file *f))
{
  const char *slash = strrchr (f->target, '/');
  int dir = slash ? (int) (slash - f->target) + 1 : 0;

  /* A name that is taken was left behind by a process that was killed. */
  for (int i = 0; i < 100; ++i) {
    if (asprintf (&f->temporary, "%.*s.qed-create.%ld.%d", dir, f->target,
                  (long) getpid (), i) == -1) {
      f->temporary = NULL;
      return qed_error (ENOMEM, "%s: %m", f->path);
    }
    if (take (f) == 0) {
      qed_unfinished_file = f->temporary;
      return 0;
    }
    qed_error (errno, "%s: create %s: %m", f->path, f->temporary);
    free (f->temporary); /* not ours to remove */
    f->temporary = NULL;
    if (errno != EEXIST)
      break;
  }
  return -1;
}

/* Create the new file, without a name if the filesystem knows such files. */
static int
open_temporary (struct file *f)
{
  if (open_nameless (f) == -1 && take_temporary (f, create_named) == -1)
    return -1;
  f->writable_fd = f->sync_fds[0] = f->fd;
  qed_file_note_filesystem (f);
  return 0;
}

/* The new file gets the mode and owner of the one that it replaces.  If we may
 * not change the owner, the group gets no permissions, because it isn't the
 * group that the old file's mode was meant for.
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

static bool
is_device (const struct file *f)
{
  struct stat st;

  return stat (f->target, &st) == 0 && S_ISBLK (st.st_mode);
}

/* The target is a block device: open it as what is to be written. */
static int
open_device (struct file *f)
{
  struct stat st;

  f->fd = open (f->target, O_RDWR | O_EXCL | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (f->fd == -1)
    return qed_error (errno, "%s: open: %m%s", f->path, errno == EBUSY ?
                      ": the device is mounted, or in use otherwise" : "");
  f->writable_fd = f->sync_fds[0] = f->fd;
  f->st.fixed_size = true;
  if (fstat (f->fd, &st) == -1)
    return qed_error (errno, "%s: stat: %m", f->path);
  if (!S_ISBLK (st.st_mode))
    return qed_error (EBUSY, "%s: another process has just replaced this "
                      "device: make sure that it is still the right one",
                      f->path);
  if (qed_take_locks (f->fd, f->path, &qed_lock_creator, NULL) == -1)
    return -1;
  return qed_file_check_named (f->fd, f->target, f->path);
}

static int
open_file (struct file *f)
{
  return open_replaced (f) == -1 || open_directory (f) == -1 ||
    open_temporary (f) == -1 ||
    (f->replaced >= 0 && copy_permissions (f) == -1) ? -1 : 0;
}

struct qed_storage *
qed_storage_create (const char *path)
{
  struct file *f = qed_file_new (path);

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
  if ((is_device (f) ? open_device (f) : open_file (f)) == -1)
    goto err;
  return &f->st;

 err:
  f->st.ops->close (&f->st);
  return NULL;
}

/* Give the file its last name, unless a file has appeared there that
 * open_replaced didn't see, so that we don't have its locks.
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

  if (st->fixed_size) /* a device has its name */
    return 0;
  if (f->temporary == NULL && f->replaced >= 0 &&
      take_temporary (f, link_temporary) == -1)
    return -1;
  r = f->temporary == NULL ? link_nameless (f, f->target) :
    f->replaced >= 0 ? rename (f->temporary, f->target) :
    rename_new (f->temporary, f->target);
  if (r == -1 && errno == EEXIST)
    return taken (f);
  if (r == -1 && f->temporary == NULL)
    return qed_error (errno, "%s: link: %m", f->path);
  if (r == -1)
    return qed_error (errno, "%s: rename from %s: %m", f->path, f->temporary);
  qed_unfinished_file = NULL;
  free (f->temporary);
  f->temporary = NULL;
  if (fsync (f->directory) == -1)
    return qed_error (errno, "%s: sync of its directory: %m", f->path);
  return 0;
}
