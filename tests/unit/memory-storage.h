/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* A file in memory, behind struct qed_storage_ops.
 *
 * struct mem_file is the file: contents, counters, faults.  mem_open gives
 * a storage on it, as open gives a descriptor; closing the storage leaves
 * the file, so that a test can look at it or open it again.
 *
 * The contents are sparse in units of MEM_CHUNK bytes: what was never
 * written is a hole, reads as zeros and takes no memory, so a file may be
 * as long as 2^63 - 1.
 *
 * Any thread may call the operations of a storage, and the functions below
 * except where they say otherwise.  A lock in the file protects its content.
 * The counters are relaxed atomics: they order nothing between threads, which
 * would hide races in the library from ThreadSanitizer.
 *
 * Offsets, lengths and sizes are bytes, at most 2^63 - 1.
 */

#ifndef MEMORY_STORAGE_H
#define MEMORY_STORAGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "qed.h"

#define MEM_CHUNK 512

enum mem_op {
  MEM_PREAD,
  MEM_PWRITE,
  MEM_GET_SIZE,
  MEM_RESIZE,
  MEM_SYNC,
  MEM_NEXT_EXTENT,
  MEM_PREFETCH,
  MEM_PUNCH,
  MEM_ZERO,
  MEM_MAKE_WRITABLE,
  MEM_CLOSE,
  MEM_NR_OPS,
  MEM_ANY = MEM_NR_OPS,         /* as a fault's OP: all but close */
};

/* Faults that need no code.  All members 0: no faults. */
struct mem_faults {
  /* COUNT calls of operation OP fail with errno ERR, from call number FIRST
   * on, where 1 is the next.
   */
  enum mem_op op;
  uint64_t first;
  uint64_t count;
  int err;

  size_t max_transfer;          /* bytes that a pread or pwrite transfers at
                                   most; 0: no limit */
  unsigned eintr_every;         /* > 1: every n-th call fails with EINTR,
                                   make_writable excepted */
  unsigned delay_us;            /* microseconds that each pread, pwrite and
                                   sync takes at least */
  bool no_punch, no_zero;       /* punch, zero: EOPNOTSUPP */
  bool no_holes;                /* next_extent knows of none */
  uint64_t free_space;          /* the bytes that free_space returns; 0: not
                                   known */
};

/* A fault that needs code.  Each operation except close calls it first, in
 * its own thread and with no lock held, so that it may sleep or change the
 * file.  Returns the number of bytes to transfer at most (COUNT: no change;
 * 0: the end of the file), or -1 with errno set to make the operation fail.
 */
typedef ssize_t mem_hook (void *opaque, enum mem_op op, uint64_t offset,
                          size_t count);

struct mem_file;

/* A new, empty file; free it with mem_file_free. */
extern struct mem_file *mem_file_new (void);

/* Free the file.  Every storage on it must have been closed. */
extern void mem_file_free (struct mem_file *f);

/* Open a new storage on the file; any number may be open.  The caller owns the
 * storage and closes it with qed_storage_close.  The file must outlive it.
 */
extern struct qed_storage *mem_open (struct mem_file *f);

/* F becomes a device, of BYTES more than it has.  They hold old content: in
 * each sector random bytes, words that look like table entries, and both.  From
 * now on its storages have a fixed size.  It is never resized by them (that is
 * checked), and writes past its end fail.
 */
extern void mem_make_device (struct mem_file *f, uint64_t bytes);
extern bool mem_is_device (const struct mem_file *f);

/* The number of storages on the file that are open. */
extern unsigned mem_open_storages (const struct mem_file *f);

/* The pwritev operation for any storage that has pwrite: copies the buffers
 * into one, and writes that in one call.
 */
extern ssize_t mem_pwritev (struct qed_storage *st, const struct iovec *iov,
                            int iovcnt, uint64_t offset);

/* The name of every storage on a file in memory. */
#define MEM_NAME "memory.qed"

/* Direct access of the test to the file, neither counted nor subject to
 * faults.  Each call takes the file's lock: a hook may call it.
 */

/* The length of the file. */
extern uint64_t mem_size (struct mem_file *f);

/* Cut the file at SIZE, or make it longer by a hole. */
extern void mem_truncate (struct mem_file *f, uint64_t size);

/* Read COUNT bytes, which are zeros past the end of the file. */
extern void mem_read (struct mem_file *f, void *buf, size_t count,
                      uint64_t offset);

/* Write COUNT bytes; makes the file longer if it ends before them. */
extern void mem_write (struct mem_file *f, const void *buf, size_t count,
                       uint64_t offset);

/* Zero the range; chunks that lie entirely in it become holes. */
extern void mem_punch (struct mem_file *f, uint64_t offset, uint64_t length);

/* The same as the next_extent operation. */
extern uint64_t mem_next_extent (struct mem_file *f, uint64_t offset,
                                 bool *hole);

/* A hash of the file's bytes and length.  Holes count as zeros. */
extern uint64_t mem_hash (struct mem_file *f);

/* Replace the faults by a copy of *FAULTS, or by none if it is NULL, and count
 * calls for them from now on.  No operation may be under way.
 */
extern void mem_set_faults (struct mem_file *f,
                            const struct mem_faults *faults);

/* Replace the hook; NULL: none.  OPAQUE is passed to it and stays the
 * caller's.  No operation may be under way.
 */
extern void mem_set_hook (struct mem_file *f, mem_hook *hook, void *opaque);

/* The counters, since mem_file_new or the last mem_reset_counters. */

/* The calls of an operation, including those that failed; MEM_ANY: of all but
 * close.
 */
extern uint64_t mem_calls (struct mem_file *f, enum mem_op op);

/* The bytes that pread or pwrite transferred or prefetch was asked for. */
extern uint64_t mem_bytes (struct mem_file *f, enum mem_op op);

/* The most bytes that one call asked for. */
extern uint64_t mem_largest (struct mem_file *f, enum mem_op op);

/* Set all counters to 0. */
extern void mem_reset_counters (struct mem_file *f);

#endif /* MEMORY_STORAGE_H */
