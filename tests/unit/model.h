/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* A second implementation of QED-FORMAT.md: naive, entry by entry, straight
 * from the bytes of a memory file.  It shares no code with the library and
 * uses other arithmetic (division, 128 bits), so that both being wrong in
 * the same way is unlikely.  It builds images, sound or not, and says what
 * the library has to make of them.
 */

#ifndef MODEL_H
#define MODEL_H

#include "harness.h"
#include "memory-storage.h"

struct model {
  struct mem_file *file;        /* not owned */
  struct qed_header h;
  uint64_t file_size;           /* when the image was opened: model_open */

  /* What unallocated clusters are read from; not owned; NULL: zeros.  Set it
   * after model_create or model_open.
   */
  const struct model *below;
  bool raw;                     /* the file is the disk, of h.image_size */
};

/* ---- building ---- */

/* An empty image as QEMU makes them: one header cluster, then L1.  Change
 * the header afterwards with m->h and model_write_header.  Or with so many
 * header clusters, and L1 anywhere after them.
 */
extern void model_create (struct model *m, struct mem_file *f,
                          uint32_t cluster_size, uint32_t table_size,
                          uint64_t image_size);
extern void model_create_at (struct model *m, struct mem_file *f,
                             uint32_t cluster_size, uint32_t table_size,
                             uint32_t header_size, uint64_t l1_cluster,
                             uint64_t image_size);
extern void model_write_header (struct model *m);

/* Let the header name a backing file. */
extern void model_name_backing (struct model *m);

/* A file that is read as it is, as it is now: for below. */
extern void model_raw (struct model *m, struct mem_file *f);

extern uint64_t model_table_bytes (const struct model *m);
extern uint64_t model_entries (const struct model *m); /* of a table */
extern unsigned __int128 model_max_size (const struct model *m);
extern uint64_t model_clusters (const struct model *m); /* of the disk */

/* Add COUNT clusters, a hole, to the end of the file (which is rounded up
 * to a cluster first); returns their offset.
 */
extern uint64_t model_append (struct model *m, uint64_t count);

extern uint64_t model_get_l1 (const struct model *m, uint64_t l1_index);
extern void model_set_l1 (struct model *m, uint64_t l1_index, uint64_t entry);

/* The L2 entry of a guest cluster; setting makes the L2 table if there is
 * none.
 */
extern void model_set (struct model *m, uint64_t cluster, uint64_t entry);

/* Any 64-bit number in the file. */
extern uint64_t model_get64 (const struct model *m, uint64_t offset);
extern void model_put64 (struct model *m, uint64_t offset, uint64_t v);

/* Bytes that tell where they were written. */
extern void model_pattern (struct model *m, uint64_t offset, uint64_t length);

/* Append a data cluster and link it.  It gets a pattern in its first and
 * last 4 KiB; what lies between in a larger one is a hole.  Returns its
 * offset in the file.
 */
extern uint64_t model_data (struct model *m, uint64_t cluster);

/* An entry that may not be followed; TABLE: the offset of the L2 table that it
 * is for, 0: L1.
 */
extern uint64_t model_unsound (struct model *m, struct rng *rng,
                               uint64_t table);

/* A random image with that geometry, of all kinds of entries, some of them
 * unsound if UNSOUND.  Entries are set in groups around interesting places;
 * their cluster numbers go to TOUCHED (at most MAX) if it isn't NULL.
 * Returns how many.
 */
extern size_t model_random (struct model *m, struct mem_file *f,
                            struct rng *rng, uint32_t cluster_size,
                            uint32_t table_size, bool unsound,
                            uint64_t *touched, size_t max);

/* ---- reading ---- */

/* Take header and file size from the file, as an open does.  False: not a
 * valid image.
 */
extern bool model_open (struct model *m, struct mem_file *f);

/* May an entry other than 0, and in the L2 table TABLE other than 1, be
 * followed to LENGTH bytes?  TABLE 0: L1.
 */
extern bool model_sound (const struct model *m, uint64_t entry,
                         uint64_t length, uint64_t table);

/* What a guest cluster is.  *ENTRY: the L2 entry, or the L1 entry if that is
 * unsound.
 */
extern enum qed_run_type model_lookup (const struct model *m,
                                       uint64_t cluster, uint64_t *entry);

/* As qed_map, cluster by cluster, looking at no more than MAX clusters:
 * the length is at least what it should be cut to that.
 */
extern void model_map (const struct model *m, uint64_t offset,
                       uint64_t length, uint64_t max, struct qed_run *run);

/* As qed_pread; -1: EIO. */
extern int model_pread (const struct model *m, void *buf, size_t count,
                        uint64_t offset);

/* ---- comparing ---- */

/* Open the image in F and remember the file's content; on closing check that
 * the image has never been written (I10) and that the storage has been closed.
 */
struct opened {
  struct mem_file *file;
  struct qed_image *img;
  uint64_t hash;
};
extern void open_image (struct opened *o, struct mem_file *f,
                        size_t cache_size);
extern void open_over (struct opened *o, struct mem_file *f,
                       struct qed_backing *backing);
extern void close_image (struct opened *o);

/* Check qed_map, qed_pread, qed_extents against the model. */
extern struct qed_run compare_map (struct qed_image *img,
                                   const struct model *m, uint64_t offset,
                                   uint64_t length, uint64_t max);
extern void compare_pread (struct qed_image *img, const struct model *m,
                           uint64_t offset, size_t count);

/* The model looks at each byte of the range here: keep it short. */
extern void compare_extents (struct qed_image *img, const struct model *m,
                             uint64_t offset, uint64_t length);

/* All geometries, in variables with which products don't overflow. */
#define FOR_ALL_GEOMETRIES(cluster_size, table_size)                    \
  for (uint64_t cluster_size = QED_MIN_CLUSTER_SIZE;                    \
       cluster_size <= QED_MAX_CLUSTER_SIZE; cluster_size *= 2)         \
    for (uint64_t table_size = QED_MIN_TABLE_SIZE;                      \
         table_size <= QED_MAX_TABLE_SIZE; table_size *= 2)

#endif /* MODEL_H */
