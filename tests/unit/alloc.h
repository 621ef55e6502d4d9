/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Memory accounting: how much the program under test has allocated, and
 * allocations that fail on purpose.  Covers malloc and its relatives, and
 * mmap.
 *
 * Programs that link alloc.c pass -Wl,--wrap for each of these functions (see
 * ALLOC_LDFLAGS in Makefile.am), so that calls from the library and from the
 * test go through it, while libc, valgrind and sanitizers notice nothing.
 * Memory that libc allocates on its own (asprintf, realpath ...) isn't
 * counted.
 *
 * Any thread may call any of these functions; no locks are taken.  The
 * counters are relaxed atomics, which order nothing between threads.
 */

#ifndef ALLOC_H
#define ALLOC_H

#include <stdint.h>

/* The bytes that are allocated now, in the usable size of each block.  A
 * mapping counts with its whole length, whether its pages are touched or not.
 */
extern int64_t alloc_bytes (void);

/* The maximum of alloc_bytes since the last alloc_reset_peak, or since the
 * program started; in bytes.
 */
extern int64_t alloc_peak (void);

/* Start a new maximum at the current alloc_bytes. */
extern void alloc_reset_peak (void);

/* Make one allocation fail with ENOMEM: the K-th from now, where 1 is the
 * next one, counted over all threads.  K == 0 cancels that.  Clears
 * alloc_failed.  Set it while only one thread allocates: the countdown is not
 * exact when two threads allocate at the same time.
 */
extern void alloc_fail (unsigned k);

/* 1 if an allocation was made to fail since the last alloc_fail, else 0. */
extern int alloc_failed (void);

#endif /* ALLOC_H */
