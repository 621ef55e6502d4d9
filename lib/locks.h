/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* QEMU's locks on an open file.  See locks.c. */

#ifndef QED_LOCKS_H
#define QED_LOCKS_H

/* A kind of user: the locks that it holds, and those of others that conflict
 * with it.
 */
struct qed_lock_user;
extern const struct qed_lock_user qed_lock_reader;     /* of an image */
extern const struct qed_lock_user qed_lock_raw_reader; /* of a raw file */
extern const struct qed_lock_user qed_lock_writer;
extern const struct qed_lock_user qed_lock_creator;    /* replaces the file */

/* Take USER's locks on FD, which has those of HELD already (NULL: none).
 * EBUSY, with a message about NAME: they conflict with another process's, and
 * FD has the locks of HELD as before.  A filesystem without locks is no error.
 */
extern int qed_take_locks (int fd, const char *name,
                           const struct qed_lock_user *user,
                           const struct qed_lock_user *held);

/* FD has USER's locks: drop those that KEPT doesn't hold too. */
extern void qed_return_locks (int fd, const struct qed_lock_user *user,
                              const struct qed_lock_user *kept);

/* Does another open file description hold the lock that says it writes?  -1:
 * there are no locks on this filesystem.
 */
extern int qed_fd_is_written (int fd);

#endif /* QED_LOCKS_H */
