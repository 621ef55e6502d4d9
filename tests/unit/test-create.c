/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* A new image has a valid header, an empty L1 table and nothing else.  When
 * creating it fails, at any operation, nothing is left behind, and a file that
 * was to be replaced is whole.
 */

#include <config.h>

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "alloc.h"
#include "harness.h"
#include "memory-storage.h"
#include "model.h"

/* ---- content ---- */

/* F is an empty image with this header, and nothing else. */
static void
check_empty_image (struct mem_file *f, const struct qed_header *want,
                   const char *backing)
{
  struct model m = { .file = f };
  static const uint8_t zeros[65536];
  uint8_t buf[65536];
  uint64_t size, prefix = 64 + (backing ? strlen (backing) : 0);

  (void) model_open (&m, f);    /* false if there is a backing file */
  CHECK_EQ (m.h.cluster_size, want->cluster_size);
  CHECK_EQ (m.h.table_size, want->table_size);
  CHECK_EQ (m.h.header_size, prefix > want->cluster_size ? 2 : 1);
  CHECK_EQ (m.h.features, want->features);
  CHECK_EQ (m.h.compat_features, 0);
  CHECK_EQ (m.h.autoclear_features, 0);
  CHECK_EQ (m.h.l1_table_offset, m.h.header_size * want->cluster_size);
  CHECK_EQ (m.h.image_size, want->image_size);
  CHECK_EQ (m.h.backing_filename_offset, backing ? 64 : 0);
  CHECK_EQ (m.h.backing_filename_size, backing ? strlen (backing) : 0);

  /* The header, the L1 table, and all else are zeros. */
  size = mem_size (f);
  CHECK_EQ (size, ((uint64_t) m.h.header_size + m.h.table_size) *
            m.h.cluster_size);
  for (uint64_t o = prefix; o < size && o < 2 << 20; o += sizeof buf) {
    mem_read (f, buf, sizeof buf, o);
    CHECK_EQ (memcmp (buf, zeros, sizeof buf), 0);
  }
  if (backing) {
    struct qed_storage *st = mem_open (f);
    struct qed_header h;
    char *name;

    mem_read (f, buf, strlen (backing), 64);
    CHECK (memcmp (buf, backing, strlen (backing)) == 0);
    CHECK_EQ (qed_read_header (st, &h, &name), 0);
    CHECK_STR (name, backing);
    free (name);
    qed_storage_close (st);
  }
  else {
    struct opened o;

    open_image (&o, f, QED_MIN_CACHE_SIZE);
    if (want->image_size) {
      struct qed_run run;

      CHECK_EQ (qed_map (o.img, 0, want->image_size, &run), 0);
      CHECK_EQ (run.type, QED_RUN_UNALLOCATED);
      CHECK_EQ (run.length, want->image_size);
    }
    close_image (&o);
  }
}

static int
create_in (struct mem_file *f, const struct qed_create_options *opts)
{
  struct qed_storage *st = mem_open (f);
  int r = qed_create_in (st, opts), err = errno;

  qed_storage_close (st);
  errno = err;
  return r;
}

static void
test_content (void)
{
  FOR_ALL_GEOMETRIES (cs, ts) {
    const unsigned __int128 n = (unsigned __int128) cs * ts / 8;
    const uint64_t max = n * n * cs < QED_MAX_IMAGE_SIZE ?
      (uint64_t) (n * n * cs) : QED_MAX_IMAGE_SIZE;
    const uint64_t sizes[] = { 0, 1, 511, 512, 513, 1 << 20, max - 511, max };

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
      const struct qed_create_options opts = {
        .image_size = sizes[i],
        .cluster_size = (uint32_t) cs, .table_size = (uint32_t) ts,
      };
      struct mem_file *f = mem_file_new ();
      struct qed_header want = {
        .cluster_size = (uint32_t) cs, .table_size = (uint32_t) ts,
        .image_size = sizes[i] / 512 * 512 + (sizes[i] % 512 ? 512 : 0),
      };

      CONTEXT ("clusters %" PRIu64 " * %" PRIu64 ", size %" PRIu64,
               cs, ts, sizes[i]);
      CHECK_EQ (create_in (f, &opts), 0);
      CHECK_OP (mem_calls (f, MEM_SYNC), >=, 1);
      check_empty_image (f, &want, NULL);
      mem_file_free (f);
    }

    /* A larger disk is refused, and nothing is written. */
    for (uint64_t more = 1; more <= 1 << 20; more *= 2) {
      const struct qed_create_options opts = {
        .image_size = max + more,
        .cluster_size = (uint32_t) cs, .table_size = (uint32_t) ts,
      };
      struct mem_file *f = mem_file_new ();

      CHECK_FAILS (create_in (f, &opts), EINVAL, MEM_NAME, "image_size");
      CHECK_EQ (mem_calls (f, MEM_PWRITE) + mem_calls (f, MEM_RESIZE), 0);
      mem_file_free (f);
    }
  }
}

static void
test_defaults (void)
{
  const struct qed_create_options opts = { .image_size = 1000000 };
  const struct qed_header want = {
    .cluster_size = 65536, .table_size = 4, .image_size = 1000448
  };
  struct mem_file *f = mem_file_new ();

  CHECK_EQ (create_in (f, &opts), 0);
  check_empty_image (f, &want, NULL);
  mem_file_free (f);
}

static void
test_backing (void)
{
  char longest[QED_MAX_BACKING_FILENAME + 2];
  struct qed_create_options opts = { .image_size = 1 << 20 };
  struct qed_header want = {
    .cluster_size = 65536, .table_size = 4, .image_size = 1 << 20
  };
  struct mem_file *f;

  memset (longest, 'a', sizeof longest - 1);
  longest[sizeof longest - 1] = '\0';

  opts.backing = longest;
  f = mem_file_new ();
  CHECK_FAILS (create_in (f, &opts), EINVAL, MEM_NAME,
               "backing_filename_size ");
  CHECK_EQ (mem_size (f), 0);
  mem_file_free (f);
  longest[QED_MAX_BACKING_FILENAME] = '\0';

  for (int i = 0; i < 3; i++)
    for (int raw = 0; raw < 2; raw++) {
      f = mem_file_new ();
      opts.backing = i == 0 ? longest : i == 1 ? "b" : "../x y.img";
      opts.backing_raw = raw;
      want.features = QED_F_BACKING_FILE |
        (raw ? QED_F_BACKING_FORMAT_NO_PROBE : 0);
      CHECK_EQ (create_in (f, &opts), 0);
      check_empty_image (f, &want, opts.backing);
      mem_file_free (f);
    }
}

static void
test_bad_options (void)
{
  static const struct {
    uint32_t cs, ts;
    uint64_t size;
    const char *word;
  } bad[] = {
    { 1, 4, 0, "cluster_size 1" },
    { 2048, 4, 0, "cluster_size 2048" },
    { 65537, 4, 0, "cluster_size 65537" },
    { 1 << 27, 4, 0, "cluster_size 134217728" },
    { UINT32_MAX, 4, 0, "cluster_size 4294967295" },
    { 65536, 3, 0, "table_size 3" },
    { 65536, 32, 0, "table_size 32" },
    { 65536, UINT32_MAX, 0, "table_size 4294967295" },
    { 65536, 4, UINT64_MAX, "image_size" },
    { 65536, 4, UINT64_MAX - 511, "image_size" },
    { 1 << 26, 16, UINT64_C (1) << 63, "image_size" },
    { 1 << 26, 16, QED_MAX_IMAGE_SIZE + 1, "image_size" },
  };

  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    const struct qed_create_options opts = {
      .image_size = bad[i].size,
      .cluster_size = bad[i].cs,
      .table_size = bad[i].ts,
    };
    struct mem_file *f = mem_file_new ();

    CHECK_FAILS (create_in (f, &opts), EINVAL, MEM_NAME, bad[i].word);
    CHECK_EQ (mem_calls (f, MEM_PWRITE) + mem_calls (f, MEM_RESIZE), 0);
    mem_file_free (f);
  }
}

/* ---- faults ---- */

/* Call number k of each kind of operation fails, once or for good, for
 * k = 1, 2, ... until there are no more calls.  Whole and in small pieces.
 */
static void
test_faults (void)
{
  const struct qed_create_options opts = {
    .image_size = 1 << 20, .backing = "base.img"
  };

  for (int op = 0; op <= MEM_ANY; op++)
    for (int for_good = 0; for_good < 2; for_good++)
      for (int pieces = 0; pieces < 2; pieces++)
        for (unsigned k = 1;; k++) {
          const struct mem_faults faults = {
            .op = (enum mem_op) op, .first = k,
            .count = for_good ? UINT64_MAX : 1, .err = ENOSPC,
            .max_transfer = pieces ? 10 : 0,
          };
          struct mem_file *f = mem_file_new ();
          int64_t before = alloc_bytes ();
          bool fails;
          int r;

          CONTEXT ("op %d k %u for_good %d pieces %d",
                   op, k, for_good, pieces);
          mem_set_faults (f, &faults);
          r = create_in (f, &opts);
          fails = mem_calls (f, (enum mem_op) op) >= k &&
            op != MEM_CLOSE && op != MEM_PREFETCH;
          if (fails) {
            CHECK_EQ (r, -1);
            CHECK_EQ (errno, ENOSPC);
            CHECK (strstr (qed_get_error (), MEM_NAME ": ") != NULL);
          }
          else
            CHECK_EQ (r, 0);
          CHECK_OP (alloc_bytes (), <=, before + 8192); /* F's content */
          mem_set_faults (f, NULL);
          mem_file_free (f);
          if (!fails) {
            if (op == MEM_PWRITE || op == MEM_SYNC || op == MEM_ANY)
              CHECK_OP (k, >, 1);
            break;
          }
        }
}

/* The sync follows all other operations.  Until the header is complete the
 * file is not an image.
 */
static ssize_t
check_order (void *opaque, enum mem_op op, uint64_t offset, size_t count)
{
  struct model m = { .file = opaque };

  if (op == MEM_PWRITE || op == MEM_RESIZE) {
    CHECK_EQ (mem_calls (opaque, MEM_SYNC), 0);
    CHECK (!model_open (&m, opaque));
  }
  if (op == MEM_SYNC)
    CHECK (model_open (&m, opaque));
  (void) offset;
  return (ssize_t) count;
}

static void
test_order (void)
{
  const struct qed_create_options opts = { .image_size = 1 << 20 };
  struct mem_file *f = mem_file_new ();

  mem_set_hook (f, check_order, f);
  CHECK_EQ (create_in (f, &opts), 0);
  CHECK_EQ (mem_calls (f, MEM_SYNC), 1);
  mem_file_free (f);
}

static void
test_short_writes_and_eintr (void)
{
  const struct mem_faults faults[] = {
    { .max_transfer = 1 }, { .max_transfer = 63 },
    { .op = MEM_PWRITE, .first = 1, .count = 3, .err = EINTR },
    { .op = MEM_RESIZE, .first = 1, .count = 3, .err = EINTR },
  };
  const struct qed_create_options opts = { .image_size = 1 << 20 };
  const struct qed_header want = {
    .cluster_size = 65536, .table_size = 4, .image_size = 1 << 20
  };

  for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
    struct mem_file *f = mem_file_new ();

    CONTEXT ("faults %zu", i);
    mem_set_faults (f, &faults[i]);
    CHECK_EQ (create_in (f, &opts), 0);
    mem_set_faults (f, NULL);
    check_empty_image (f, &want, NULL);
    mem_file_free (f);
  }
}

/* ---- real files, in a directory of their own ---- */

static char dir[] = "test-create.XXXXXX";

/* The names in the directory, sorted by readdir's whim but few. */
static void
check_names (unsigned n, const char *a, const char *b)
{
  DIR *d = opendir (".");
  struct dirent *e;
  unsigned found = 0;

  CHECK (d != NULL);
  while ((e = readdir (d)) != NULL) {
    if (strcmp (e->d_name, ".") == 0 || strcmp (e->d_name, "..") == 0)
      continue;
    if (!((a && strcmp (e->d_name, a) == 0) ||
          (b && strcmp (e->d_name, b) == 0)))
      harness_fail (__FILE__, __LINE__, "stray file %s", e->d_name);
    found++;
  }
  closedir (d);
  CHECK_EQ (found, n);
}

/* Each of these tests runs in a new process in a new directory, so that
 * limits and umask stay there.
 */
static void
in_directory (void (*fn) (void))
{
  int status;
  pid_t pid;

  memcpy (dir + strlen (dir) - 6, "XXXXXX", 6);
  CHECK (mkdtemp (dir) != NULL);
  fflush (stdout);
  pid = fork ();
  CHECK (pid != -1);
  if (pid == 0) {
    alarm (200);                /* less than the parent's */
    CHECK (chdir (dir) == 0);
    fn ();
    exit (EXIT_SUCCESS);
  }
  CHECK (waitpid (pid, &status, 0) == pid);
  if (status != 0) {
    fprintf (stderr, "status %#x; see %s\n", status, dir);
    _exit (EXIT_FAILURE);
  }
  {
    char command[100];

    snprintf (command, sizeof command, "rm -rf %s", dir);
    CHECK (system (command) == 0);
  }
}

static void
put_file (const char *name, const char *content, mode_t mode)
{
  int fd = open (name, O_WRONLY | O_CREAT | O_TRUNC, 0600);

  CHECK (fd >= 0);
  CHECK_EQ (write (fd, content, strlen (content)), strlen (content));
  CHECK (fchmod (fd, mode) == 0);
  close (fd);
}

static void
check_file (const char *name, const char *content)
{
  char buf[100] = { 0 };
  int fd = open (name, O_RDONLY);

  CHECK (fd >= 0);
  CHECK_EQ (read (fd, buf, sizeof buf - 1), strlen (content));
  CHECK_STR (buf, content);
  close (fd);
}

/* NAME is an image of this size. */
static void
check_image (const char *name, uint64_t size)
{
  struct qed_storage *st = qed_storage_open (name, true);
  struct qed_image *img;

  CHECK (st != NULL);
  img = qed_open (st, QED_MIN_CACHE_SIZE);
  CHECK (img != NULL);
  CHECK_EQ (qed_get_header (img)->image_size, size);
  qed_close (img);
}

static mode_t
mode_of (const char *name)
{
  struct stat st;

  CHECK (lstat (name, &st) == 0);
  return st.st_mode & 07777;
}

static const struct qed_create_options one_mb = { .image_size = 1 << 20 };

static void
new_file (void)
{
  char cwd[4096], path[5000];

  umask (022);
  CHECK_EQ (qed_create ("a.qed", &one_mb), 0);
  check_image ("a.qed", 1 << 20);
  CHECK_EQ (mode_of ("a.qed"), 0644);
  check_names (1, "a.qed", NULL);
  umask (027);
  CHECK_EQ (qed_create ("b.qed", &one_mb), 0);
  CHECK_EQ (mode_of ("b.qed"), 0640);
  check_names (2, "a.qed", "b.qed");

  /* Other ways to write the name. */
  CHECK (getcwd (cwd, sizeof cwd) != NULL);
  snprintf (path, sizeof path, "%s/a.qed", cwd);
  CHECK (unlink ("a.qed") == 0);
  CHECK_EQ (qed_create (path, &one_mb), 0);
  check_image ("a.qed", 1 << 20);
  CHECK (unlink ("a.qed") == 0);
  CHECK_EQ (qed_create ("./../" "./" , &one_mb), -1);
  CHECK (mkdir ("d", 0777) == 0);
  CHECK_EQ (qed_create ("d/../a.qed", &one_mb), 0);
  check_image ("a.qed", 1 << 20);
  CHECK (rmdir ("d") == 0);
  check_names (2, "a.qed", "b.qed");
}

static void
test_new_file (void)
{
  in_directory (new_file);
}

static void
replace (void)
{
  umask (022);
  put_file ("a.qed", "old content", 0600);
  CHECK_EQ (qed_create ("a.qed", &one_mb), 0);
  check_image ("a.qed", 1 << 20);
  CHECK_EQ (mode_of ("a.qed"), 0600); /* not for others */
  check_names (1, "a.qed", NULL);
}

static void
test_replace (void)
{
  in_directory (replace);
}

/* Too little space for the file: an old file stays, and no new one does. */
static void
no_space (void)
{
  /* Sizes around the parts of the file: nothing, header, header cluster, L1
   * table.
   */
  static const rlim_t limits[] = {
    0, 1, 63, 64, 4096, 65535, 65536, 5 * 65536 - 1
  };

  signal (SIGXFSZ, SIG_IGN);
  for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
    struct rlimit limit = { .rlim_cur = RLIM_INFINITY };

    CONTEXT ("limit %lu", (unsigned long) limits[i]);
    CHECK (getrlimit (RLIMIT_FSIZE, &limit) == 0);
    put_file ("a.qed", "old content", 0644);
    limit.rlim_cur = limits[i];
    CHECK (setrlimit (RLIMIT_FSIZE, &limit) == 0);
    CHECK_FAILS (qed_create ("a.qed", &one_mb), EFBIG, "a.qed: ");
    CHECK_FAILS (qed_create ("b.qed", &one_mb), EFBIG, "b.qed: ");
    limit.rlim_cur = limit.rlim_max;
    CHECK (setrlimit (RLIMIT_FSIZE, &limit) == 0);
    check_file ("a.qed", "old content");
    check_names (1, "a.qed", NULL);
  }
}

static void
test_no_space (void)
{
  in_directory (no_space);
}

/* Memory runs out at every place. */
static void
no_memory (void)
{
  put_file ("a.qed", "old content", 0644);
  for (unsigned k = 1;; k++) {
    int r, err;

    CONTEXT ("k %u", k);
    alloc_fail (k);
    r = qed_create ("a.qed", &one_mb);
    err = errno;
    if (!alloc_failed ()) {
      alloc_fail (0);
      CHECK_EQ (r, 0);
      CHECK_OP (k, >, 2);
      check_image ("a.qed", 1 << 20);
      break;
    }
    alloc_fail (0);
    check_names (1, "a.qed", NULL);
    CHECK_EQ (r, -1);
    CHECK_EQ (err, ENOMEM);
    check_file ("a.qed", "old content");
  }
}

static void
test_no_memory (void)
{
  in_directory (no_memory);
}

static void
bad_options (void)
{
  const struct qed_create_options opts = { .cluster_size = 1234 };

  put_file ("a.qed", "old content", 0644);
  CHECK_FAILS (qed_create ("a.qed", &opts), EINVAL, "a.qed: ",
               "cluster_size 1234");
  CHECK_FAILS (qed_create ("b.qed", &opts), EINVAL, "b.qed: ",
               "cluster_size 1234");
  check_file ("a.qed", "old content");
  check_names (1, "a.qed", NULL);
}

static void
test_create_bad_options (void)
{
  in_directory (bad_options);
}

/* A symbolic link stays a link; the file that it points to is created. */
static void
symbolic_link (void)
{
  char target[100] = { 0 };

  put_file ("a.qed", "old content", 0644);
  CHECK (symlink ("a.qed", "link") == 0);
  CHECK_EQ (qed_create ("link", &one_mb), 0);
  check_image ("a.qed", 1 << 20);
  CHECK (readlink ("link", target, sizeof target - 1) == 5);
  CHECK_STR (target, "a.qed");
  check_names (2, "a.qed", "link");

  /* From one directory into another. */
  CHECK (unlink ("link") == 0 && unlink ("a.qed") == 0);
  CHECK (mkdir ("d", 0777) == 0);
  put_file ("d/a.qed", "old content", 0644);
  CHECK (symlink ("d/a.qed", "link") == 0);
  CHECK_EQ (qed_create ("link", &one_mb), 0);
  check_image ("d/a.qed", 1 << 20);
  check_names (2, "d", "link");

  /* One in a circle. */
  CHECK (unlink ("link") == 0 && symlink ("link", "link") == 0);
  CHECK_FAILS (qed_create ("link", &one_mb), ELOOP, "link");
  check_names (2, "d", "link");
}

static void
test_symbolic_link (void)
{
  in_directory (symbolic_link);
}

/* A dangling link: its target is created, or an error is reported, but the
 * link isn't replaced and nothing is left behind.
 */
static void
dangling_link (void)
{
  struct stat st;

  CHECK (symlink ("a.qed", "link") == 0);
  if (qed_create ("link", &one_mb) == 0) {
    check_image ("a.qed", 1 << 20);
    check_names (2, "a.qed", "link");
  }
  else
    check_names (1, "link", NULL);
  CHECK (lstat ("link", &st) == 0 && S_ISLNK (st.st_mode));
}

static void
test_dangling_link (void)
{
  in_directory (dangling_link);
}

/* A file that isn't a regular file isn't replaced. */
static void
other_files (void)
{
  struct stat st;

  CHECK (mkdir ("d", 0777) == 0);
  CHECK_EQ (qed_create ("d", &one_mb), -1);
  CHECK_EQ (errno, EISDIR);
  CHECK (strstr (qed_get_error (), "d: ") != NULL);
  CHECK_EQ (qed_create ("d/", &one_mb), -1);
  check_names (1, "d", NULL);
  CHECK_FAILS (qed_create ("e/a.qed", &one_mb), ENOENT, "e/a.qed: ");
  CHECK_FAILS (qed_create ("", &one_mb), ENOENT, "");
  CHECK (mkfifo ("fifo", 0666) == 0);
  CHECK_FAILS (qed_create ("fifo", &one_mb), EINVAL, "fifo: ");
  CHECK (lstat ("fifo", &st) == 0 && S_ISFIFO (st.st_mode));
  check_names (2, "d", "fifo");
  CHECK_EQ (qed_create ("/dev/null", &one_mb), -1);
  CHECK (lstat ("/dev/null", &st) == 0 && S_ISCHR (st.st_mode));
}

static void
test_other_files (void)
{
  in_directory (other_files);
}

/* An image that another process has open isn't replaced. */
static void
locked (void)
{
  struct qed_storage *st;

  CHECK_EQ (qed_create ("a.qed", &one_mb), 0);
  st = qed_storage_open ("a.qed", true);
  CHECK (st != NULL);
  CHECK_FAILS (qed_create ("a.qed", &one_mb), EBUSY, "a.qed: ");
  check_names (1, "a.qed", NULL);
  qed_storage_close (st);
  CHECK_EQ (qed_create ("a.qed", &one_mb), 0);

  /* Without locks it is replaced, but the open file stays whole. */
  st = qed_storage_open ("a.qed", false);
  CHECK (st != NULL);
  CHECK_EQ (qed_create ("a.qed", &one_mb), 0);
  CHECK_EQ (st->ops->get_size (st), 5 * 65536);
  qed_storage_close (st);
}

static void
test_locked (void)
{
  in_directory (locked);
}

/* A name as long as the filesystem allows. */
static void
long_name (void)
{
  char name[257];

  memset (name, 'n', sizeof name - 1);
  name[256] = '\0';
  CHECK_FAILS (qed_create (name, &one_mb), ENAMETOOLONG, name);
  check_names (0, NULL, NULL);
  name[255] = '\0';
  CHECK_EQ (qed_create (name, &one_mb), 0);
  check_image (name, 1 << 20);
  CHECK_EQ (qed_create (name, &one_mb), 0);
  check_names (1, name, NULL);
}

static void
test_long_name (void)
{
  in_directory (long_name);
}

static void
twice (void)
{
  for (int i = 0; i < 3; i++)
    CHECK_EQ (qed_create ("a.qed", &one_mb), 0);
  check_names (1, "a.qed", NULL);
}

static void
test_twice (void)
{
  in_directory (twice);
}

HARNESS_MAIN (
  TEST (test_content),
  TEST (test_defaults),
  TEST (test_backing),
  TEST (test_bad_options),
  TEST (test_faults),
  TEST (test_order),
  TEST (test_short_writes_and_eintr),
  TEST (test_new_file),
  TEST (test_replace),
  TEST (test_no_space),
  TEST (test_no_memory),
  TEST (test_create_bad_options),
  TEST (test_symbolic_link),
  TEST (test_dangling_link),
  TEST (test_other_files),
  TEST (test_locked),
  TEST (test_long_name),
  TEST (test_twice),
)
