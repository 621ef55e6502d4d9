/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Going through one disk, or two, piece by piece in parallel.  See pieces.c. */

#ifndef QED_PIECES_H
#define QED_PIECES_H

#include <pthread.h>

#include "offline.h"
#include "qed.h"

/* A piece that has data has so many bytes at most, and one of known zeros,
 * unless these are skipped.  It ends at a multiple of that, so that clusters
 * are written whole.  A larger piece would leave the cache of a CPU before it
 * is written.
 */
#define QED_MAX_PIECE (UINT64_C (1) << 20)
#define QED_MAX_ZERO_PIECE (UINT64_C (1) << 30)

#define QED_MAX_PIECE_THREADS QED_MAX_CONVERT_THREADS

struct qed_piece {
  uint64_t number;              /* in the order of the disk, from 0 */
  uint64_t offset, length;      /* bytes; LENGTH 0: there is no more */
  bool data[2];                 /* of each disk; false: it is known to read as
                                   zeros, or there is no such disk */
};

/* Work on a piece in BUF, which is the thread's.  -1 ends it all. */
struct qed_pieces;
typedef int qed_piece_fn (struct qed_pieces *p, const struct qed_piece *piece,
                          uint8_t *buf);

struct qed_pieces {
  /* Set by the caller, and constant. */
  struct qed_backing *disks[2]; /* borrowed; NULL: zeros.  SIZE may be larger
                                   than theirs: there they read as zeros */
  const char *name;             /* for messages about none of the disks */
  qed_piece_fn *fn;
  size_t buffer;                /* bytes of BUF: a multiple of 4096 */
  uint64_t max_piece;           /* QED_MAX_PIECE, or a multiple */
  struct qed_image *own;        /* only what it has itself, and not what is
                                   below it, is in pieces; or NULL: all is */
  bool skip_zeros;              /* there are no pieces of known zeros */
  bool all_data;                /* nothing is taken for known zeros */
  unsigned threads;             /* 1 .. QED_MAX_PIECE_THREADS */
  const struct qed_progress *progress; /* of SIZE; or NULL */

  uint64_t size;                /* bytes; set by the caller, then guarded by
                                   LOCK */

  pthread_mutex_t taking;       /* guards what comes next; LOCK is taken inside,
                                   if both are */
  struct qed_ahead ahead[2];
  uint64_t taken;               /* bytes, from the start of the disk */
  uint64_t own_end;             /* of the run of OWN at TAKEN; or SIZE */
  uint64_t pieces;

  pthread_mutex_t lock;         /* guards the rest */
  pthread_cond_t next_turn;     /* it is, or something has failed */
  uint64_t total;               /* SIZE, as it was */
  uint64_t done;                /* bytes, of any pieces */
  uint64_t turn;
  int err;                      /* errno of the failure, or 0 */
  uint64_t err_at;              /* the offset of its piece */
  char *why;                    /* its message, owned; or NULL */
};

/* Call FN for all pieces.  P is zeros but for what the caller sets.  It fails
 * as the call for the first piece, in the order of the disk, that failed did.
 * ESHUTDOWN: qed_interrupted.
 */
extern int qed_do_pieces (struct qed_pieces *p);

/* These are for FN.
 *
 * Wait until all pieces before this one are done.  False: one has failed.
 */
extern bool qed_piece_turn (struct qed_pieces *p,
                            const struct qed_piece *piece);

/* Nothing from OFFSET on matters any more, failures there included. */
extern void qed_cut_pieces (struct qed_pieces *p, uint64_t offset);

#endif /* QED_PIECES_H */
