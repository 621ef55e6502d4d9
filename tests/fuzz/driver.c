/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Run a fuzz target without libFuzzer, with the same inputs every time:
 *
 *     test-fuzz-TARGET [FILE|DIRECTORY ...]
 *
 * Each file is an input.  After directories, FUZZ_RUNS (default 10000)
 * mutations of the inputs follow.  An input that fails is left in the file
 * fuzz-failed.input, to be given as FILE to this program or to libFuzzer's.
 * Without arguments the inputs are those in the directory "corpus".
 */

#include <config.h>

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>

#include "harness.h"
#include "input.h"

#define MAX_INPUTS 1000
#define MAX_SIZE 65536
#define FAILED "fuzz-failed.input"

static struct input {
  char *path;
  uint8_t *data;
  size_t size;
} inputs[MAX_INPUTS];
static size_t nr_inputs;

/* The current input, for the signal handler. */
static const uint8_t *current;
static size_t current_size;

static void
save_current (int sig)
{
  int fd = open (FAILED, O_WRONLY | O_CREAT | O_TRUNC, 0666);

  if (fd >= 0 && write (fd, current, current_size) >= 0) {
    static const char s[] = "the input is in " FAILED "\n";

    if (write (STDERR_FILENO, s, sizeof s - 1) == -1)
      _exit (EXIT_FAILURE);
  }
  signal (sig, SIG_DFL);
  raise (sig);
}

static void
run (const uint8_t *data, size_t size)
{
  /* Run a copy in memory of exactly that size, so that sanitizers and valgrind
   * see reads past its end.
   */
  uint8_t *copy = malloc (size ? size : 1);

  CHECK (copy != NULL);
  memcpy (copy, data, size);
  current = copy;
  current_size = size;
  alarm (60);                   /* an endless loop is a failure */
  (void) LLVMFuzzerTestOneInput (copy, size);
  alarm (0);
  free (copy);
}

static void
add_file (const char *path)
{
  struct input *in = &inputs[nr_inputs];
  FILE *fp = fopen (path, "r");

  CONTEXT ("%s", path);
  CHECK (fp != NULL);
  CHECK_OP (nr_inputs, <, MAX_INPUTS);
  in->path = strdup (path);
  in->data = malloc (MAX_SIZE);
  CHECK (in->path && in->data);
  in->size = fread (in->data, 1, MAX_SIZE, fp);
  CHECK (!ferror (fp));
  fclose (fp);
  nr_inputs++;
}

static int
compare_paths (const void *a, const void *b)
{
  return strcmp (((const struct input *) a)->path,
                 ((const struct input *) b)->path);
}

/* Sorted, so that the mutations are the same everywhere. */
static void
add_directory (const char *path)
{
  DIR *dir = opendir (path);
  size_t first = nr_inputs;
  struct dirent *e;

  CONTEXT ("%s", path);
  CHECK (dir != NULL);
  while ((e = readdir (dir)) != NULL) {
    char name[4096];

    if (e->d_name[0] == '.')
      continue;
    snprintf (name, sizeof name, "%s/%s", path, e->d_name);
    add_file (name);
  }
  closedir (dir);
  qsort (&inputs[first], nr_inputs - first, sizeof inputs[0], compare_paths);
}

/* ---- mutations ---- */

/* Numbers that are limits of something. */
static uint64_t
interesting (struct rng *rng, const uint8_t *data, size_t size)
{
  uint64_t v = UINT64_C (1) << rng_below (rng, 64);

  switch (rng_below (rng, 6)) {
  case 0: return rng_below (rng, 8);
  case 1: return rng_below (rng, 16) * 4096;
  case 2: return v;
  case 3: return v - 1;
  case 4: return 0 - v;
  default:                      /* another number of the input */
    if (size >= 8)
      memcpy (&v, data + rng_below (rng, (size - 8) / 8 + 1) * 8, 8);
    return v + rng_below (rng, 3) - 1;
  }
}

static size_t
mutate (struct rng *rng, uint8_t *data, size_t size)
{
  for (uint64_t n = 1 + rng_below (rng, 4); n > 0; n--) {
    /* The header and the start of a table are worth most. */
    size_t limit = rng_below (rng, 2) && size > 64 ? 64 : size;
    uint64_t v = interesting (rng, data, size);
    size_t bytes = rng_below (rng, 2) ? 4 : 8, at;

    if (size < 16) {
      data[size++] = (uint8_t) rng_next (rng);
      continue;
    }
    at = rng_below (rng, limit - 8);
    switch (rng_below (rng, 8)) {
    case 0: data[at] ^= (uint8_t) (1 << rng_below (rng, 8)); break;
    case 1: data[at] = (uint8_t) rng_next (rng); break;
    case 2: size = 1 + rng_below (rng, size); break;
    case 3: {                   /* a block twice */
      size_t from = rng_below (rng, size - 8), len = size - from;

      if (len > size - at)
        len = size - at;
      memmove (data + at, data + from, rng_below (rng, len));
      break;
    }
    case 4:                     /* zeros at the end */
      while (size < MAX_SIZE && rng_below (rng, 1000))
        data[size++] = 0;
      break;
    default:                    /* a number, mostly aligned as in a table */
      if (rng_below (rng, 4))
        at &= ~(bytes - 1);
      memcpy (data + at, &v, bytes);
    }
  }
  return size;
}

int
main (int argc, char *argv[])
{
  const char *env = getenv ("FUZZ_RUNS");
  long runs = env ? atol (env) : 10000;
  bool directories = argc == 1;
  struct rng rng = { 1 };

  signal (SIGABRT, save_current);
  signal (SIGALRM, save_current);
  signal (SIGSEGV, save_current);
  if (argc == 1)
    add_directory ("corpus");
  for (int i = 1; i < argc; i++) {
    struct stat st;

    CHECK (stat (argv[i], &st) == 0);
    if (S_ISDIR (st.st_mode)) {
      directories = true;
      add_directory (argv[i]);
    }
    else
      add_file (argv[i]);
  }
  CHECK_OP (nr_inputs, >, 0);

  for (size_t i = 0; i < nr_inputs; i++) {
    printf ("%s\n", inputs[i].path);
    fflush (stdout);
    run (inputs[i].data, inputs[i].size);
  }
  for (long i = 0; directories && i < runs; i++) {
    const struct input *in = &inputs[(size_t) i % nr_inputs];
    static uint8_t data[MAX_SIZE];

    memcpy (data, in->data, in->size);
    run (data, mutate (&rng, data, in->size));
  }
  if (directories)
    printf ("%ld mutations\n", runs);

  for (size_t i = 0; i < nr_inputs; i++) {
    free (inputs[i].path);
    free (inputs[i].data);
  }
  return EXIT_SUCCESS;
}
