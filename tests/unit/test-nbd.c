/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* A backing file over NBD survives servers that disconnect and restart: reads
 * of many threads, which share the connections, return the right content or
 * fail with EIO.  The scripts in tests/ test what users see, with more kinds
 * of servers.
 */

#include <config.h>

#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "alloc.h"
#include "harness.h"
#include "nbd.h"

#define SIZE (UINT64_C (4) << 20)
#define THREADS 8

static char dir[] = "/tmp/test-nbd.XXXXXX";
static pid_t server;

/* Start a program and don't wait for its end. */
static pid_t
start (const char *const argv[])
{
  pid_t pid = fork ();

  CHECK (pid >= 0);
  if (pid == 0) {
    execvp (argv[0], (char *const *) argv);
    _exit (127);
  }
  return pid;
}

/* Wait for its end.  Returns whether it succeeded. */
static bool
ended_well (pid_t pid)
{
  int status;

  CHECK_EQ (waitpid (pid, &status, 0), pid);
  return WIFEXITED (status) && WEXITSTATUS (status) == 0;
}

static bool
run (const char *const argv[])
{
  return ended_well (start (argv));
}

/* Start nbdkit, whose pattern plugin has at each offset that number, and
 * wait until it serves.
 */
static void
start_server (void)
{
  struct stat st;

  unlink ("sock");
  unlink ("pid");
  server = start ((const char *[]) { "nbdkit", "-f", "-U", "sock", "-P", "pid",
                                     "pattern", "4M", NULL });
  while (stat ("pid", &st) == -1 || st.st_size == 0) {
    CHECK_EQ (waitpid (server, NULL, WNOHANG), 0);
    usleep (10000);
  }
}

static void
kill_server (void)
{
  CHECK (kill (server, SIGKILL) == 0);
  CHECK (!ended_well (server));
}

static void
check_pattern (const uint8_t *buf, size_t n, uint64_t offset)
{
  for (size_t i = 0; i < n; i++) {
    uint64_t o = offset + i;

    /* The number is that of the 8 bytes it is in. */
    CHECK_EQ (buf[i], (uint8_t) ((o & ~UINT64_C (7)) >> (8 * (7 - o % 8))));
  }
}

/* Extents must cover the disk in order; OPAQUE is the start of the next. */
static int
next_extent (void *opaque, uint64_t offset, uint64_t length,
             bool zero __attribute__ ((unused)))
{
  uint64_t *next = opaque;

  CHECK_EQ (offset, *next);
  *next += length;
  return 0;
}

static void
check_extents (struct qed_backing *b, uint64_t offset, uint64_t length)
{
  uint64_t next = offset;

  CHECK (b->ops->extents (b, offset, length, next_extent, &next) == 0);
  CHECK_EQ (next, offset + length);
}

struct job {
  pthread_t thread;
  struct qed_backing *b;
  uint64_t seed;
  unsigned requests, errors;
};

/* Requests of all kinds.  Reads succeed with the right content, or fail with
 * EIO while there is no server.
 */
static void *
client (void *opaque)
{
  struct job *job = opaque;
  struct qed_backing *b = job->b;
  struct rng rng = { job->seed };
  uint8_t buf[5000];

  for (unsigned i = 0; i < job->requests; i++) {
    size_t n = 1 + (size_t) rng_below (&rng, sizeof buf);
    uint64_t offset = rng_below (&rng, SIZE - n);

    CONTEXT ("request %u: %zu bytes at %" PRIu64, i, n, offset);
    switch (rng_below (&rng, 8)) {
    case 0:
      check_extents (b, offset, n);
      break;
    case 1:
      CHECK (b->ops->prefetch (b, offset, n) == 0 || errno == EIO);
      break;
    default:
      if (b->ops->pread (b, buf, n, offset) == 0)
        check_pattern (buf, n, offset);
      else {
        CHECK_EQ (errno, EIO);
        job->errors++;
        usleep (10000);
      }
    }
  }
  return NULL;
}

/* Call DISTURB while clients read B.  Returns the number of errors that they
 * saw.
 */
static unsigned
run_clients (struct qed_backing *b, unsigned requests, void (*disturb) (void))
{
  struct job jobs[THREADS];
  unsigned errors = 0;

  for (unsigned i = 0; i < THREADS; i++) {
    jobs[i] = (struct job) { .b = b, .seed = i, .requests = requests };
    CHECK (pthread_create (&jobs[i].thread, NULL, client, &jobs[i]) == 0);
  }
  if (disturb)
    disturb ();
  for (unsigned i = 0; i < THREADS; i++) {
    CHECK (pthread_join (jobs[i].thread, NULL) == 0);
    errors += jobs[i].errors;
  }
  return errors;
}

static void
restart_servers (void)
{
  for (unsigned i = 0; i < 3; i++) {
    usleep (100000);
    kill_server ();
    usleep (300000);
    start_server ();
  }
}

static void
wait_until_served (struct qed_backing *b)
{
  uint8_t c;

  while (b->ops->pread (b, &c, 1, SIZE - 1) == -1) {
    CHECK_EQ (errno, EIO);
    usleep (50000);
  }
}

/* URI for the server in our directory. */
static const char *
our_uri (void)
{
  static char uri[100];

  snprintf (uri, sizeof uri, "nbd+unix:///?socket=%s/sock", dir);
  return uri;
}

static void
test_uri (void)
{
  struct qed_backing *b;

  CHECK_FAILS_NULL (qed_nbd_open_uri (our_uri (), true), ENOENT, our_uri ());
  start_server ();
  b = qed_nbd_open_uri (our_uri (), true);
  CHECK (b != NULL);
  CHECK_EQ (b->size, SIZE);
  CHECK_STR (b->name, our_uri ());

  CHECK_EQ (run_clients (b, 500, NULL), 0);
  CHECK (run_clients (b, 500, restart_servers) > 0);
  wait_until_served (b);
  CHECK_EQ (run_clients (b, 500, NULL), 0);
  qed_backing_close (b);
  kill_server ();
}

/* The image that qemu-nbd is to serve, or skip the test. */
static bool
make_qcow2 (void)
{
  bool ok;

  start_server ();
  ok = run ((const char *[]) { "qemu-img", "convert", "-f", "raw", "-O",
                               "qcow2", our_uri (), "base.qcow2", NULL });
  kill_server ();
  return ok;
}

static void
test_file (void)
{
  char path[100], name[] = "qcow2";
  struct qed_backing *b;

  if (!make_qcow2 ()) {
    printf ("no qemu-img: skipped\n");
    return;
  }
  snprintf (path, sizeof path, "%s/base.qcow2", dir);
  CHECK_FAILS_NULL (qed_nbd_open_file (path, "vdi"), EIO, path, "vdi");
  b = qed_nbd_open_file (path, name);
  CHECK (b != NULL);
  CHECK_EQ (b->size, SIZE);
  memset (name, 'x', 5);        /* it is a copy */
  CHECK_EQ (waitpid (-1, NULL, WNOHANG), -1);   /* no child */

  CHECK_EQ (run_clients (b, 300, NULL), 0);
  qed_backing_close (b);
  CHECK_EQ (waitpid (-1, NULL, WNOHANG), -1);
}

/* Without memory opening fails, and leaves nothing behind. */
static void
test_no_memory (void)
{
  struct qed_backing *b = NULL;
  int64_t before;

  start_server ();
  before = alloc_bytes ();
  for (unsigned k = 1; b == NULL; k++) {
    alloc_fail (k);
    b = qed_nbd_open_uri (our_uri (), true);
    if (b == NULL) {
      CHECK_EQ (errno, ENOMEM);
      CHECK_EQ (alloc_bytes (), before);
      CHECK (k < 100);
    }
  }
  alloc_fail (0);
  qed_backing_close (b);
  CHECK_EQ (alloc_bytes (), before);
  kill_server ();
}

int
main (int argc, char *argv[])
{
  static const struct harness_test tests[] = {
    TEST (test_uri), TEST (test_file), TEST (test_no_memory),
  };
  int r;

  if (!qed_have_libnbd ||
      !run ((const char *[]) { "nbdkit", "-U", "-", "pattern", "4M", "--run",
                             "true", NULL })) {
    printf ("SKIP: no libnbd, or no nbdkit\n");
    return 77;
  }
  CHECK (mkdtemp (dir) != NULL);
  CHECK (chdir (dir) == 0);
  r = harness_main (tests, sizeof tests / sizeof tests[0], argc, argv);
  unlink ("base.qcow2");
  unlink ("pid");
  unlink ("sock");
  CHECK (rmdir (dir) == 0);
  return r;
}
