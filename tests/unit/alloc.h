/* nbdkit-qed
 * Copyright (C) 2026 nbdkit-qed authors
 *
 * Redistribution and use in source and binary forms, with or without
 * modification, are permitted provided that the following conditions are
 * met:
 *
 * * Redistributions of source code must retain the above copyright
 * notice, this list of conditions and the following disclaimer.
 *
 * * Redistributions in binary form must reproduce the above copyright
 * notice, this list of conditions and the following disclaimer in the
 * documentation and/or other materials provided with the distribution.
 *
 * * Neither the name of nbdkit-qed nor the names of its contributors may be
 * used to endorse or promote products derived from this software without
 * specific prior written permission.
 *
 * THIS SOFTWARE IS PROVIDED BY THE AUTHORS AND CONTRIBUTORS ''AS IS'' AND
 * ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO,
 * THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A
 * PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE AUTHORS OR
 * CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
 * SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT
 * LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF
 * USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND
 * ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY,
 * OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT
 * OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF
 * SUCH DAMAGE.
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
