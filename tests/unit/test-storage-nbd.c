/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Storage on an NBD export, against a model in memory: many threads write and
 * read bytes between each other's, on servers that take whole blocks only, that
 * lack commands, or that have one connection.  What happens to writes when the
 * connection is lost.  The scripts in tests/ test what users see.
 */

#include <config.h>

#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "alloc.h"
#include "harness.h"

#define SIZE (UINT64_C (4) << 20)
#define THREADS 8

/* Bytes belong to threads in pieces of this size by turns.  It is less than a
 * block of most servers below.
 */
#define PIECE UINT64_C (1536)

static char dir[] = "/tmp/test-storage-nbd.XXXXXX";
static pid_t server;

static const char *
our_uri (void)
{
  static char uri[100];

  snprintf (uri, sizeof uri, "nbd+unix:///?socket=%s/sock", dir);
  return uri;
}

/* Start nbdkit with ARGS, up to a NULL, and wait until it serves. */
static void
start_server (const char *const args[])
{
  const char *argv[32] = { "nbdkit", "-f", "-U", "sock", "-P", "pid" };
  struct stat st;
  size_t n = 6;

  while (*args)
    argv[n++] = *args++;
  unlink ("sock");
  unlink ("pid");
  server = fork ();
  CHECK (server >= 0);
  if (server == 0) {
    execvp (argv[0], (char *const *) argv);
    _exit (127);
  }
  while (stat ("pid", &st) == -1 || st.st_size == 0) {
    CHECK_EQ (waitpid (server, NULL, WNOHANG), 0);
    usleep (10000);
  }
}

static void
end_server (int signal)
{
  CHECK (kill (server, signal) == 0);
  CHECK_EQ (waitpid (server, NULL, 0), server);
}

static struct qed_storage *
open_storage (void)
{
  struct qed_storage *st = qed_storage_open (our_uri (), true);

  CHECK (st != NULL);
  CHECK (st->ops->make_writable (st) == 0);
  CHECK_EQ (st->ops->get_size (st), SIZE);
  return st;
}

/* ---- the model ---- */

static uint8_t model[SIZE];

struct job {
  pthread_t thread;
  struct qed_storage *st;
  unsigned number;
};

/* A range inside a piece of this thread's. */
static void
choose_range (struct rng *rng, unsigned number, uint64_t *offset,
              uint64_t *count)
{
  uint64_t pieces = SIZE / PIECE / THREADS;
  uint64_t start = (rng_below (rng, pieces) * THREADS + number) * PIECE;

  *offset = start + rng_below (rng, PIECE);
  *count = 1 + rng_below (rng, start + PIECE - *offset);
}

static void
write_range (struct qed_storage *st, struct rng *rng, uint64_t offset,
             uint64_t count)
{
  for (uint64_t i = 0; i < count; i++)
    model[offset + i] = (uint8_t) (1 + rng_below (rng, 255));
  for (uint64_t done = 0; done < count; ) {
    ssize_t r = st->ops->pwrite (st, model + offset + done, count - done,
                                 offset + done);

    CHECK (r > 0);
    done += (uint64_t) r;
  }
}

static void
write_two_buffers (struct qed_storage *st, struct rng *rng, uint64_t offset,
                   uint64_t count)
{
  struct iovec iov[2] = {
    { model + offset, count / 2 },
    { model + offset + count / 2, count - count / 2 },
  };
  ssize_t r;

  for (uint64_t i = 0; i < count; i++)
    model[offset + i] = (uint8_t) rng_below (rng, 256);
  r = st->ops->pwritev (st, iov, 2, offset);
  CHECK (r > 0);
  if ((uint64_t) r < count)
    CHECK_EQ (st->ops->pwrite (st, model + offset + r, count - (size_t) r,
                               offset + (uint64_t) r),
              count - (uint64_t) r);
}

static void
zero_range (struct qed_storage *st, bool punch, uint64_t offset,
            uint64_t count)
{
  if ((punch ? st->ops->punch : st->ops->zero) (st, offset, count) == 0)
    memset (model + offset, 0, count);
  else
    CHECK_EQ (errno, EOPNOTSUPP);
}

static void
read_range (struct qed_storage *st, uint64_t offset, uint64_t count)
{
  uint8_t buf[PIECE];

  CHECK_EQ (st->ops->pread (st, buf, count, offset), count);
  CHECK (memcmp (buf, model + offset, count) == 0);
}

static void *
client (void *opaque)
{
  struct job *job = opaque;
  struct qed_storage *st = job->st;
  struct rng rng = { job->number };

  for (unsigned i = 0; i < 1500; i++) {
    uint64_t offset, count;

    choose_range (&rng, job->number, &offset, &count);
    CONTEXT ("request %u: %" PRIu64 " bytes at %" PRIu64, i, count, offset);
    switch (rng_below (&rng, 8)) {
    case 0: case 1: case 2:
      write_range (st, &rng, offset, count);
      break;
    case 3:
      write_two_buffers (st, &rng, offset, count);
      break;
    case 4:
      zero_range (st, i & 1, offset, count);
      break;
    case 5:
      CHECK (i % 8 || st->ops->sync (st) == 0);
      CHECK (st->ops->prefetch (st, offset, count) == 0);
      break;
    default:
      read_range (st, offset, count);
    }
  }
  return NULL;
}

/* All of it is what the model has, holes too. */
static void
compare (struct qed_storage *st)
{
  uint8_t *buf = malloc (SIZE);

  CHECK_EQ (st->ops->pread (st, buf, SIZE, 0), SIZE);
  CHECK (memcmp (buf, model, SIZE) == 0);
  free (buf);
  for (uint64_t offset = 0; offset < SIZE; ) {
    bool hole;
    int64_t end = st->ops->next_extent (st, offset, &hole);

    CHECK (end > (int64_t) offset && end <= (int64_t) SIZE);
    for (uint64_t i = offset; hole && i < (uint64_t) end; i++)
      CHECK_EQ (model[i], 0);
    offset = (uint64_t) end;
  }
}

static void
run_clients (struct qed_storage *st)
{
  struct job jobs[THREADS];

  memset (model, 0, sizeof model);
  for (unsigned i = 0; i < THREADS; i++) {
    jobs[i] = (struct job) { .st = st, .number = i };
    CHECK (pthread_create (&jobs[i].thread, NULL, client, &jobs[i]) == 0);
  }
  for (unsigned i = 0; i < THREADS; i++)
    CHECK (pthread_join (jobs[i].thread, NULL) == 0);
  compare (st);
}

/* Requests that are longer than servers take, and begin and end inside blocks.
 */
static void
write_at_once (struct qed_storage *st)
{
  struct rng rng = { THREADS };

  write_range (st, &rng, 77, SIZE - 200);
  zero_range (st, true, 70001, SIZE / 2);
  compare (st);
}

/* ---- tests ---- */

static void
test_with (const char *const args[])
{
  struct qed_storage *st;

  start_server (args);
  st = open_storage ();
  run_clients (st);
  write_at_once (st);
  CHECK (st->ops->sync (st) == 0);
  qed_storage_close (st);

  /* Another opening sees the same. */
  st = open_storage ();
  compare (st);
  qed_storage_close (st);
  end_server (SIGTERM);
}

#define TEST_WITH(name, ...)                                    \
  static void                                                   \
  name (void)                                                   \
  {                                                             \
    test_with ((const char *[]) { __VA_ARGS__, NULL });         \
  }

TEST_WITH (test_memory, "memory", "4M")
TEST_WITH (test_one_connection, "--filter=multi-conn", "memory", "4M",
           "multi-conn-mode=disable")
TEST_WITH (test_blocks_512, "--filter=blocksize-policy", "memory", "4M",
           "blocksize-minimum=512", "blocksize-error-policy=error")
TEST_WITH (test_blocks_64k, "--filter=blocksize-policy", "memory", "4M",
           "blocksize-minimum=65536", "blocksize-maximum=65536",
           "blocksize-preferred=65536", "blocksize-error-policy=error")
TEST_WITH (test_no_zero, "--filter=nozero", "memory", "4M")
TEST_WITH (test_no_extents, "--filter=noextents", "memory", "4M")
TEST_WITH (test_slow, "--filter=delay", "memory", "4M", "delay-write=1ms",
           "delay-read=1ms")

/* What the server has said of holes is forgotten when one is filled. */
static void
test_filled_hole (void)
{
  struct qed_storage *st;
  bool hole;

  start_server ((const char *[]) { "memory", "4M", NULL });
  st = open_storage ();
  CHECK_EQ (st->ops->next_extent (st, 0, &hole), SIZE);
  CHECK (hole);
  CHECK_EQ (st->ops->pwrite (st, "x", 1, 1 << 20), 1);
  CHECK (st->ops->next_extent (st, 0, &hole) <= 1 << 20);
  CHECK (hole);
  CHECK (st->ops->next_extent (st, 1 << 20, &hole) > 1 << 20);
  CHECK (!hole);
  qed_storage_close (st);
  end_server (SIGTERM);
}

/* Small reads, in sequence for a while, from somewhere. */
static void *
small_reader (void *opaque)
{
  const struct job *job = opaque;
  struct rng rng = { job->number };

  for (unsigned i = 0; i < 200; i++) {
    uint64_t offset = rng_below (&rng, SIZE);

    for (uint64_t n = rng_below (&rng, 100); n > 0 && offset < SIZE; n--) {
      uint64_t count = rng_below (&rng, 4) ? 512 : 1 + rng_below (&rng, PIECE);

      if (count > SIZE - offset)
        count = SIZE - offset;
      read_range (job->st, offset, count);
      offset += count;
    }
  }
  return NULL;
}

/* What is read ahead of small reads is what the export has, also when one has
 * begun to write.
 */
static void
test_ahead (void)
{
  struct job jobs[THREADS];
  struct rng rng = { 1 };
  struct qed_storage *st, *other;

  start_server ((const char *[]) { "memory", "4M", NULL });
  other = open_storage ();
  write_range (other, &rng, 0, SIZE);
  st = qed_storage_open (our_uri (), true);
  CHECK (st != NULL);
  small_reader (&(struct job) { .st = st, .number = THREADS });
  for (unsigned i = 0; i < THREADS; i++) {
    jobs[i] = (struct job) { .st = st, .number = i };
    CHECK (pthread_create (&jobs[i].thread, NULL, small_reader,
                           &jobs[i]) == 0);
  }
  for (unsigned i = 0; i < THREADS; i++)
    CHECK (pthread_join (jobs[i].thread, NULL) == 0);

  for (unsigned i = 0; i < 4; i++)
    read_range (st, i * 512, 512);
  write_range (other, &rng, 0, 100000);
  CHECK (st->ops->make_writable (st) == 0);
  for (unsigned i = 0; i < 100; i++) {
    write_range (st, &rng, (i + 1) * 512, 512);
    read_range (st, i * 512, 512);
    read_range (st, (i + 1) * 512, 512);
  }
  qed_storage_close (st);
  qed_storage_close (other);
  end_server (SIGTERM);
}

/* A connection that is lost while all is durable costs nothing.  Else nothing
 * more is written.
 */
static void
test_lost (void)
{
  static const char *const args[] = { "file", "disk", NULL };
  FILE *f = fopen ("disk", "w");
  struct qed_storage *st;
  struct rng rng = { 1 };

  CHECK (f != NULL && ftruncate (fileno (f), SIZE) == 0 && fclose (f) == 0);
  memset (model, 0, sizeof model);
  start_server (args);
  st = open_storage ();
  for (int i = 0; i < 3; i++) {
    write_range (st, &rng, (uint64_t) i * 5000, 5000);
    CHECK (st->ops->sync (st) == 0);
    end_server (SIGKILL);
    start_server (args);
  }
  compare (st);

  write_range (st, &rng, 100, 5000);
  end_server (SIGKILL);
  start_server (args);
  CHECK_FAILS (st->ops->pwrite (st, model, 1, 0), EIO, our_uri (),
               "nothing more is written");
  CHECK_FAILS (st->ops->sync (st), EIO, our_uri (),
               "nothing more is written");
  CHECK_FAILS (st->ops->punch (st, 0, 4096), EIO, our_uri (),
               "nothing more is written");
  usleep (1100000);
  compare (st);                 /* the file kept it */
  qed_storage_close (st);
  end_server (SIGKILL);
  unlink ("disk");
}

/* All connections are lost with the server.  That must count once, not again
 * when something was written to the next server.
 */
static void *
read_some (void *opaque)
{
  struct qed_storage *st = opaque;
  uint8_t buf[4096];

  for (unsigned i = 0; i < 200; i++)
    CHECK_EQ (st->ops->pread (st, buf, sizeof buf, i * 4096), sizeof buf);
  return NULL;
}

static void
read_in_parallel (struct qed_storage *st)
{
  pthread_t threads[THREADS];

  for (unsigned i = 0; i < THREADS; i++)
    CHECK (pthread_create (&threads[i], NULL, read_some, st) == 0);
  for (unsigned i = 0; i < THREADS; i++)
    CHECK (pthread_join (threads[i], NULL) == 0);
}

static void
test_lost_all (void)
{
  static const char *const args[] = {
    "--filter=delay", "memory", "4M", "rdelay=1ms", NULL
  };
  struct qed_storage *st;
  uint8_t byte = 1;

  start_server (args);
  st = open_storage ();
  read_in_parallel (st);        /* opens all connections */
  end_server (SIGKILL);
  start_server (args);
  CHECK_EQ (st->ops->pwrite (st, &byte, 1, 0), 1);
  read_in_parallel (st);        /* uses all connections again */
  CHECK_EQ (st->ops->pwrite (st, &byte, 1, 1), 1);
  CHECK (st->ops->sync (st) == 0);
  qed_storage_close (st);
  end_server (SIGTERM);
}

/* A write that is under way when the connection is lost may be done later. */
static void *
write_one (void *opaque)
{
  struct qed_storage *st = opaque;

  CHECK_EQ (st->ops->pwrite (st, model, 512, 0), -1);
  CHECK_EQ (errno, EIO);
  return NULL;
}

static void
test_lost_under_way (void)
{
  static const char *const args[] = { "memory", "4M", NULL };
  struct qed_storage *st;
  pthread_t thread;

  start_server (args);
  st = open_storage ();
  CHECK (kill (server, SIGSTOP) == 0);
  CHECK_EQ (waitpid (server, NULL, WUNTRACED), server);
  CHECK (pthread_create (&thread, NULL, write_one, st) == 0);
  usleep (1000000);
  end_server (SIGKILL);
  CHECK (pthread_join (thread, NULL) == 0);
  start_server (args);
  CHECK_FAILS (st->ops->sync (st), EIO, "nothing more is written");
  qed_storage_close (st);
  end_server (SIGTERM);
}

static void
test_readonly (void)
{
  struct qed_storage *st;

  start_server ((const char *[]) { "-r", "memory", "4M", NULL });
  st = qed_storage_open (our_uri (), true);
  CHECK (st != NULL);
  CHECK_FAILS (st->ops->make_writable (st), EROFS, our_uri (), "read-only");
  qed_storage_close (st);
  end_server (SIGTERM);

  start_server ((const char *[]) { "eval", "get_size=echo 4M",
                                   "pread=dd if=/dev/zero count=$3 bs=1",
                                   "pwrite=cat >/dev/null", NULL });
  st = qed_storage_open (our_uri (), true);
  CHECK (st != NULL);
  CHECK_FAILS (st->ops->make_writable (st), EROFS, our_uri (), "flush");
  qed_storage_close (st);
  end_server (SIGTERM);
}

/* The program ends with the storage, and the next one is started when it has
 * died.
 */
static void
test_command (void)
{
  static const char *const argv[] = { "nbdkit", "memory", "4M", NULL };
  static const char *const missing[] = { "./no-such-program", "x", NULL };
  struct qed_storage *st = qed_storage_open_command (argv);
  uint8_t byte = 1;

  CHECK (st != NULL);
  CHECK_STR (st->name, "nbdkit memory 4M");
  CHECK (st->ops->make_writable (st) == 0);
  CHECK_EQ (st->ops->pwrite (st, &byte, 1, 0), 1);
  CHECK (st->ops->sync (st) == 0);
  st->ops->after_fork (st);     /* starts another one */
  CHECK_EQ (st->ops->pread (st, &byte, 1, 0), 1);
  CHECK_EQ (byte, 0);
  qed_storage_close (st);
  CHECK_EQ (waitpid (-1, NULL, WNOHANG), -1); /* no child */

  CHECK_FAILS_NULL (qed_storage_open_command (missing), EIO,
                    "./no-such-program x", "command");
  CHECK_EQ (waitpid (-1, NULL, WNOHANG), -1);
}

static void
test_no_memory (void)
{
  struct qed_storage *st = NULL;
  int64_t before;

  start_server ((const char *[]) { "memory", "4M", NULL });
  before = alloc_bytes ();
  for (unsigned k = 1; st == NULL; k++) {
    alloc_fail (k);
    st = qed_storage_open_uri (our_uri ());
    if (st == NULL) {
      CHECK_EQ (errno, ENOMEM);
      CHECK_EQ (alloc_bytes (), before);
      CHECK (k < 100);
    }
  }
  alloc_fail (0);
  qed_storage_close (st);
  CHECK_EQ (alloc_bytes (), before);
  end_server (SIGTERM);
}

int
main (int argc, char *argv[])
{
  static const struct harness_test tests[] = {
    TEST (test_memory), TEST (test_one_connection), TEST (test_blocks_512),
    TEST (test_blocks_64k), TEST (test_no_zero), TEST (test_no_extents),
    TEST (test_slow), TEST (test_filled_hole), TEST (test_ahead),
    TEST (test_lost),
    TEST (test_lost_all), TEST (test_lost_under_way), TEST (test_readonly),
    TEST (test_command),
    TEST (test_no_memory),
  };
  int r;

  if (!qed_have_libnbd || system ("nbdkit --version >/dev/null") != 0) {
    printf ("SKIP: no libnbd, or no nbdkit\n");
    return 77;
  }
  CHECK (mkdtemp (dir) != NULL);
  CHECK (chdir (dir) == 0);
  r = harness_main (tests, sizeof tests / sizeof tests[0], argc, argv);
  unlink ("pid");
  unlink ("sock");
  CHECK (rmdir (dir) == 0);
  return r;
}
