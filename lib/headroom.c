/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Room behind the header clusters, for a header that takes more of them.
 *
 *     +--------+----------+-----+- - - - - +
 *     | header | occupant | ... |          |
 *     +--------+----------+-----+- - - - - +
 *              +-----+          +----------+
 *              | zeros          |   copy
 *
 * In an image without corruption one thing begins right behind the header: the
 * L1 table, an L2 table, a data cluster, or a leaked cluster.  It moves to the
 * end of the file, and the header takes the whole place, also when that is a
 * table of many clusters, so that none of them is leaked.  A name of a backing
 * file is shorter than any cluster, so one place is enough.
 *
 *     1. copy it to new clusters, durably
 *     2. replace what points to it, durably: an entry, or the header's field
 *     3. zero the old place, durably: nothing refers to it
 *
 * Then rebase.c writes the header, with the place as part of it.  A crash
 * before that leaves the same disk and the old header clusters, and either the
 * copy or the old place is leaked.  The next attempt begins with what it finds.
 */

#include <config.h>

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "error.h"
#include "image.h"
#include "offline.h"
#include "storage.h"
#include "walk.h"
#include "writer.h"

/* The unit of copying. */
#define CHUNK (UINT64_C (64) << 10)

/* What begins at the end of the header clusters. */
struct occupant {
  enum { LEAK, L1_TABLE, L2_TABLE, DATA } kind;
  uint64_t clusters;
  uint64_t place;               /* of the entry, for L2_TABLE and DATA */
};

/* ---- finding it ---- */

struct search {
  const struct qed_walk *w;
  struct occupant *o;
};

static int
look_at_l1_entry (void *opaque, uint64_t index, uint64_t *entry)
{
  const struct search *s = opaque;

  if (*entry == s->w->g.header_bytes) {
    s->o->kind = L2_TABLE;
    s->o->clusters = s->w->g.table_bytes >> s->w->g.cluster_bits;
    s->o->place = qed_entry_place (s->w, index);
  }
  return 0;
}

static int
look_at_l2_entry (void *opaque, uint64_t index, uint64_t *entry)
{
  const struct search *s = opaque;

  if (*entry == s->w->g.header_bytes) {
    s->o->kind = DATA;
    s->o->place = qed_entry_place (s->w, index);
  }
  return 0;
}

static int
find_occupant (struct qed_image *img, struct occupant *o)
{
  struct qed_walk w;
  const struct search s = { &w, o };
  int r;

  *o = (struct occupant) { .kind = LEAK, .clusters = 1 };
  if (img->g.l1_offset == img->g.header_bytes) {
    o->kind = L1_TABLE;
    o->clusters = img->h.table_size;
    return 0;
  }
  if (qed_walk_init (&w, img->st, &img->writer->h,
                     img->writer->space.file_size) == -1)
    return -1;
  r = qed_walk_l1 (&w, look_at_l1_entry, (void *) &s);
  if (r == 0 && o->kind == LEAK)
    r = qed_walk_l2 (&w, look_at_l2_entry, (void *) &s);
  qed_walk_free (&w);
  return r;
}

/* ---- moving it ---- */

/* Copy to fresh space, which reads as zeros (I2). */
static int
copy (struct qed_image *img, uint64_t from, uint64_t to, uint64_t length)
{
  struct qed_stretch_seen seen = { .end = 0 };
  uint8_t *chunk = malloc (CHUNK);
  int r = 0, err;

  if (chunk == NULL)
    return qed_error (errno, "%s: %m", img->st->name);
  for (uint64_t n; r == 0 && length > 0; from += n, to += n, length -= n) {
    bool hole;

    n = qed_bytes_alike (img->st, &seen, from, length, &hole);
    if (hole)
      continue;
    if (n > CHUNK)
      n = CHUNK;
    r = qed_storage_read (img->st, chunk, n, from);
    if (r == 0)
      r = qed_storage_write_sparse (img->st, chunk, n, to);
  }
  err = errno;
  free (chunk);
  qed_mark_unsynced (img);
  errno = err;
  return r;
}

/* Let the header name the L1 table's copy. */
static int
link_l1 (struct qed_image *img, uint64_t to)
{
  struct qed_header h = img->writer->h;
  uint8_t sector[QED_SECTOR_SIZE];

  h.l1_table_offset = to;
  if (qed_storage_read (img->st, sector, sizeof sector, 0) == -1 ||
      qed_replace_header (img, &h, sector) == -1)
    return -1;
  img->g.l1_offset = to;
  return 0;
}

static int
link_copy (struct qed_image *img, const struct occupant *o, uint64_t to)
{
  const uint64_t entry = htole64 (to);
  int r;

  if (o->kind == L1_TABLE)
    return link_l1 (img, to);
  r = qed_storage_write (img->st, &entry, sizeof entry, o->place);
  qed_mark_unsynced (img);
  return r == -1 ? -1 : qed_sync_all (img);
}

/* Move what is behind the header.  A failure before the copy is durable changes
 * nothing, later ones fail the writer, so that the image stays marked.
 */
static int
move_away (struct qed_image *img, const struct occupant *o)
{
  uint64_t to;

  if (qed_alloc (img, o->clusters, &to) == -1)
    return -1;
  if (copy (img, img->g.header_bytes, to,
            o->clusters << img->g.cluster_bits) == -1 ||
      qed_sync_all (img) == -1) {
    qed_alloc_undo (img, o->clusters, to, false);
    return -1;
  }
  return link_copy (img, o, to) == -1 ? qed_writer_fail (img, errno) : 0;
}

int
qed_make_headroom (struct qed_image *img, uint32_t *clusters)
{
  struct occupant o;

  if (find_occupant (img, &o) == -1 ||
      (o.kind != LEAK && move_away (img, &o) == -1))
    return -1;
  if (qed_zero_file (img, img->g.header_bytes,
                     o.clusters << img->g.cluster_bits) == -1 ||
      qed_sync_all (img) == -1)
    return qed_writer_fail (img, errno);
  *clusters = (uint32_t) o.clusters;
  return 0;
}

int
qed_check_headroom (const struct qed_image *img)
{
  const uint64_t most = (UINT64_C (1) << 32) >> img->g.cluster_bits;

  /* Any table may follow. */
  return img->h.table_size < most &&
    img->h.header_size < most - img->h.table_size ? 0 : -1;
}
