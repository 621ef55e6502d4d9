/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The log is an array of events under a lock that is held while an operation
 * takes effect.  The crash model (recorder.h) is applied to it sector by
 * sector: the log is replayed once for each sector that ever had content,
 * which gives its versions, one for each event that touched it.  A rebuild
 * then is a choice: how many of the events on the file system's metadata are
 * left, and for each sector, which version.
 */

#include <config.h>

#include <pthread.h>
#include <sched.h>

#include "model.h"
#include "recorder.h"

/* As much is zeroed at once only where space is made: the guests of the tests
 * zero less.
 */
#define FRESH_BYTES UINT64_C (0x10000)

enum event_type { WRITE, ZERO, PUNCH, RESIZE, SYNC_BEGIN, SYNC_END, MARK };

struct event {
  enum event_type type;
  uint64_t offset, length;      /* RESIZE: the new and the old size */
  uint8_t *data;                /* WRITE */
  size_t began;                 /* SYNC_END: the place of its begin */
  size_t returned;              /* length of the log then; SIZE_MAX: never */
  bool late;                    /* LIE_LATE_ENTRIES */
};

struct version {
  size_t event;
  uint8_t data[QED_SECTOR_SIZE];
};

struct sector {
  uint64_t number;
  uint8_t base[QED_SECTOR_SIZE];
  struct version *versions;
  size_t n;
};

struct recorder {
  struct mem_file *f;
  enum recorder_lie lie;
  uint64_t base_size;

  pthread_mutex_t lock;
  struct event *events;
  size_t n, allocated;
  bool need_check, backed;      /* in the header */
  uint64_t l1_offset;
  bool lie_next;                /* LIE_..._UNSYNCED: at the next sync */

  /* Made when the first state is rebuilt.  First with base only. */
  struct sector *sectors;       /* sorted by number */
  size_t n_sectors;
  bool replayed;
};

struct recorder_storage {
  struct qed_storage st;
  struct recorder *r;
  struct qed_storage *inner;
};

/* ---- recording: called with the lock held ---- */

static size_t
add_event (struct recorder *r, enum event_type type, uint64_t offset,
           uint64_t length)
{
  CHECK (!r->replayed);
  if (r->n == r->allocated) {
    r->allocated = r->allocated ? 2 * r->allocated : 64;
    r->events = realloc (r->events, r->allocated * sizeof *r->events);
    CHECK (r->events != NULL);
  }
  r->events[r->n] = (struct event) {
    .type = type, .offset = offset, .length = length, .returned = SIZE_MAX,
  };
  return r->n++;
}

static uint64_t
get64 (const uint8_t *p)
{
  uint64_t v = 0;

  for (int i = 7; i >= 0; i--)
    v = v << 8 | p[i];
  return v;
}

/* Is the data of a write table entries?  It is if it is short and has only
 * small numbers: the guests of the tests write no such data.
 */
static bool
are_entries (const uint8_t *data, size_t length, uint64_t size)
{
  if (length % 8 != 0 || length >= QED_SECTOR_SIZE)
    return false;
  for (size_t i = 0; i < length; i += 8) {
    uint64_t v = get64 (data + i);

    if (v > 1 && (v % QED_MIN_CLUSTER_SIZE != 0 || v >= size))
      return false;
  }
  return true;
}

/* The last syncs didn't do what they said. */
static void
undo_syncs (struct recorder *r)
{
  for (size_t i = r->n; i > 0 && r->events[i - 1].type != MARK; i--)
    if (r->events[i - 1].type == SYNC_END)
      r->events[i - 1].began = 0;
}

static void
header_written (struct recorder *r, const uint8_t *header)
{
  bool need_check = get64 (header + 16) & QED_F_NEED_CHECK;
  bool backed = get64 (header + 16) & QED_F_BACKING_FILE;

  if (r->lie == LIE_DIRTY_UNSYNCED && need_check && !r->need_check)
    r->lie_next = true;
  if (r->lie == LIE_CLEAN_EARLY && !need_check && r->need_check)
    undo_syncs (r);
  if (r->lie == LIE_ALONE_EARLY && !backed && r->backed)
    undo_syncs (r);
  r->need_check = need_check;
  r->backed = backed;
  r->l1_offset = get64 (header + 40);
}

static size_t
record_write (struct recorder *r, const void *buf, size_t count,
              uint64_t offset)
{
  size_t i = add_event (r, WRITE, offset, count);
  struct event *e = &r->events[i];

  e->data = malloc (count);
  CHECK (e->data != NULL);
  memcpy (e->data, buf, count);
  if (are_entries (e->data, count, mem_size (r->f))) {
    e->late = r->lie == LIE_LATE_ENTRIES;
    /* With the smallest tables; after those of L1. */
    if (r->lie == LIE_EARLY_ENTRIES && offset >= r->l1_offset + 4096)
      undo_syncs (r);
  }
  return i;
}

static void
record_sync_end (struct recorder *r, size_t began)
{
  size_t i;

  if (r->lie == LIE_SYNC || r->lie_next) {
    r->lie_next = false;
    return;
  }
  i = add_event (r, SYNC_END, 0, 0);
  r->events[i].began = began;

  for (size_t j = 0; j < began; j++)    /* the next one has them */
    if (r->events[j].late && r->events[j].returned == SIZE_MAX)
      r->events[j].returned = r->n;
}

/* ---- the storage ---- */

static struct recorder_storage *
storage (struct qed_storage *st)
{
  return (struct recorder_storage *) st;
}

/* Operation I is about to return.  A sync of another thread that began after
 * the operation took effect but before now need not cover it.
 */
static void
returning (struct recorder *r, size_t i)
{
  sched_yield ();
  pthread_mutex_lock (&r->lock);
  if (!r->events[i].late)
    r->events[i].returned = r->n;
  pthread_mutex_unlock (&r->lock);
}

static ssize_t
op_pwrite (struct qed_storage *st, const void *buf, size_t count,
           uint64_t offset)
{
  struct recorder *r = storage (st)->r;
  size_t i = 0, extended = SIZE_MAX;
  uint64_t size;
  ssize_t ret;

  pthread_mutex_lock (&r->lock);
  size = mem_size (r->f);
  ret = storage (st)->inner->ops->pwrite (storage (st)->inner, buf, count,
                                          offset);
  if (ret > 0) {
    if (offset + (size_t) ret > size)
      extended = add_event (r, RESIZE, offset + (size_t) ret, size);
    if (offset == 0 && ret >= QED_HEADER_BYTES)
      header_written (r, buf);
    i = record_write (r, buf, (size_t) ret, offset);
  }
  pthread_mutex_unlock (&r->lock);
  if (ret > 0) {
    if (extended != SIZE_MAX)
      returning (r, extended);
    returning (r, i);
  }
  return ret;
}

static int
op_resize (struct qed_storage *st, uint64_t size)
{
  struct recorder *r = storage (st)->r;
  size_t i = 0;
  uint64_t old;
  int ret;

  pthread_mutex_lock (&r->lock);
  old = mem_size (r->f);
  ret = storage (st)->inner->ops->resize (storage (st)->inner, size);
  if (ret == 0)
    i = add_event (r, RESIZE, size, old);
  pthread_mutex_unlock (&r->lock);
  if (ret == 0)
    returning (r, i);
  return ret;
}

static int
punch_or_zero (struct recorder *r, struct qed_storage *inner,
               enum event_type type, uint64_t offset, uint64_t length)
{
  size_t i = 0;
  int ret;

  pthread_mutex_lock (&r->lock);
  ret = (type == PUNCH ? inner->ops->punch : inner->ops->zero)
    (inner, offset, length);
  if (ret == 0) {
    i = add_event (r, mem_is_device (r->f) ? ZERO : type, offset, length);
    if (r->lie == LIE_FRESH_UNSYNCED && length >= FRESH_BYTES)
      r->lie_next = true;
  }
  pthread_mutex_unlock (&r->lock);
  if (ret == 0)
    returning (r, i);
  return ret;
}

static int
op_punch (struct qed_storage *st, uint64_t offset, uint64_t length)
{
  return punch_or_zero (storage (st)->r, storage (st)->inner, PUNCH, offset,
                        length);
}

static int
op_zero (struct qed_storage *st, uint64_t offset, uint64_t length)
{
  return punch_or_zero (storage (st)->r, storage (st)->inner, ZERO, offset,
                        length);
}

static int
op_sync (struct qed_storage *st)
{
  struct recorder *r = storage (st)->r;
  size_t began;
  int ret;

  pthread_mutex_lock (&r->lock);
  began = add_event (r, SYNC_BEGIN, 0, 0);
  pthread_mutex_unlock (&r->lock);
  sched_yield ();
  ret = storage (st)->inner->ops->sync (storage (st)->inner);
  if (ret == 0) {
    pthread_mutex_lock (&r->lock);
    record_sync_end (r, began);
    pthread_mutex_unlock (&r->lock);
  }
  return ret;
}

static ssize_t
op_pread (struct qed_storage *st, void *buf, size_t count, uint64_t offset)
{
  st = storage (st)->inner;
  return st->ops->pread (st, buf, count, offset);
}

static int64_t
op_get_size (struct qed_storage *st)
{
  st = storage (st)->inner;
  return st->ops->get_size (st);
}

static int64_t
op_next_extent (struct qed_storage *st, uint64_t offset, bool *hole)
{
  st = storage (st)->inner;
  return st->ops->next_extent (st, offset, hole);
}

static int
op_prefetch (struct qed_storage *st, uint64_t offset, uint64_t length)
{
  st = storage (st)->inner;
  return st->ops->prefetch (st, offset, length);
}

static int
op_make_writable (struct qed_storage *st)
{
  st = storage (st)->inner;
  return st->ops->make_writable (st);
}

static void
op_make_readonly (struct qed_storage *st)
{
  st = storage (st)->inner;
  if (st->ops->make_readonly)
    st->ops->make_readonly (st);
}

static void
op_close (struct qed_storage *st)
{
  qed_storage_close (storage (st)->inner);
  free (st);
}

static const struct qed_storage_ops recorder_ops = {
  .pread = op_pread,
  .pwrite = op_pwrite,
  .pwritev = mem_pwritev,
  .get_size = op_get_size,
  .resize = op_resize,
  .sync = op_sync,
  .next_extent = op_next_extent,
  .prefetch = op_prefetch,
  .punch = op_punch,
  .zero = op_zero,
  .make_writable = op_make_writable,
  .make_readonly = op_make_readonly,
  .close = op_close,
};

struct qed_storage *
recorder_open (struct recorder *r)
{
  struct recorder_storage *s = calloc (1, sizeof *s);

  CHECK (s != NULL);
  s->inner = mem_open (r->f);
  s->st = *s->inner;
  s->st.ops = &recorder_ops;
  s->r = r;
  return &s->st;
}

/* ---- the log ---- */

static struct sector *
add_sector (struct recorder *r, uint64_t number)
{
  if (r->n_sectors % 64 == 0) {
    r->sectors = realloc (r->sectors,
                          (r->n_sectors + 64) * sizeof *r->sectors);
    CHECK (r->sectors != NULL);
  }
  r->sectors[r->n_sectors] = (struct sector) { .number = number };
  return &r->sectors[r->n_sectors++];
}

struct recorder *
recorder_new (struct mem_file *f, enum recorder_lie lie)
{
  struct recorder *r = calloc (1, sizeof *r);
  uint8_t header[QED_HEADER_BYTES];
  uint64_t next;
  bool hole;

  CHECK (r != NULL);
  CHECK (pthread_mutex_init (&r->lock, NULL) == 0);
  r->f = f;
  r->lie = lie;
  r->base_size = mem_size (f);
  mem_read (f, header, sizeof header, 0);
  header_written (r, header);
  for (uint64_t o = 0; o < r->base_size; o = next) {
    next = mem_next_extent (f, o, &hole);
    while (!hole && o < next) {
      struct sector *s = add_sector (r, o / QED_SECTOR_SIZE);

      mem_read (f, s->base, sizeof s->base, o);
      o += QED_SECTOR_SIZE;
    }
  }
  return r;
}

void
recorder_free (struct recorder *r)
{
  for (size_t i = 0; i < r->n; i++)
    free (r->events[i].data);
  for (size_t i = 0; i < r->n_sectors; i++)
    free (r->sectors[i].versions);
  free (r->events);
  free (r->sectors);
  pthread_mutex_destroy (&r->lock);
  free (r);
}

size_t
recorder_mark (struct recorder *r)
{
  size_t i;

  pthread_mutex_lock (&r->lock);
  i = add_event (r, MARK, 0, 0);
  pthread_mutex_unlock (&r->lock);
  return i;
}

size_t
recorder_length (struct recorder *r)
{
  return r->n;
}

bool
recorder_same_as_next (struct recorder *r, size_t cut)
{
  return cut < r->n && (r->events[cut].type == MARK ||
                        r->events[cut].type == SYNC_BEGIN);
}

uint64_t
recorder_states_wanted (unsigned percent)
{
  const char *s = getenv ("QED_CRASH_STATES");
  uint64_t n = s ? strtoull (s, NULL, 0) :
    getenv ("NBDKIT_VALGRIND") ? 300 : 20000;

  return n * percent / 100 + 1;
}

void
recorder_print (struct recorder *r, size_t cut, FILE *fp)
{
  static const char names[][8] = {
    "write", "zero", "punch", "resize", "sync", "synced", "mark"
  };

  for (size_t i = 0; i < cut; i++)
    fprintf (fp, "%4zu  %-6s  %#" PRIx64 " + %#" PRIx64 "\n", i,
             names[r->events[i].type], r->events[i].offset,
             r->events[i].length);
}

/* ---- replaying ---- */

static int
compare_sectors (const void *a, const void *b)
{
  uint64_t x = ((const struct sector *) a)->number;
  uint64_t y = ((const struct sector *) b)->number;

  return x < y ? -1 : x > y;
}

static bool
have_sector (const struct recorder *r, uint64_t number)
{
  for (size_t i = 0; i < r->n_sectors; i++)
    if (r->sectors[i].number == number)
      return true;
  return false;
}

/* All sectors that ever had content: those of the base and what was
 * written.
 */
static void
collect_sectors (struct recorder *r)
{
  for (size_t i = 0; i < r->n; i++) {
    const struct event *e = &r->events[i];

    if (e->type == WRITE)
      for (uint64_t s = e->offset / QED_SECTOR_SIZE;
           s <= (e->offset + e->length - 1) / QED_SECTOR_SIZE; s++)
        if (!have_sector (r, s))
          add_sector (r, s);
  }
  qsort (r->sectors, r->n_sectors, sizeof *r->sectors, compare_sectors);
}

/* Apply an event to sector NUMBER in PAGE.  False: it didn't touch it. */
static bool
apply (const struct event *e, uint64_t number, uint8_t *page)
{
  uint64_t start = number * QED_SECTOR_SIZE, end = start + QED_SECTOR_SIZE;
  uint64_t from = e->offset, to = e->offset + e->length;

  switch (e->type) {
  case WRITE: case ZERO: case PUNCH: break;
  case RESIZE: to = e->length; break;   /* what was cut off, if anything */
  default: return false;
  }
  if (from < start)
    from = start;
  if (to > end)
    to = end;
  if (from >= to)
    return false;
  if (e->type == WRITE)
    memcpy (page + (from - start), e->data + (from - e->offset), to - from);
  else
    memset (page + (from - start), 0, to - from);
  return true;
}

static void
replay_sector (struct recorder *r, struct sector *s)
{
  uint8_t page[QED_SECTOR_SIZE];

  memcpy (page, s->base, sizeof page);
  for (size_t i = 0; i < r->n; i++) {
    if (!apply (&r->events[i], s->number, page))
      continue;
    if (s->n % 4 == 0) {
      s->versions = realloc (s->versions, (s->n + 4) * sizeof *s->versions);
      CHECK (s->versions != NULL);
    }
    s->versions[s->n].event = i;
    memcpy (s->versions[s->n++].data, page, sizeof page);
  }
}

static void
replay (struct recorder *r)
{
  if (r->replayed)
    return;
  collect_sectors (r);
  for (size_t i = 0; i < r->n_sectors; i++)
    replay_sector (r, &r->sectors[i]);
  r->replayed = true;
}

/* ---- rebuilding ---- */

/* What is left after a crash. */
struct crash {
  size_t cut;
  size_t synced;                /* durable: what had returned by then */
  size_t kept;                  /* metadata: what is before this is left */
  uint64_t size;                /* of the file */
  enum recorder_keep keep;
  unsigned eighths;             /* KEEP_SOME: of sectors kept, about */
  struct rng *rng;
};

static bool
is_metadata (const struct event *e)
{
  return e->type == PUNCH || e->type == RESIZE;
}

static bool
is_durable (const struct crash *c, const struct event *e)
{
  return e->returned <= c->synced;
}

static void
choose_metadata (struct recorder *r, struct crash *c)
{
  size_t volatile_events = 0, left = 0;

  c->kept = c->synced = 0;
  for (size_t i = 0; i < c->cut; i++)
    if (r->events[i].type == SYNC_END && r->events[i].began > c->synced)
      c->synced = r->events[i].began;
  for (size_t i = 0; i < c->cut; i++)
    if (is_metadata (&r->events[i])) {
      volatile_events++;
      if (is_durable (c, &r->events[i])) {
        volatile_events = 0;
        c->kept = i + 1;
      }
    }

  if (c->keep == KEEP_ALL)
    left = volatile_events;
  else if (c->keep == KEEP_SOME)
    left = rng_below (c->rng, volatile_events + 1);
  for (; left > 0; c->kept++)
    if (is_metadata (&r->events[c->kept]))
      left--;

  c->size = r->base_size;
  for (size_t i = 0; i < c->kept; i++)
    if (r->events[i].type == RESIZE)
      c->size = r->events[i].offset;
}

/* Versions are numbered from 1; 0 is the base. */
static size_t
choose_version (struct recorder *r, const struct crash *c,
                const struct sector *s, size_t *newest)
{
  size_t oldest = 0;
  bool unreachable = false;     /* in blocks of metadata that was lost */

  *newest = 0;
  for (size_t i = 0; i < s->n && s->versions[i].event < c->cut; i++) {
    const struct event *e = &r->events[s->versions[i].event];

    if (is_durable (c, e) ||
        (is_metadata (e) && s->versions[i].event < c->kept)) {
      oldest = *newest = i + 1;
      unreachable = false;
    }
    else if (is_metadata (e))
      unreachable = true;
    else if (!unreachable)
      *newest = i + 1;
  }
  if (c->keep == KEEP_NOTHING || oldest == *newest)
    return oldest;
  if (c->keep == KEEP_ALL || rng_below (c->rng, 8) < c->eighths)
    return *newest;
  return oldest + rng_below (c->rng, *newest - oldest);
}

static void
rebuild_sector (struct recorder *r, const struct crash *c,
                const struct sector *s, size_t version, bool lost,
                struct mem_file *out)
{
  static const uint8_t zeros[QED_SECTOR_SIZE];
  uint64_t offset = s->number * QED_SECTOR_SIZE;
  const uint8_t *data = version ? s->versions[version - 1].data : s->base;
  uint8_t stale[QED_SECTOR_SIZE];

  if (offset >= c->size)
    return;
  if (r->lie == LIE_STALE_SPACE && lost && version == 0 &&
      offset >= r->base_size) {
    memset (stale, 0xa7, sizeof stale);
    data = stale;
  }
  if (memcmp (data, zeros, sizeof zeros) != 0)
    mem_write (out, data, c->size - offset < QED_SECTOR_SIZE ?
               c->size - offset : QED_SECTOR_SIZE, offset);
}

static uint64_t
mix (uint64_t hash, uint64_t v)
{
  return rng_next (&(struct rng) { hash ^ v });
}

uint64_t
recorder_rebuild (struct recorder *r, size_t cut, enum recorder_keep keep,
                  struct rng *rng, struct mem_file *out)
{
  static const unsigned eighths[] = { 1, 4, 7 };
  struct crash c = { .cut = cut, .keep = keep, .rng = rng };
  uint64_t hash = 0;

  replay (r);
  if (keep == KEEP_SOME)
    c.eighths = eighths[rng_below (rng, 3)];
  choose_metadata (r, &c);
  for (size_t i = 0; i < cut; i++)
    if (r->events[i].type == MARK)
      hash = i;
  hash = mix (hash, c.size);

  mem_truncate (out, c.size);
  for (size_t i = 0; i < r->n_sectors; i++) {
    size_t newest, version = choose_version (r, &c, &r->sectors[i], &newest);

    hash = mix (hash, version);
    rebuild_sector (r, &c, &r->sectors[i], version, version < newest, out);
  }
  if (mem_is_device (r->f))
    mem_make_device (out, 0);
  return hash;
}

/* ---- auditing ---- */

struct uses {
  struct audit *a;
  uint8_t *used;                /* for each cluster of the file */
  uint64_t cluster_size;
};

static void
use (struct uses *u, uint64_t offset, uint64_t length)
{
  for (uint64_t c = offset / u->cluster_size;
       c < (offset + length) / u->cluster_size; c++) {
    if (u->used[c]++)
      u->a->duplicate++;
    else
      u->a->leaked--;
  }
  if (offset + length > u->a->end)
    u->a->end = offset + length;
}

/* Clusters that table INDEX maps. */
static void
audit_table (const struct model *m, uint64_t index, struct uses *u)
{
  uint64_t n = model_entries (m), entry;

  for (uint64_t c = index * n; c < (index + 1) * n && c < model_clusters (m);
       c++)
    switch (model_lookup (m, c, &entry)) {
    case QED_RUN_UNSOUND:
      u->a->unsound++;
      if (entry == model_get_l1 (m, index))
        return;
      break;
    case QED_RUN_DATA:
      use (u, entry, m->h.cluster_size);
      if (c < u->a->first)
        u->a->first = c;
      u->a->last = c;
      break;
    default:
      break;
    }
}

bool
audit_image (struct mem_file *f, struct audit *a)
{
  struct model m;
  struct uses u = { .a = a };
  uint64_t tables;

  *a = (struct audit) { .first = UINT64_MAX, .size = mem_size (f) };
  if (!model_open (&m, f))
    return false;
  a->need_check = m.h.features & QED_F_NEED_CHECK;
  u.cluster_size = m.h.cluster_size;
  a->leaked = a->size / u.cluster_size;
  u.used = calloc (a->leaked, 1);
  CHECK (u.used != NULL);
  use (&u, 0, (uint64_t) m.h.header_size * u.cluster_size);
  use (&u, m.h.l1_table_offset, model_table_bytes (&m));

  tables = (model_clusters (&m) + model_entries (&m) - 1) / model_entries (&m);
  for (uint64_t i = 0; i < tables; i++) {
    uint64_t entry, l1 = model_get_l1 (&m, i);

    if (l1 == 0)
      continue;
    if (model_lookup (&m, i * model_entries (&m), &entry) != QED_RUN_UNSOUND ||
        entry != l1)
      use (&u, l1, model_table_bytes (&m));
    audit_table (&m, i, &u);
  }
  free (u.used);
  if (mem_is_device (f)) {      /* it isn't cut */
    a->leaked -= (a->size - a->end) / u.cluster_size;
    a->size = a->end;
  }
  return true;
}

const char *
audit_closed (struct mem_file *f, bool leaks)
{
  static char why[100];
  struct audit a;

  if (!audit_image (f, &a))
    return "closed: not a valid image";
  if (!a.need_check && !a.unsound && !a.duplicate &&
      (leaks || a.size == a.end))
    return NULL;
  snprintf (why, sizeof why, "closed: NEED_CHECK %d, %u unsound, %u duplicate,"
            " used %#" PRIx64 " of %#" PRIx64, a.need_check, a.unsound,
            a.duplicate, a.end, a.size);
  return why;
}
