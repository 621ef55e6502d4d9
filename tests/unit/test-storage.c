/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Storage on real files (storage-file.c) refuses directories, pipes and
 * character devices without waiting, takes and respects the locks that
 * DESIGN.md describes, and has the operations that qed.h specifies.
 */

#include <config.h>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "harness.h"

static char dir[] = "test-storage.XXXXXX";

/* A temporary file of this content; the caller closes and unlinks it. */
static int
make_file (const char *name, const void *content, size_t size)
{
  int fd = open (name, O_RDWR | O_CREAT | O_TRUNC, 0666);

  CHECK (fd >= 0);
  CHECK_EQ (write (fd, content, size), size);
  return fd;
}

static void
test_open (void)
{
  struct qed_storage *st;

  close (make_file ("file", "hello", 5));
  st = qed_storage_open ("file", true);
  CHECK (st != NULL);
  CHECK_STR (st->name, "file");
  CHECK_EQ (st->ops->get_size (st), 5);
  qed_storage_close (st);
  CHECK (unlink ("file") == 0);

  /* The name is a copy. */
  {
    char name[] = "file";

    close (make_file (name, "hello", 5));
    st = qed_storage_open (name, false);
    CHECK (st != NULL);
    memset (name, 'x', 4);
    CHECK_STR (st->name, "file");
    qed_storage_close (st);
    CHECK (unlink ("file") == 0);
  }
}

/* None of these may be opened or make the call wait. */
static void
test_open_fails (void)
{
  struct sockaddr_un addr = { .sun_family = AF_UNIX, .sun_path = "socket" };
  int fd;

  for (int lock = 0; lock < 2; lock++) {
    CHECK_FAILS_NULL (qed_storage_open ("absent", lock), ENOENT, "absent: ");
    CHECK_FAILS_NULL (qed_storage_open ("", lock), ENOENT, "");
    CHECK_FAILS_NULL (qed_storage_open (".", lock), EISDIR, ".: ",
                      "directory");
    CHECK_FAILS_NULL (qed_storage_open ("/dev/zero", lock), EINVAL,
                      "/dev/zero: ", "character device");

    CHECK (mkfifo ("fifo", 0666) == 0);
    CHECK_FAILS_NULL (qed_storage_open ("fifo", lock), EINVAL, "fifo: ",
                      "FIFO");
    CHECK (unlink ("fifo") == 0);

    fd = socket (AF_UNIX, SOCK_STREAM, 0);
    CHECK (fd >= 0);
    CHECK (bind (fd, (struct sockaddr *) &addr, sizeof addr) == 0);
    CHECK_FAILS_NULL (qed_storage_open ("socket", lock), EINVAL, "socket: ",
                      "is a socket");
    close (fd);
    CHECK (unlink ("socket") == 0);

    CHECK (symlink ("link", "link") == 0);
    CHECK_FAILS_NULL (qed_storage_open ("link", lock), ELOOP, "link: ");
    CHECK (unlink ("link") == 0);
  }
}

/* Number of open descriptors, to see those that leak. */
static unsigned
count_fds (void)
{
  unsigned n = 0;

  for (int fd = 0; fd < 100; fd++)
    n += fcntl (fd, F_GETFD) != -1;
  return n;
}

static void
test_descriptors (void)
{
  unsigned before = count_fds ();
  struct qed_storage *st;
  int fd = make_file ("file", "", 0);

  close (fd);
  CHECK (qed_storage_open (".", true) == NULL);
  CHECK (qed_storage_open ("/dev/null", true) == NULL);
  CHECK_EQ (count_fds (), before);
  st = qed_storage_open ("file", true);
  CHECK (st != NULL);
  CHECK_EQ (count_fds (), before + 1);
  for (int i = 3; i < 100; i++) {
    int flags = fcntl (i, F_GETFD);

    if (i == fd)                /* the lowest free one: the storage's */
      CHECK (flags & FD_CLOEXEC);
  }
  qed_storage_close (st);
  CHECK_EQ (count_fds (), before);
  CHECK (unlink ("file") == 0);
}

static void
test_operations (void)
{
  struct qed_storage *st;
  char data[20000], buf[20000];
  int fd;
  bool hole;

  for (size_t i = 0; i < sizeof data; i++)
    data[i] = (char) (i * 7 + i / 256);
  fd = make_file ("file", data, sizeof data);
  CHECK_EQ (pwrite (fd, data, 10000, UINT64_C (1) << 40), 10000);
  st = qed_storage_open ("file", true);
  CHECK (st != NULL);

  CHECK_EQ (st->ops->get_size (st), (UINT64_C (1) << 40) + 10000);
  CHECK_EQ (st->ops->pread (st, buf, 20000, 0), 20000);
  CHECK (memcmp (buf, data, 20000) == 0);
  CHECK_EQ (st->ops->pread (st, buf, 100, 777), 100);
  CHECK (memcmp (buf, data + 777, 100) == 0);
  CHECK_EQ (st->ops->pread (st, buf, 100, (UINT64_C (1) << 40) + 9990), 10);
  CHECK (memcmp (buf, data + 9990, 10) == 0);
  CHECK_EQ (st->ops->pread (st, buf, 100, (UINT64_C (1) << 40) + 10000), 0);
  CHECK_EQ (st->ops->prefetch (st, 0, 20000), 0);

  /* The file was opened to be read (I10). */
  CHECK_EQ (st->ops->pwrite (st, buf, 1, 0), -1);
  CHECK_EQ (st->ops->resize (st, 0), -1);
  CHECK_EQ (st->ops->get_size (st), (UINT64_C (1) << 40) + 10000);

  /* Which ranges are holes is up to the filesystem, but these are large. */
  {
    int64_t end = st->ops->next_extent (st, 0, &hole);

    CHECK (!hole);
    CHECK_OP (end, >=, 20000);
    CHECK_OP (end, <=, UINT64_C (1) << 40);
    if (end < INT64_C (1) << 40) {
      int64_t next = st->ops->next_extent (st, (uint64_t) end, &hole);

      CHECK (hole);
      CHECK_OP (next, >, end);
      CHECK_OP (next, <=, UINT64_C (1) << 40);
      next = st->ops->next_extent (st, 1 << 30, &hole);
      CHECK (hole);
      CHECK_OP (next, <=, UINT64_C (1) << 40);
    }
    end = st->ops->next_extent (st, (UINT64_C (1) << 40) + 100, &hole);
    CHECK (!hole);
    CHECK_EQ (end, (UINT64_C (1) << 40) + 10000);
  }

  /* A hole up to the end of the file. */
  CHECK (ftruncate (fd, INT64_C (1) << 41) == 0);
  CHECK_EQ (st->ops->get_size (st), UINT64_C (1) << 41);
  if (st->ops->next_extent (st, INT64_C (3) << 39, &hole) != -1 && hole)
    CHECK_EQ (st->ops->next_extent (st, INT64_C (3) << 39, &hole),
              UINT64_C (1) << 41);
  qed_storage_close (st);
  close (fd);
  CHECK (unlink ("file") == 0);
}

/* ---- locks: DESIGN.md, Locking ---- */

static int
lock (int fd, short type, int byte)
{
  struct flock fl = {
    .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1
  };

  return fcntl (fd, F_OFD_SETLK, &fl);
}

/* Does another open file hold a lock on the byte? */
static bool
is_locked (int fd, int byte)
{
  struct flock fl = {
    .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1
  };

  CHECK (fcntl (fd, F_OFD_GETLK, &fl) == 0);
  return fl.l_type != F_UNLCK;
}

/* A reader locks bytes 100, 201 and 203 and respects 200, 101 and 103. */
static void
test_locks (void)
{
  int fd = make_file ("file", "hello", 5);
  struct qed_storage *st, *st2;

  if (lock (fd, F_RDLCK, 99) == -1) {
    printf ("no locks on this filesystem\n");
    close (fd);
    CHECK (unlink ("file") == 0);
    return;
  }

  st = qed_storage_open ("file", true);
  CHECK (st != NULL);
  for (int byte = 0; byte < 300; byte++) {
    CONTEXT ("byte %d", byte);
    CHECK_EQ (is_locked (fd, byte), byte == 100 || byte == 201 ||
              byte == 203);
    if (byte != 100 && byte != 201 && byte != 203)
      continue;
    CHECK_EQ (lock (fd, F_WRLCK, byte), -1); /* shared locks only */
    CHECK_EQ (lock (fd, F_RDLCK, byte), 0);
    CHECK_EQ (lock (fd, F_UNLCK, byte), 0);
  }

  /* Readers don't conflict; closing the storage releases its locks. */
  st2 = qed_storage_open ("file", true);
  CHECK (st2 != NULL);
  qed_storage_close (st);
  CHECK (is_locked (fd, 100));
  qed_storage_close (st2);
  CHECK (!is_locked (fd, 100));
  CHECK (!is_locked (fd, 201));

  /* The locks of others that stop a reader. */
  for (int byte = 100; byte < 204; byte++) {
    bool conflict = byte == 200 || byte == 101 || byte == 103;

    if (byte == 104)
      byte = 200;
    CONTEXT ("byte %d", byte);
    CHECK_EQ (lock (fd, F_RDLCK, byte), 0);
    conflict = byte == 200 || byte == 101 || byte == 103;
    if (conflict) {
      CHECK_FAILS_NULL (qed_storage_open ("file", true), EBUSY, "file: ",
                        "permission",
                        byte == 200 ? "consistent read" :
                        byte == 101 ? "write" : "resize");
      for (int b = 100; b < 204; b++)   /* the attempt leaves no lock */
        CHECK (!is_locked (fd, b));
      st = qed_storage_open ("file", false);
    }
    else
      st = qed_storage_open ("file", true);
    CHECK (st != NULL);
    qed_storage_close (st);
    CHECK_EQ (lock (fd, F_UNLCK, byte), 0);
  }

  /* An exclusive lock on a byte that it wants. */
  CHECK_EQ (lock (fd, F_WRLCK, 201), 0);
  CHECK_FAILS_NULL (qed_storage_open ("file", true), EBUSY, "file: ");
  CHECK_EQ (lock (fd, F_UNLCK, 201), 0);

  /* Without locks nothing is held. */
  st = qed_storage_open ("file", false);
  CHECK (st != NULL);
  for (int byte = 100; byte < 204; byte++)
    CHECK (!is_locked (fd, byte));
  qed_storage_close (st);

  close (fd);
  CHECK (unlink ("file") == 0);
}

/* The locks survive the fork into the background. */
static void
test_locks_fork (void)
{
  int fd = make_file ("file", "hello", 5), go[2], status;
  struct qed_storage *st = qed_storage_open ("file", true);
  pid_t pid;
  char c;

  CHECK (st != NULL);
  if (lock (fd, F_RDLCK, 99) == -1) {
    qed_storage_close (st);
    close (fd);
    CHECK (unlink ("file") == 0);
    return;
  }
  CHECK (pipe (go) == 0);
  fflush (stdout);
  pid = fork ();
  CHECK (pid != -1);
  if (pid == 0) {
    close (go[1]);
    CHECK_EQ (read (go[0], &c, 1), 0);  /* until the parent has closed */
    qed_storage_close (st);
    _exit (EXIT_SUCCESS);
  }
  qed_storage_close (st);
  CHECK (is_locked (fd, 100));
  close (go[0]);
  close (go[1]);
  CHECK (waitpid (pid, &status, 0) == pid);
  CHECK_EQ (status, 0);
  CHECK (!is_locked (fd, 100));
  close (fd);
  CHECK (unlink ("file") == 0);
}

/* ---- main: in a directory of its own ---- */

static void
enter_directory (void)
{
  CHECK (mkdtemp (dir) != NULL);
  CHECK (chdir (dir) == 0);
}

static void
leave_directory (void)
{
  CHECK (chdir ("..") == 0);
  CHECK (rmdir (dir) == 0);     /* every test has cleaned up */
}

HARNESS_MAIN (
  TEST (enter_directory),
  TEST (test_open),
  TEST (test_open_fails),
  TEST (test_descriptors),
  TEST (test_operations),
  TEST (test_locks),
  TEST (test_locks_fork),
  TEST (leave_directory),
)
