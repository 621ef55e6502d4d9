/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* What storage-file.c and new-file.c share: a file that is open or being
 * created.  Private to these two.
 */

#ifndef QED_STORAGE_FILE_H
#define QED_STORAGE_FILE_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "storage.h"

struct qed_lock_user;

struct file {
  struct qed_storage st;
  int fd;                       /* for reading; has the locks */
  int writable_fd;              /* for writing, or -1; may be FD itself */
  char *path;                   /* as the user gave it; also st.name */
  int passed;                   /* a duplicate of the descriptor that the user
                                   passed, or -1 */
  bool nameless;                /* PATH isn't one: of a deleted file, say */
  const struct qed_lock_user *locked; /* the locks that FD has, or NULL */
  bool on_fuse;                 /* see qed_file_note_filesystem */

  /* The file, opened once for each sync that may be under way, or -1.  The
   * kernel reports a failed write once to each open file description, so two
   * syncs must not share one.
   */
  int sync_fds[QED_MAX_SYNCS];
  atomic_bool syncing[QED_MAX_SYNCS];

  /* The only description that there is, since the file can't be opened again:
   * syncs take turns, and after a failed one, with this errno, all fail.
   */
  bool take_turns;
  pthread_mutex_t turn;         /* guards the rest */
  int sync_error;

  /* Only of a file that is being created; a device has TARGET only: */
  char *target;                 /* path with symbolic links followed */
  char *temporary;              /* its name until published, or NULL: it
                                   has none */
  int replaced;                 /* locked descriptor of the old file, or -1 */
  int directory;                /* where the new file is, or -1 */
};

/* A struct file without a descriptor, for PATH, which is copied. */
extern struct file *qed_file_new (const char *path);

/* Find out whether F, which is open, is on FUSE, and remember it.  There
 * FALLOC_FL_ZERO_RANGE isn't to be trusted: GlusterFS 10 returns success, and
 * the range keeps its content.
 */
extern void qed_file_note_filesystem (struct file *f);

/* The link in /proc to the file that FD has open. */
#define QED_FD_LINK_BYTES (sizeof "/proc/self/fd/" + 3 * sizeof (int))
extern void qed_fd_link (int fd, char link[QED_FD_LINK_BYTES]);

/* Can a file with this stat be an image?  EISDIR or EINVAL if not. */
extern int qed_file_check_type (const struct stat *st, const char *name);

/* FD is locked now: is it still the file of the name PATH?  EBUSY if not.  A
 * process that replaces an image by another one has locks on the old file,
 * which we may have waited for.  NAME is for the message.
 */
extern int qed_file_check_named (int fd, const char *path, const char *name);

#endif /* QED_STORAGE_FILE_H */
