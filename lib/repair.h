/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* What the modules of a repair share.  Only moves.c, unshare.c, reclaim.c and
 * repair.c include this.  They are layers, each of which only calls those
 * below it:
 *
 *     repair    check, decide, mark, repair, check     (repair.c)
 *     reclaim   leaked clusters                        (reclaim.c)
 *     unshare   corrupt entries                        (unshare.c)
 *     moves     of tables and clusters in the file     (moves.c)
 *
 * One thread works on a struct repair, and the image has no other user, so
 * there are no locks.  Offsets and lengths are bytes of the file unless a
 * comment says clusters.
 */

#ifndef QED_REPAIR_H
#define QED_REPAIR_H

#include "check.h"
#include "format.h"
#include "qed.h"

/* The entry at PLACE in the file points to FROM, and shall point to a copy of
 * that at TO.
 */
struct move {
  uint64_t place;
  uint64_t from, to;
};

/* The moves of a batch, at most: 24 MiB. */
#define QED_MAX_MOVES (UINT64_C (1) << 20)

struct repair {
  struct qed_storage *st;       /* borrowed */
  struct qed_header h;          /* as the file has it */
  struct qed_walk w;
  uint64_t file_size;

  /* Storage of a fixed size: copies go here, behind what is in use.  Set by
   * those who begin to make some.
   */
  uint64_t in_use;

  /* The batch of moves. */
  struct move *moves;           /* owned: NR_MOVES of ALLOCATED are in use */
  size_t nr_moves, allocated;
  uint64_t wanted_moves;        /* those in the batch and for later ones */

  /* Copying. */
  uint8_t *chunk;               /* owned: a buffer */
  uint64_t fresh;               /* from here on the file reads as zeros; never
                                   on storage of a fixed size */
  uint64_t copied;              /* bytes, since the last sync */
  struct qed_stretch_seen seen; /* of the source, which nothing changes */
  bool copying_tables;          /* clear unsound entries in the copies ... */
  uint64_t copied_table;        /* ... of the table at this offset */

  /* Set by unshare.c while the file has unsound entries.  GAP .. GAP_END is
   * the range from the end of the file to the end of what they point to, and
   * the file may not grow beyond LIMIT.
   */
  uint64_t gap, gap_end;
  uint64_t limit;

  /* unshare.c: a bitmap of the clusters that are a range's data, and so
   * may contain tables only by mistake.  Or NULL.
   */
  uint8_t *shared;              /* owned */
  uint64_t nr_shared;           /* its bits */

  /* reclaim.c. */
  uint64_t end;                 /* the file's future length, in clusters */
  uint8_t *used;                /* owned: bitmap of those clusters */
  uint8_t *wanted;              /* owned: bitmap of those to be vacated; or
                                   NULL */
  bool aligned;                 /* tables only go where the header's end plus
                                   a multiple of their size is */

  const struct qed_progress *progress; /* borrowed; or NULL */
  uint64_t first, last;         /* the present stage, per mille of it all */
  uint64_t reported;
};

/* ---- moves.c ---- */

/* Begin and end the repair of the image in ST, whose header is H.  After a
 * failure of init there is nothing to free.
 */
extern int qed_repair_init (struct repair *r, struct qed_storage *st,
                            const struct qed_header *h, uint64_t file_size,
                            const struct qed_progress *progress);
extern void qed_repair_free (struct repair *r);

/* Report progress (a qed_progress function; OPAQUE is the repair) inside the
 * present stage.  The next stage ends at LAST per mille of the whole.
 */
extern void qed_repair_report (void *opaque, uint64_t done, uint64_t total);
extern void qed_repair_stage (struct repair *r, uint64_t last);

/* May an L2 entry in the table at TABLE be followed? */
static inline bool
qed_repair_sound (const struct repair *r, uint64_t entry, uint64_t table)
{
  const struct qed_geometry *g = &r->w.g;

  return entry == QED_ENTRY_UNALLOCATED || entry == QED_ENTRY_ZERO ||
    (qed_entry_sound (g, entry, g->cluster_size, r->w.file_end, table) &&
     (entry < r->gap || entry >= r->gap_end));
}

/* Copy LENGTH bytes, not durably.  Zeros become a hole.  The caller sets
 * R->seen.end to 0 first if the source has changed.
 */
extern int qed_repair_copy (struct repair *r, uint64_t from, uint64_t to,
                            uint64_t length);

/* Start an empty batch. */
extern void qed_begin_batch (struct repair *r);

/* Add the move of what the entry at PLACE points to.  The batch may be full:
 * then the move is only counted in R->wanted_moves, for a later batch.
 */
extern int qed_add_move (struct repair *r, uint64_t place, uint64_t from);

/* Sort by FROM, so that reading goes in one direction.  Called before TO is
 * set.
 */
extern void qed_sort_moves (struct repair *r);

/* Do a batch of moves of BYTES each, whose TO is set.  No move may write what
 * another one reads.  Everything before the batch is durable, and so is the
 * batch on success.
 */
extern int qed_do_moves (struct repair *r, uint64_t bytes);

/* Set TO of each move to new space at the end of the file and do the batch,
 * durably.  All copies are durable before the first entry changes, so an entry
 * may lie in what another move copies.
 */
extern int qed_move_to_end (struct repair *r, uint64_t bytes);

/* Set the file's length, not durably. */
extern int qed_repair_resize (struct repair *r, uint64_t size);

/* On storage of a fixed size: the bytes that are left for copies. */
static inline uint64_t
qed_repair_room (const struct repair *r)
{
  return r->w.file_end - r->in_use;
}

/* Make space at the end of the file and set *OFFSET to where it is.  EFBIG:
 * R->limit forbids it.  ENOSPC: the storage has a fixed size.
 */
extern int qed_repair_extend (struct repair *r, uint64_t bytes,
                              uint64_t *offset);

/* ---- unshare.c ---- */

/* Fix all corruptions, durably, and add their number to *FIXED. */
extern int qed_fix_corruptions (struct repair *r, uint64_t *fixed);

/* ---- reclaim.c ---- */

/* Take leaked space back from an image without corruption (else EIO) and set
 * *FREED to the number of clusters that were leaked.  All is durable
 * afterwards but the file's last length.
 */
extern int qed_reclaim_space (struct repair *r, uint64_t *freed);

#endif /* QED_REPAIR_H */
