/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* qed_map_layers names, for every byte of the disk, the layer that provides it
 * and its offset there: checked against the models of all layers.  Entries are
 * merged as far as possible, and huge sparse images cost a few reads.
 */

#include <config.h>

#include "damage.h"
#include "harness.h"
#include "memory-storage.h"
#include "model.h"

/* ---- expected entries ---- */

/* What each file's entries point to, in the order of files. */
#define MAX_LAYERS 4
static struct {
  const struct mem_file *file;
  struct snapshot s;
} owners[MAX_LAYERS];

static void
know_owners (size_t i, struct mem_file *f)
{
  owners[i].file = f;
  snapshot_take (&owners[i].s, f);
}

static void
forget_owners (void)
{
  for (size_t i = 0; i < MAX_LAYERS; i++)
    if (owners[i].file) {
      owners[i].file = NULL;
      snapshot_free (&owners[i].s);
    }
}

/* Does the cluster at ENTRY have another owner, or lie in a table? */
static bool
is_shared (const struct model *m, uint64_t entry)
{
  const struct snapshot *s = NULL;
  int n = 0;

  for (size_t i = 0; i < MAX_LAYERS; i++)
    if (owners[i].file == m->file)
      s = &owners[i].s;
  for (size_t i = 0; s && i < s->n; i++)
    if (s->c[i].type == QED_RUN_DATA && s->c[i].file_offset == entry)
      n += s->c[i].in_table ? 2 : 1;
  return n > 1;
}

/* The entry that the byte at OFFSET is in, without its length. */
static struct qed_map_entry
expected (const struct model *m, uint64_t offset)
{
  struct qed_map_entry e = { .present = true };

  for (;; ++e.depth) {
    const struct model *backing = m->backing;
    uint64_t entry, sectors;

    if (m->raw) {
      e.zero = true;
      if (offset < m->h.image_size)
        mem_next_extent (m->file, offset, &e.zero);
      e.data = !e.zero;
      e.has_offset = true;
      e.file_offset = offset;
      return e;
    }
    switch (model_lookup (m, offset / m->h.cluster_size, &entry)) {
    case QED_RUN_DATA:
      e.data = e.has_offset = true;
      e.file_offset = entry + offset % m->h.cluster_size;
      e.shared = is_shared (m, entry);
      return e;
    case QED_RUN_ZERO:
      e.zero = true;
      return e;
    case QED_RUN_UNSOUND:
      e.data = e.unsound = true;
      return e;
    default:
      break;
    }
    sectors = backing ? (backing->h.image_size + 511) / 512 : 0;
    if (offset >= sectors * 512) {
      e.zero = true;
      e.present = false;
      return e;
    }
    m = backing;
  }
}

static bool
same (const struct qed_map_entry *a, const struct qed_map_entry *b)
{
  return a->depth == b->depth && a->present == b->present &&
    a->zero == b->zero && a->data == b->data && a->unsound == b->unsound &&
    a->shared == b->shared && a->has_offset == b->has_offset;
}

struct seen {
  const struct model *m;        /* NULL: entries aren't compared */
  struct qed_map_entry last;
  uint64_t next;                /* where the next entry must begin */
  uint64_t calls;
  uint64_t stop_after;          /* return STOP then; 0: never */
  int stop;
};

static void
check_byte (const struct seen *s, const struct qed_map_entry *e,
            uint64_t offset)
{
  struct qed_map_entry want = expected (s->m, offset);

  CONTEXT ("byte %" PRIu64 " of entry %" PRIu64 "+%" PRIu64, offset,
           e->offset, e->length);
  CHECK (same (e, &want));
  if (e->has_offset)
    CHECK_EQ (e->file_offset + (offset - e->offset), want.file_offset);
}

static int
see (void *opaque, const struct qed_map_entry *e)
{
  struct seen *s = opaque;
  const uint64_t end = e->offset + e->length;

  CHECK_EQ (e->offset, s->next);
  CHECK_OP (e->length, >, 0);
  if (e->present)
    CHECK_STR (e->filename, MEM_NAME);
  /* Could the entry have been merged with the last one? */
  if (s->calls > 0 && same (e, &s->last))
    CHECK (e->has_offset &&
           e->file_offset != s->last.file_offset + s->last.length);
  s->last = *e;
  s->next = end;
  s->calls++;
  if (s->m) {
    check_byte (s, e, e->offset);
    for (uint64_t at = e->offset / 512 * 512 + 512; at < end; at += 512)
      check_byte (s, e, at);
    check_byte (s, e, end - 1);
  }
  if (s->calls == s->stop_after) {
    errno = EDOM;
    return s->stop;
  }
  return 0;
}

static uint64_t
compare (struct qed_image *img, const struct model *m, uint64_t offset,
         uint64_t length)
{
  struct seen s = { .m = m, .next = offset };

  CHECK_EQ (qed_map_layers (img, offset, length, see, &s), 0);
  CHECK_EQ (s.next, offset + length);
  return s.calls;
}

/* ---- chains ---- */

struct chain {
  struct mem_file *files[MAX_LAYERS];
  struct model models[MAX_LAYERS];
  size_t n;
  struct opened top;
};

/* Make model number N an overlay over the others. */
static void
add_image (struct chain *c)
{
  struct model *m = &c->models[c->n];

  if (c->n > 0) {
    model_name_backing (m);
    m->backing = m - 1;
  }
  c->n++;
}

static void
open_top (struct chain *c)
{
  struct qed_backing *b = NULL;

  for (size_t i = 0; i < c->n; i++)
    if (!c->models[i].raw)
      know_owners (i, c->files[i]);
  for (size_t i = 0; i < c->n - 1; i++) {
    struct qed_storage *st = mem_open (c->files[i]);
    struct qed_image *img;

    if (c->models[i].raw)
      b = qed_backing_raw (st);
    else {
      img = qed_open_overlay (st, b, QED_MIN_CACHE_SIZE);
      CHECK (img != NULL);
      b = qed_backing_image (img);
    }
    CHECK (b != NULL);
  }
  open_over (&c->top, c->files[c->n - 1], b);
}

static void
close_chain (struct chain *c)
{
  close_image (&c->top);
  forget_owners ();
  for (size_t i = 0; i < c->n; i++)
    mem_file_free (c->files[i]);
}

static void
random_raw (struct chain *c, struct rng *rng)
{
  struct mem_file *f = c->files[c->n] = mem_file_new ();
  struct model *m = &c->models[c->n++];

  mem_truncate (f, 20000 + rng_below (rng, UINT64_C (1) << 24));
  model_raw (m, f);
  for (int j = 0; j < 40; j++) {
    uint64_t at = rng_below (rng, mem_size (f) - 10000);

    model_pattern (m, j % 2 ? at : at % 100000, rng_below (rng, 10000));
  }
}

/* ---- tests ---- */

/* Chains of random images whose geometries and sizes differ, some of them with
 * a raw file at the bottom.
 */
static void
test_random (void)
{
  for (uint64_t seed = 0; seed < 80; seed++) {
    struct rng rng = { seed };
    struct chain c = { .n = 0 };
    uint64_t touched[200], size;
    size_t layers = 1 + rng_below (&rng, MAX_LAYERS), n = 0;
    const struct model *m = &c.models[layers - 1];

    if (layers > 1 && seed % 4)
      random_raw (&c, &rng);
    while (c.n < layers) {
      c.files[c.n] = mem_file_new ();
      n = model_random (&c.models[c.n], c.files[c.n], &rng,
                        UINT32_C (4096) << rng_below (&rng, 5),
                        UINT32_C (1) << rng_below (&rng, 5), seed % 3 == 0,
                        touched, 200);
      add_image (&c);
    }
    open_top (&c);
    size = m->h.image_size;
    for (size_t i = 0; i < 100 && size > 0; i++) {
      uint64_t at = rng_below (&rng, size);

      if (i < n && i % 3)
        at = touched[i] * m->h.cluster_size;
      else if (i % 3 == 0)
        at = rng_below (&rng, size < 1 << 17 ? size : 1 << 17);
      if (at >= size)
        continue;
      compare (c.top.img, m, at,
               1 + rng_below (&rng, size - at < 90000 ? size - at : 90000));
    }
    close_chain (&c);
  }
}

/* Whole small disks: merged entries, and the ends of layers. */
static void
test_merging (void)
{
  enum { CS = 4096 };
  struct chain c = { .n = 0 };
  struct model *m;

  c.files[0] = mem_file_new ();
  mem_truncate (c.files[0], 2 * CS + 700);
  model_raw (&c.models[0], c.files[0]);
  model_pattern (&c.models[0], 2 * CS, 700);
  c.n = 1;
  for (int i = 1; i < 3; i++) {
    m = &c.models[i];
    c.files[i] = mem_file_new ();
    model_create (m, c.files[i], CS, 1, (i == 1 ? 20 : 1200) * CS);
    model_data (m, 5);
    model_data (m, 6);
    model_set (m, 7, 1);
    model_set (m, 8, 1);
    model_set (m, 12, 12345);
    model_set (m, 13, 54321);
    if (i == 2)
      for (uint64_t cluster = 520; cluster < 1100; cluster++)
        model_data (m, cluster);
    add_image (&c);
  }
  open_top (&c);
  /* Two clusters of zeros, 700 bytes, rest of the sector, nothing, 5+6, 7+8,
   * nothing, 12+13, nothing to 20, from there on, data in two tables, nothing.
   */
  CHECK_EQ (compare (c.top.img, &c.models[2], 0, 1200 * CS), 13);
  CHECK_EQ (compare (c.top.img, &c.models[2], 600 * CS + 1, 3), 1);
  CHECK_EQ (compare (c.top.img, &c.models[2], 700, 0), 0);
  CHECK_FAILS (qed_map_layers (c.top.img, 1199 * CS, CS + 1, see, NULL),
               EINVAL, "must be inside the disk");
  close_chain (&c);
}

/* A backing file that is neither a file nor an image: no offsets. */
struct server {
  struct qed_backing b;
  bool fail;
};

static int
server_extents (struct qed_backing *b, uint64_t offset, uint64_t length,
                qed_extent_fn *fn, void *opaque)
{
  int r = 0;

  if (((struct server *) b)->fail) {
    errno = ESHUTDOWN;
    return -1;
  }
  for (uint64_t end = offset + length; r == 0 && offset < end;) {
    uint64_t next = (offset / 1000 + 1) * 1000;

    if (next > end)
      next = end;
    r = fn (opaque, offset, next - offset, offset / 1000 % 2);
    offset = next;
  }
  return r == -1 ? -1 : 0;
}

static void
server_close (struct qed_backing *b __attribute__ ((unused)))
{
}

static const struct qed_backing_ops server_ops = {
  .extents = server_extents, .close = server_close,
};

static void
test_server (void)
{
  struct server server = {
    .b = { .ops = &server_ops, .name = MEM_NAME, .size = 10000 },
  };
  struct seen s = { .m = NULL };
  struct mem_file *f = mem_file_new ();
  struct opened o;
  struct model m;

  model_create (&m, f, 4096, 1, 20480);
  model_data (&m, 1);
  model_name_backing (&m);
  open_over (&o, f, &server.b);
  CHECK_EQ (qed_map_layers (o.img, 2500, 1000, see,
                            &(struct seen) { .next = 2500 }), 0);
  CHECK_EQ (qed_map_layers (o.img, 9500, 5000, see,
                            (s.next = 9500, &s)), 0);
  CHECK_EQ (s.calls, 2);
  CHECK (!s.last.present && s.last.zero && s.last.depth == 0);
  s = (struct seen) { .next = 9100 };
  CHECK_EQ (qed_map_layers (o.img, 9100, 100, see, &s), 0);
  CHECK (s.last.present && !s.last.data && s.last.zero && s.last.depth == 1 &&
         !s.last.has_offset);
  s = (struct seen) { .next = 0 };
  CHECK_EQ (qed_map_layers (o.img, 0, 20480, see, &s), 0);
  /* Five to the end of the first cluster, data, to 9000, to the end of the
   * last sector, which is after 10000, nothing.
   */
  CHECK_EQ (s.calls, 5 + 1 + 2 + 1);

  server.fail = true;
  s = (struct seen) { .next = 0 };
  CHECK_EQ (qed_map_layers (o.img, 0, 20480, see, &s), -1);
  CHECK_EQ (errno, ESHUTDOWN);
  close_image (&o);
  mem_file_free (f);
}

/* The callback ends the map, at any entry. */
static void
test_stop (void)
{
  enum { CS = 4096 };
  struct chain c = { .n = 0 };
  struct rng rng = { 1 };
  uint64_t calls;

  random_raw (&c, &rng);
  c.files[1] = mem_file_new ();
  model_create (&c.models[1], c.files[1], CS, 1, 40 * CS);
  for (uint64_t i = 0; i < 40; i += 3)
    model_data (&c.models[1], i);
  model_set (&c.models[1], 1, 1);
  model_set (&c.models[1], 4, 3);
  add_image (&c);
  open_top (&c);
  calls = compare (c.top.img, &c.models[1], 0, 40 * CS);
  CHECK_OP (calls, >, 20);
  for (int stop = -1; stop <= 1; stop += 2)
    for (uint64_t i = 1; i <= calls; i++) {
      struct seen s = { .m = &c.models[1], .stop_after = i, .stop = stop };

      CHECK_EQ (qed_map_layers (c.top.img, 0, 40 * CS, see, &s),
                stop == -1 ? -1 : 0);
      if (stop == -1)
        CHECK_EQ (errno, EDOM);
      CHECK_EQ (s.calls, i);
    }
  close_chain (&c);
}

/* A table that can't be read is an error, not a hole. */
static void
test_read_errors (void)
{
  const struct mem_faults fault = {
    .op = MEM_PREAD, .first = 1, .count = 1, .err = EIO,
  };
  struct chain c = { .n = 0 };
  struct seen s = { .m = NULL };

  for (int i = 0; i < 2; i++) {
    c.files[i] = mem_file_new ();
    model_create (&c.models[i], c.files[i], 4096, 1, 1 << 20);
    if (i == 0)
      model_data (&c.models[0], 3);
    add_image (&c);
  }
  open_top (&c);
  mem_set_faults (c.files[0], &fault);
  CHECK_FAILS (qed_map_layers (c.top.img, 0, 1 << 20, see, &s), EIO,
               MEM_NAME ": read");
  mem_set_faults (c.files[0], NULL);
  compare (c.top.img, &c.models[1], 0, 1 << 20);
  close_chain (&c);
}

/* Sparse images as large as they can be: a few reads. */
static void
test_64t (void)
{
  const uint64_t size = UINT64_C (1) << 46;
  struct chain c = { .n = 0 };

  for (int i = 0; i < 3; i++) {
    c.files[i] = mem_file_new ();
    if (i == 0) {
      mem_truncate (c.files[0], size);
      model_raw (&c.models[0], c.files[0]);
      model_pattern (&c.models[0], size / 2, 65536);
      c.n = 1;
      continue;
    }
    model_create (&c.models[i], c.files[i], 65536, 4, size);
    model_data (&c.models[i], 7);
    model_data (&c.models[i], size / 65536 - (uint64_t) i);
    model_data (&c.models[i], size / 3 / 65536);
    add_image (&c);
  }
  open_top (&c);
  for (int i = 0; i < 3; i++)
    mem_reset_counters (c.files[i]);
  {
    struct seen s = { .m = NULL };

    CHECK_EQ (qed_map_layers (c.top.img, 0, size, see, &s), 0);
    CHECK_EQ (s.next, size);
    CHECK_EQ (s.calls, 9);
  }
  for (int i = 0; i < 3; i++)
    CHECK_OP (mem_calls (c.files[i], MEM_ANY), <, 300);
  close_chain (&c);
}

HARNESS_MAIN (
  TEST (test_random),
  TEST (test_merging),
  TEST (test_server),
  TEST (test_stop),
  TEST (test_read_errors),
  TEST (test_64t),
)
