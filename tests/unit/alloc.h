/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Counting and failing of memory allocation: malloc and friends, mmap.
 *
 * Programs that link alloc.c do so with -Wl,--wrap for each function there
 * (see ALLOC_LDFLAGS in Makefile.am), so that calls from the library and the
 * test go through it, while libc, valgrind and sanitizers notice nothing.
 * Memory that libc allocates on its own (asprintf, realpath ...) isn't
 * counted.
 */

#ifndef ALLOC_H
#define ALLOC_H

#include <stdint.h>

/* Bytes in use now, of mappings as if all of them had been touched, and the
 * most since alloc_reset_peak.
 */
extern int64_t alloc_bytes (void);
extern int64_t alloc_peak (void);
extern void alloc_reset_peak (void);

/* Let the K-th allocation from now (1 is the next) fail with ENOMEM; 0: let
 * none fail.
 */
extern void alloc_fail (unsigned k);

/* Whether one has been made to fail since the last alloc_fail. */
extern int alloc_failed (void);

#endif /* ALLOC_H */
