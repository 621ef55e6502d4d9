/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The frame of every unit test: checks that print the values they saw, random
 * numbers that are the same on every machine, and a main that prints a line
 * for each test.
 *
 * A failed check prints the source line, the expression, the values and the
 * CONTEXT to stderr, and aborts.  Any thread may make checks and set its own
 * CONTEXT.
 */

#ifndef HARNESS_H
#define HARNESS_H

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "qed.h"

/* ---- checks ---- */

/* What this thread is doing: the last CONTEXT of this source file. */
static __thread char harness_context[512];

/* Say what this thread is doing now, for the message of a failed check in the
 * same source file.  FMT and what follows are as for printf; the text is
 * copied, and cut at 511 bytes.
 */
static inline void __attribute__ ((format (printf, 1, 2), unused))
CONTEXT (const char *fmt, ...)
{
  va_list args;

  va_start (args, fmt);
  vsnprintf (harness_context, sizeof harness_context, fmt, args);
  va_end (args);
}

/* Print a failure at LINE of FILE, with the context and this thread's last
 * library error, and abort.  The CHECK macros call it.
 */
static inline void __attribute__ ((format (printf, 3, 4), noreturn, unused))
harness_fail (const char *file, int line, const char *fmt, ...)
{
  va_list args;

  fflush (stdout);
  fprintf (stderr, "%s:%d: FAIL: ", file, line);
  va_start (args, fmt);
  vfprintf (stderr, fmt, args);
  va_end (args);
  if (harness_context[0])
    fprintf (stderr, "\n  context: %s", harness_context);
  if (qed_get_error ()[0])
    fprintf (stderr, "\n  last library error: %s", qed_get_error ());
  fputc ('\n', stderr);
  abort ();
}

/* EXPR is true.  The message has errno, which need not have to do with it. */
#define CHECK(expr)                                                     \
  do {                                                                  \
    if (!(expr))                                                        \
      harness_fail (__FILE__, __LINE__, "%s (errno %d: %s)", #expr,     \
                    errno, strerror (errno));                           \
  } while (0)

/* A OP B, compared as unsigned 64-bit numbers: -1 is the largest.  Each is
 * evaluated once.
 */
#define CHECK_OP(a, op, b)                                              \
  do {                                                                  \
    uint64_t a_ = (uint64_t) (a), b_ = (uint64_t) (b);                  \
    if (!(a_ op b_))                                                    \
      harness_fail (__FILE__, __LINE__, "%s %s %s\n"                    \
                    "  left:  %" PRIu64 " (0x%" PRIx64 ")\n"            \
                    "  right: %" PRIu64 " (0x%" PRIx64 ")",             \
                    #a, #op, #b, a_, a_, b_, b_);                       \
  } while (0)
#define CHECK_EQ(a, b) CHECK_OP (a, ==, b)

/* A and B are equal strings, neither of them NULL. */
#define CHECK_STR(a, b)                                                 \
  do {                                                                  \
    const char *a_ = (a), *b_ = (b);                                    \
    if (strcmp (a_, b_) != 0)                                           \
      harness_fail (__FILE__, __LINE__, "%s is %s\n"                    \
                    "  left:  \"%s\"\n  right: \"%s\"",                 \
                    #a, #b, a_, b_);                                    \
  } while (0)

/* EXPR is -1, errno is ERR, and the library's message for this thread has each
 * of the strings that follow.
 */
#define CHECK_FAILS(expr, err, ...)                                     \
  do {                                                                  \
    int64_t r_;                                                         \
    errno = 0;                                                          \
    r_ = (expr);                                                        \
    harness_check_failure (__FILE__, __LINE__, #expr, r_ == -1, errno,  \
                           err, (const char *[]) { __VA_ARGS__, NULL }); \
  } while (0)

/* The same for a function that returns a pointer. */
#define CHECK_FAILS_NULL(expr, err, ...)                                \
  do {                                                                  \
    const void *r_;                                                     \
    errno = 0;                                                          \
    r_ = (expr);                                                        \
    harness_check_failure (__FILE__, __LINE__, #expr, r_ == NULL, errno, \
                           err, (const char *[]) { __VA_ARGS__, NULL }); \
  } while (0)

/* The function behind the two macros above.  WORDS ends with NULL. */
static inline void __attribute__ ((unused))
harness_check_failure (const char *file, int line, const char *expr,
                       bool failed, int err, int expected,
                       const char *const words[])
{
  if (!failed)
    harness_fail (file, line, "%s succeeded, expected errno %d (%s)", expr,
                  expected, strerror (expected));
  if (err != expected)
    harness_fail (file, line, "%s: errno is %d (%s), expected %d (%s)", expr,
                  err, strerror (err), expected, strerror (expected));
  for (; *words; words++)
    if (strstr (qed_get_error (), *words) == NULL)
      harness_fail (file, line, "%s: message without \"%s\"", expr, *words);
}

/* ---- random numbers: splitmix64 ---- */

/* Any STATE is a good seed.  For one thread at a time. */
struct rng { uint64_t state; };

/* The next number, of all 64-bit numbers. */
static inline uint64_t __attribute__ ((unused))
rng_next (struct rng *r)
{
  uint64_t z = (r->state += UINT64_C (0x9e3779b97f4a7c15));

  z = (z ^ (z >> 30)) * UINT64_C (0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C (0x94d049bb133111eb);
  return z ^ (z >> 31);
}

/* A number from 0 to N - 1, N > 0.  The bias doesn't matter here. */
static inline uint64_t __attribute__ ((unused))
rng_below (struct rng *r, uint64_t n)
{
  return rng_next (r) % n;
}

/* ---- running ---- */

/* A test returns if it succeeded. */
struct harness_test {
  const char *name;
  void (*fn) (void);
};
#define TEST(fn) { #fn, fn }

/* The main of a test program: run all N tests, or those that the arguments
 * name, in the order of TESTS.  A test gets 300 seconds.  Returns 0.
 */
static inline int __attribute__ ((unused))
harness_main (const struct harness_test *tests, size_t n, int argc,
              char *argv[])
{
  for (size_t i = 0; i < n; i++) {
    bool wanted = argc == 1;

    for (int j = 1; j < argc; j++)
      wanted |= strcmp (argv[j], tests[i].name) == 0;
    if (!wanted)
      continue;
    printf ("%s\n", tests[i].name);
    fflush (stdout);
    harness_context[0] = '\0';
    /* A test that hangs must not hang the suite; valgrind is slow. */
    alarm (300);
    tests[i].fn ();
    alarm (0);
  }
  return 0;
}

/* Define main for a list of TEST (function). */
#define HARNESS_MAIN(...)                                               \
  int                                                                   \
  main (int argc, char *argv[])                                         \
  {                                                                     \
    static const struct harness_test tests[] = { __VA_ARGS__ };         \
    return harness_main (tests, sizeof tests / sizeof tests[0],         \
                         argc, argv);                                   \
  }

#endif /* HARNESS_H */
