/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

#include <config.h>

#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "alloc.h"

/* Relaxed atomics order nothing, so that ThreadSanitizer sees all races of
 * the program under test.
 */
static _Atomic int64_t bytes, peak;
static _Atomic unsigned fail_at;        /* 0: off; 1: the next one */
static _Atomic int failed;

int64_t
alloc_bytes (void)
{
  return atomic_load_explicit (&bytes, memory_order_relaxed);
}

int64_t
alloc_peak (void)
{
  return atomic_load_explicit (&peak, memory_order_relaxed);
}

void
alloc_reset_peak (void)
{
  atomic_store_explicit (&peak, alloc_bytes (), memory_order_relaxed);
}

void
alloc_fail (unsigned k)
{
  atomic_store_explicit (&failed, 0, memory_order_relaxed);
  atomic_store_explicit (&fail_at, k, memory_order_relaxed);
}

int
alloc_failed (void)
{
  return atomic_load_explicit (&failed, memory_order_relaxed);
}

static int
must_fail (void)
{
  unsigned k = atomic_load_explicit (&fail_at, memory_order_relaxed);

  if (k == 0)
    return 0;
  atomic_store_explicit (&fail_at, k - 1, memory_order_relaxed);
  if (k > 1)
    return 0;
  atomic_store_explicit (&failed, 1, memory_order_relaxed);
  errno = ENOMEM;
  return 1;
}

/* Count N more bytes, or fewer if N is negative. */
static void
add (int64_t n)
{
  int64_t old = alloc_peak ();

  n += atomic_fetch_add_explicit (&bytes, n, memory_order_relaxed);
  while (n > old &&
         !atomic_compare_exchange_weak_explicit (&peak, &old, n,
                                                 memory_order_relaxed,
                                                 memory_order_relaxed))
    ;
}

static void *
count (void *p)
{
  if (p)
    add ((int64_t) malloc_usable_size (p));
  return p;
}

static void
uncount (void *p)
{
  if (p)
    add (-(int64_t) malloc_usable_size (p));
}

/* The names that the linker gives to malloc etc. in the objects it wraps. */

extern void *__real_malloc (size_t size);
extern void *__real_calloc (size_t n, size_t size);
extern void *__real_realloc (void *p, size_t size);
extern void *__real_aligned_alloc (size_t align, size_t size);
extern int __real_posix_memalign (void **p, size_t align, size_t size);
extern char *__real_strdup (const char *s);
extern char *__real_strndup (const char *s, size_t n);
extern void __real_free (void *p);
extern void *__real_mmap (void *p, size_t size, int prot, int flags, int fd,
                          off_t offset);
extern int __real_munmap (void *p, size_t size);

extern void *__wrap_malloc (size_t size);
extern void *__wrap_calloc (size_t n, size_t size);
extern void *__wrap_realloc (void *p, size_t size);
extern void *__wrap_aligned_alloc (size_t align, size_t size);
extern int __wrap_posix_memalign (void **p, size_t align, size_t size);
extern char *__wrap_strdup (const char *s);
extern char *__wrap_strndup (const char *s, size_t n);
extern void __wrap_free (void *p);
extern void *__wrap_mmap (void *p, size_t size, int prot, int flags, int fd,
                          off_t offset);
extern int __wrap_munmap (void *p, size_t size);

void *
__wrap_malloc (size_t size)
{
  return must_fail () ? NULL : count (__real_malloc (size));
}

void *
__wrap_calloc (size_t n, size_t size)
{
  return must_fail () ? NULL : count (__real_calloc (n, size));
}

void *
__wrap_realloc (void *p, size_t size)
{
  void *q;

  if (must_fail ())
    return NULL;
  uncount (p);
  q = __real_realloc (p, size);
  count (q ? q : p);
  return q;
}

void *
__wrap_aligned_alloc (size_t align, size_t size)
{
  return must_fail () ? NULL : count (__real_aligned_alloc (align, size));
}

int
__wrap_posix_memalign (void **p, size_t align, size_t size)
{
  int r;

  if (must_fail ())
    return ENOMEM;
  r = __real_posix_memalign (p, align, size);
  if (r == 0)
    count (*p);
  return r;
}

char *
__wrap_strdup (const char *s)
{
  return must_fail () ? NULL : count (__real_strdup (s));
}

char *
__wrap_strndup (const char *s, size_t n)
{
  return must_fail () ? NULL : count (__real_strndup (s, n));
}

void
__wrap_free (void *p)
{
  uncount (p);
  __real_free (p);
}

void *
__wrap_mmap (void *p, size_t size, int prot, int flags, int fd, off_t offset)
{
  void *r;

  if (must_fail ())
    return MAP_FAILED;
  r = __real_mmap (p, size, prot, flags, fd, offset);
  if (r != MAP_FAILED)
    add ((int64_t) size);
  return r;
}

int
__wrap_munmap (void *p, size_t size)
{
  int r = __real_munmap (p, size);

  if (r == 0)
    add (-(int64_t) size);
  return r;
}
