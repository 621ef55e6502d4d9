/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* A second implementation of QED-FORMAT.md, which reads every entry from the
 * bytes of a file in memory.  It shares no code with the library and uses
 * other arithmetic (division, 128 bits), so that both are unlikely to be wrong
 * in the same way.  It builds images, sound or not, and computes the results
 * that the library must return for them.
 *
 * Offsets and lengths are bytes, cluster numbers and L1 indexes count from 0,
 * and entries are in the byte order of the host.
 *
 * A model doesn't own its file, which must outlive it, and needs no freeing.
 * Functions that take a const model may run in many threads at once, as long
 * as nothing changes the file; all others need the model for themselves.
 */

#ifndef MODEL_H
#define MODEL_H

#include "harness.h"
#include "memory-storage.h"

struct model {
  struct mem_file *file;        /* not owned */
  struct qed_header h;
  uint64_t file_size;           /* bytes, at model_open or model_append */

  /* The backing file; not owned; NULL: unallocated clusters read as zeros.
   * Set it after model_create or model_open.
   */
  const struct model *backing;
  bool raw;                     /* a raw file of h.image_size bytes */
};

/* ---- building ---- */

/* Make F an empty image with the layout of QEMU's: one header cluster, then
 * the L1 table.  The former content of F is lost.  CLUSTER_SIZE and IMAGE_SIZE
 * are bytes, TABLE_SIZE is clusters.  To change the header afterwards, change
 * M->h and call model_write_header.
 */
extern void model_create (struct model *m, struct mem_file *f,
                          uint32_t cluster_size, uint32_t table_size,
                          uint64_t image_size);

/* The same with HEADER_SIZE header clusters, and with the L1 table at cluster
 * L1_CLUSTER of the file, after them.
 */
extern void model_create_at (struct model *m, struct mem_file *f,
                             uint32_t cluster_size, uint32_t table_size,
                             uint32_t header_size, uint64_t l1_cluster,
                             uint64_t image_size);
/* Write M->h to the file. */
extern void model_write_header (struct model *m);

/* Make the header name a backing file, "base", and write it. */
extern void model_name_backing (struct model *m);

/* Make *M a raw file, with the length that F has now: for M->backing. */
extern void model_raw (struct model *m, struct mem_file *f);

/* The bytes of a table. */
extern uint64_t model_table_bytes (const struct model *m);

/* The entries of a table. */
extern uint64_t model_entries (const struct model *m);

/* The bytes of the largest disk with this geometry, at most 2^80. */
extern unsigned __int128 model_max_size (const struct model *m);

/* The clusters of the disk, including a partial one at its end. */
extern uint64_t model_clusters (const struct model *m);

/* Round the file up to a cluster and add COUNT clusters, which are a hole.
 * Returns the offset of the first of them.
 */
extern uint64_t model_append (struct model *m, uint64_t count);

/* Get or set an L1 entry. */
extern uint64_t model_get_l1 (const struct model *m, uint64_t l1_index);
extern void model_set_l1 (struct model *m, uint64_t l1_index, uint64_t entry);

/* Set the L2 entry of a guest cluster.  Appends the L2 table to the file if
 * there is none.
 */
extern void model_set (struct model *m, uint64_t cluster, uint64_t entry);

/* Get or set the little-endian 64-bit number at any offset in the file. */
extern uint64_t model_get64 (const struct model *m, uint64_t offset);
extern void model_put64 (struct model *m, uint64_t offset, uint64_t v);

/* Fill a range of the file with bytes that depend on their offset. */
extern void model_pattern (struct model *m, uint64_t offset, uint64_t length);

/* Append a data cluster and link it as guest cluster CLUSTER.  Its first and
 * last 4 KiB get a pattern; the middle of a larger cluster is a hole.  Returns
 * its offset in the file.
 */
extern uint64_t model_data (struct model *m, uint64_t cluster);

/* A random entry for a test of unsound ones, which is not written.  TABLE is
 * the offset of the L2 table that it is for; 0: the L1 table.
 */
extern uint64_t model_unsound (struct model *m, struct rng *rng,
                               uint64_t table);

/* Make F a random image of this geometry (as for model_create) with entries of
 * all kinds, some of them unsound if UNSOUND.  Entries are set in groups
 * around interesting clusters.  Their cluster numbers are stored in TOUCHED,
 * an array of the caller's with MAX elements, if it isn't NULL.  Returns how
 * many are stored.
 */
extern size_t model_random (struct model *m, struct mem_file *f,
                            struct rng *rng, uint32_t cluster_size,
                            uint32_t table_size, bool unsound,
                            uint64_t *touched, size_t max);

/* ---- reading ---- */

/* Make *M the image in F: take the header and the length from the file, as an
 * open does.  False: not a valid image, and *M is not to be used.
 */
extern bool model_open (struct model *m, struct mem_file *f);

/* May ENTRY be followed to LENGTH bytes?  TABLE is the offset of the L2 table
 * that has the entry; 0: the L1 table.  ENTRY is not 0, nor 1 in an L2 table.
 */
extern bool model_sound (const struct model *m, uint64_t entry,
                         uint64_t length, uint64_t table);

/* The type of a guest cluster.  *ENTRY gets its L2 entry, or the L1 entry if
 * that is 0 or unsound.
 */
extern enum qed_run_type model_lookup (const struct model *m,
                                       uint64_t cluster, uint64_t *entry);

/* The run that qed_map must return, found cluster by cluster.  The model looks
 * at no more than MAX clusters after the first: a longer run ends there.
 */
extern void model_map (const struct model *m, uint64_t offset,
                       uint64_t length, uint64_t max, struct qed_run *run);

/* Read what qed_pread must read into BUF, which is the caller's.  Returns 0,
 * or -1 if qed_pread must fail with EIO.
 */
extern int model_pread (const struct model *m, void *buf, size_t count,
                        uint64_t offset);

/* ---- comparing ---- */

/* An image that is open for reading, and a hash of its file's content. */
struct opened {
  struct mem_file *file;
  struct qed_image *img;
  uint64_t hash;
};

/* Open the image in F, which must succeed, and reset the counters of F.
 * CACHE_SIZE is as for qed_open.  F stays the caller's and must outlive the
 * image, which close_image closes.
 */
extern void open_image (struct opened *o, struct mem_file *f,
                        size_t cache_size);

/* The same for an overlay on BACKING, which the image owns from now on, with
 * the smallest cache.
 */
extern void open_over (struct opened *o, struct mem_file *f,
                       struct qed_backing *backing);

/* Close the image.  Check that its file was never written (I10) and has no
 * open storage.
 */
extern void close_image (struct opened *o);

/* Check qed_map against the model, for a range inside the disk, and return the
 * run.  The model looks at no more than MAX clusters after the first.
 */
extern struct qed_run compare_map (struct qed_image *img,
                                   const struct model *m, uint64_t offset,
                                   uint64_t length, uint64_t max);

/* Check qed_pread against the model: the bytes, or the failure. */
extern void compare_pread (struct qed_image *img, const struct model *m,
                           uint64_t offset, size_t count);

/* Check qed_extents against the model, which looks at each byte of the range:
 * keep it short.
 */
extern void compare_extents (struct qed_image *img, const struct model *m,
                             uint64_t offset, uint64_t length);

/* All valid geometries.  The variables have 64 bits, so that their product
 * doesn't overflow.
 */
#define FOR_ALL_GEOMETRIES(cluster_size, table_size)                    \
  for (uint64_t cluster_size = QED_MIN_CLUSTER_SIZE;                    \
       cluster_size <= QED_MAX_CLUSTER_SIZE; cluster_size *= 2)         \
    for (uint64_t table_size = QED_MIN_TABLE_SIZE;                      \
         table_size <= QED_MAX_TABLE_SIZE; table_size *= 2)

#endif /* MODEL_H */
