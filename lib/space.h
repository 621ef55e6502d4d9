/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Clusters at the end of the file: see space.c. */

#ifndef QED_SPACE_H
#define QED_SPACE_H

#include <pthread.h>
#include <stdatomic.h>

#include "qed.h"
#include "stretch.h"
#include "sync.h"
#include "table.h"

/* A range of the file that was allocated by a request that failed, so that
 * nothing refers to it.  It may be allocated again once a sync has ended that
 * has the number SYNC or a greater one.
 */
struct qed_undone {
  uint64_t offset, bytes;       /* bytes 0: none */
  uint64_t sync;                /* 0: at once; UINT64_MAX: never */
};

/* Beyond this number ranges are forgotten until the image is closed. */
#define QED_MAX_UNDONE 32

struct qed_space {
  /* Constant and, but for CLUSTER_BITS, borrowed: */
  struct qed_storage *st;
  struct qed_table *table;      /* is told how far the file reaches */
  struct qed_sync *sync;
  struct qed_stretch *data;     /* is told of new holes */
  const struct qed_header *h;
  atomic_bool *corrupt;         /* set when the image turns out to be */
  unsigned cluster_bits;

  pthread_mutex_t lock;         /* guards all that follows but the atomics */
  pthread_cond_t changed;       /* EXTENDING ended */

  /* Clusters up to END are allocated.  From there to FRESH_END all is zeros,
   * durably on storage of a fixed size.  Clusters end at LIMIT at the latest.
   * One thread at a time moves FRESH_END.  It is FILE_SIZE, the length of the
   * file, unless the storage has a fixed size.
   *
   * FILE_SIZE changes before the file is cut and after it was extended.  So
   * the file is shorter only if another process has cut it: qed_check_length.
   */
  uint64_t first;               /* allocated in this session, once CHECKED */
  uint64_t end;
  uint64_t fresh_end;
  uint64_t file_size;
  uint64_t resizes;             /* changes of FILE_SIZE */

  /* A write behind this offset can make a file that was cut as long as it
   * was.
   */
  _Atomic uint64_t last_cluster;
  uint64_t limit;
  bool extending;
  bool checked;                 /* FIRST and LIMIT are known; and, on storage of
                                   a fixed size, END: until then it is the
                                   device's */
  atomic_bool near_limit;       /* the next extension may fail at LIMIT */
  struct qed_undone undone[QED_MAX_UNDONE];
  bool any_undone;              /* some of these may not be empty */
  bool forgotten;               /* there are more than these */
};

/* The caller has set the fields that are borrowed, and all others to zeros. */
extern void qed_space_init (struct qed_space *s, const struct qed_geometry *g);
extern void qed_space_destroy (struct qed_space *s);

/* The file has FILE_SIZE bytes, and clusters up to END are in use.  CHECKED:
 * no entry points past END.  Called before any of the calls below.  If the
 * storage has a fixed size END counts only if CHECKED is true.
 */
extern void qed_space_begin (struct qed_space *s, uint64_t file_size,
                             uint64_t end, bool checked);

/* Allocate COUNT contiguous clusters at the end of the file, which read as
 * zeros (I2).  ENOSPC, EFBIG and others: the file can't be extended, or the
 * device is full.
 */
extern int qed_space_alloc (struct qed_space *s, uint64_t count,
                            uint64_t *offset);

/* May it be known in advance that clusters can't be allocated?  Then whether
 * COUNT of them can be.  ENOSPC, EFBIG: they can't.
 */
extern bool qed_space_is_limited (const struct qed_space *s);
extern int qed_space_check_room (struct qed_space *s, uint64_t count);

/* Writing to these clusters has failed, and nothing refers to them: neither in
 * memory nor in the file.  RESTORED: the file has been made so, not durably.
 * They are allocated again when they read as zeros.  errno and message stay.
 */
extern void qed_space_undo (struct qed_space *s, uint64_t count,
                            uint64_t offset, bool restored);

/* Nothing was written to these clusters, nor refers to them: they are free
 * again, whatever the filesystem knows of holes.
 */
extern void qed_space_unused (struct qed_space *s, uint64_t count,
                              uint64_t offset);

/* Cut the file to what is in use.  No other thread allocates meanwhile.
 * Storage of a fixed size keeps its length, and the space that is zeros.
 * *LEFT: before that end there are free clusters of failed requests.
 */
extern int qed_space_cut_tail (struct qed_space *s, bool *left);

/* The file has SIZE bytes and ends with what is in use; all before is.  If the
 * storage has a fixed size the tables say where that ends.
 */
extern void qed_space_set (struct qed_space *s, uint64_t size);

/* The caller is going to cut the file, but not to less than SIZE. */
extern void qed_space_expect_cut (struct qed_space *s, uint64_t size);

/* Has another process cut the file?  Then data is lost: everything fails from
 * now on, with EIO, and the image stays marked NEED_CHECK.
 */
extern int qed_space_check_length (struct qed_space *s);

#endif /* QED_SPACE_H */
