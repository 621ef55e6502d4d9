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
 * Storage operations may be called from many threads; counting them orders
 * nothing between the threads, lest a race in the library is hidden from
 * ThreadSanitizer.  Faults and the hook are set while no operation is under
 * way.
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
  MEM_ANY = MEM_NR_OPS,         /* in faults and counters: all but close */
};

/* Faults that need no code.  All 0: none. */
struct mem_faults {
  /* Let call number FIRST (1 is the next) of operation OP fail with errno
   * ERR, and those after it, COUNT in all.
   */
  enum mem_op op;
  uint64_t first;
  uint64_t count;
  int err;

  size_t max_transfer;          /* pread, pwrite: do at most so many bytes */
  unsigned eintr_every;         /* > 1: every n-th call gets EINTR, if it
                                   isn't make_writable */
  unsigned delay_us;            /* each pread, pwrite and sync takes so long */
  bool no_punch, no_zero;       /* punch, zero: EOPNOTSUPP */
  uint64_t free_space;          /* what that returns; 0: it isn't known */
};

/* A fault that needs code.  Called first in each operation (close excepted)
 * in its thread with no lock held; it may sleep, or change the file.
 * Returns the number of bytes to transfer at most (COUNT: no change; 0: the
 * end of the file), or -1 with errno to let the operation fail.
 */
typedef ssize_t mem_hook (void *opaque, enum mem_op op, uint64_t offset,
                          size_t count);

struct mem_file;

extern struct mem_file *mem_file_new (void);

/* Every storage on it must have been closed. */
extern void mem_file_free (struct mem_file *f);

/* A new storage on the file; any number may be open. */
extern struct qed_storage *mem_open (struct mem_file *f);
extern unsigned mem_open_storages (const struct mem_file *f);

/* An operation for any storage that has pwrite: the buffers are gathered. */
extern ssize_t mem_pwritev (struct qed_storage *st, const struct iovec *iov,
                            int iovcnt, uint64_t offset);

/* The name of its storages. */
#define MEM_NAME "memory.qed"

/* What the test does to the file: neither counted nor subject to faults. */
extern uint64_t mem_size (struct mem_file *f);
extern void mem_truncate (struct mem_file *f, uint64_t size);
extern void mem_read (struct mem_file *f, void *buf, size_t count,
                      uint64_t offset); /* zeros past the end */
extern void mem_write (struct mem_file *f, const void *buf, size_t count,
                       uint64_t offset);

/* Make chunks that lie wholly in the range holes, zero the rest of it. */
extern void mem_punch (struct mem_file *f, uint64_t offset, uint64_t length);

/* As the next_extent operation. */
extern uint64_t mem_next_extent (struct mem_file *f, uint64_t offset,
                                 bool *hole);

/* A number that depends on contents and length, but not on holes. */
extern uint64_t mem_hash (struct mem_file *f);

/* Faults replaces those there were and counts calls from now on. */
extern void mem_set_faults (struct mem_file *f,
                            const struct mem_faults *faults);
extern void mem_set_hook (struct mem_file *f, mem_hook *hook, void *opaque);

/* Calls of an operation, failed ones too, since the counters were reset;
 * the bytes that pread or pwrite transferred or prefetch was asked for, in
 * all and the most asked for in one call.
 */
extern uint64_t mem_calls (struct mem_file *f, enum mem_op op);
extern uint64_t mem_bytes (struct mem_file *f, enum mem_op op);
extern uint64_t mem_largest (struct mem_file *f, enum mem_op op);
extern void mem_reset_counters (struct mem_file *f);

#endif /* MEMORY_STORAGE_H */
