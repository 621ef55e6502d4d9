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


/* A fuzzer's input as a file in memory, in one of two forms, both little
 * endian:
 *
 *  - What starts with "QED" is the file, byte for byte, so that any image is
 *    an input and an input can be given to other programs.
 *
 *  - All else describes a sparse file, because with large clusters the
 *    tables are far apart: the file's length (8 bytes), then any number of
 *    pieces: offset (8 bytes), length (2 bytes), so many bytes of data.  The
 *    rest of the file is a hole.  The last piece may be cut.
 */

#ifndef INPUT_H
#define INPUT_H

#include <stddef.h>
#include <stdint.h>

#include "memory-storage.h"

extern struct mem_file *input_load (const uint8_t *data, size_t size);

/* Write F to a new file at PATH: in the sparse form if SPARSE. */
extern void input_save (struct mem_file *f, bool sparse, const char *path);

/* The fuzz target: in fuzz-*.c. */
extern int LLVMFuzzerTestOneInput (const uint8_t *data, size_t size);

#endif /* INPUT_H */
