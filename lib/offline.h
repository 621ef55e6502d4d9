/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* What resize.c, rebase.c and empty.c share.  See offline.c, headroom.c. */

#ifndef QED_OFFLINE_H
#define QED_OFFLINE_H

#include "format.h"
#include "qed.h"
#include "writer.h"

/* PROGRESS may be NULL. */
static inline void
qed_report (const struct qed_progress *progress, uint64_t done, uint64_t total)
{
  if (progress)
    progress->fn (progress->opaque, done, total);
}

/* Claim everything, until qed_unclaim.  When this returns 0 all is durable,
 * NEED_CHECK too, and no other thread changes metadata.
 */
extern int qed_claim_all (struct qed_image *img, struct qed_claim *claim);

/* EIO: the image is corrupt, SO something isn't done.  It need not be writable;
 * if it is then all is durable when this returns 0.  Reads all tables.
 */
extern int qed_refuse_corrupt (struct qed_image *img, const char *so);

/* Replace the header by H, with NEED_CHECK added, durably.  SECTOR has the
 * other bytes of the file's first sector, which are written with it.  The
 * caller has claimed everything.  After a failure the file has the old sector;
 * or it may have the new one, and the writer has failed.
 */
extern int qed_replace_header (struct qed_image *img,
                               const struct qed_header *h,
                               uint8_t sector[QED_SECTOR_SIZE]);

/* Zero a range of the file, which has entries or isn't in use; not durably. */
extern int qed_zero_file (struct qed_image *img, uint64_t offset,
                          uint64_t length);

/* ---- headroom.c ---- */

/* Can the header clusters be extended?  -1 (without errno or a message): their
 * end must stay below 4 GiB.
 */
extern int qed_check_headroom (const struct qed_image *img);

/* Make the first clusters behind the header free, and zeros, durably, and set
 * *CLUSTERS to how many: 1 at least.  The caller has claimed everything, and
 * the image isn't corrupt.  Tables may move, and the table cache doesn't
 * follow: only qed_close may come after this and the header's change.
 */
extern int qed_make_headroom (struct qed_image *img, uint32_t *clusters);

/* ---- backing files ---- */

/* Looking ahead for data in a backing file B (NULL: zeros), which is borrowed.
 * It reads as zeros from the offset that was asked for to START, and has data
 * from there to END, as far as is known.  Both are 0 before the first call.
 */
struct qed_ahead {
  struct qed_backing *b;
  uint64_t start, end;          /* bytes of the disk */
};

/* Look from OFFSET on, unless END is beyond it.  OFFSET never decreases.
 * Without data up to LIMIT both START and END become LIMIT.  After a failure
 * both are 0, so that the next call looks again.
 */
extern int qed_look_ahead (struct qed_ahead *a, uint64_t offset,
                           uint64_t limit);

/* Read COUNT bytes at OFFSET, which isn't before that of qed_look_ahead.
 * Known zeros, and those beyond the backing file's end, take no I/O.
 */
extern int qed_read_ahead (const struct qed_ahead *a, uint8_t *buf,
                           uint64_t count, uint64_t offset);

#endif /* QED_OFFLINE_H */
