/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* A fuzzer's input as a file in memory, in one of two forms, both little
 * endian:
 *
 *  - An input that starts with "QED" is the file, byte for byte, so that any
 *    image is an input and an input can be given to other programs.
 *
 *  - Any other input describes a sparse file, because with large clusters the
 *    tables are far apart: the file's length (8 bytes), then any number of
 *    pieces: offset (8 bytes), length (2 bytes), and that many bytes of data.
 *    The rest of the file is a hole.  The last piece may be truncated.
 */

#ifndef INPUT_H
#define INPUT_H

#include <stddef.h>
#include <stdint.h>

#include "memory-storage.h"

/* The file that SIZE bytes at DATA describe, whatever they are.  The caller
 * frees it with mem_file_free and keeps DATA.
 */
extern struct mem_file *input_load (const uint8_t *data, size_t size);

/* Write F, which nothing may change meanwhile, to a new file at PATH: in the
 * sparse form if SPARSE.
 */
extern void input_save (struct mem_file *f, bool sparse, const char *path);

/* The fuzz target, in fuzz-*.c.  DATA stays the caller's.  Returns 0, and
 * aborts if a check fails.
 */
extern int LLVMFuzzerTestOneInput (const uint8_t *data, size_t size);

#endif /* INPUT_H */
