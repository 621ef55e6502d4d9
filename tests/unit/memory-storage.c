/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

#include <config.h>

#include <endian.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness.h"
#include "memory-storage.h"

struct chunk {
  uint64_t number;              /* of the file's MEM_CHUNK bytes */
  uint8_t *data;
};

struct counter {
  _Atomic uint64_t calls, bytes, largest;
};

struct mem_file {
  /* For the contents.  Readers don't order one another. */
  pthread_rwlock_t lock;
  uint64_t size;
  struct chunk *chunks;         /* sorted by number */
  size_t n, allocated;
  bool device;                  /* see mem_make_device */

  _Atomic unsigned storages;    /* open ones */
  struct counter counters[MEM_NR_OPS];

  /* Set while no operation is under way. */
  struct mem_faults faults;
  _Atomic uint64_t fault_calls; /* of faults.op, since it was set */
  _Atomic uint64_t eintr_calls; /* of any operation, since it was set */
  mem_hook *hook;
  void *hook_opaque;
};

struct mem_storage {
  struct qed_storage st;
  struct mem_file *f;
};

/* ---- contents: called with the lock held ---- */

/* Allocate again if alloc.h makes it fail: that is for the library's own
 * allocations.
 */
static void *
allocate (size_t size)
{
  void *p = calloc (1, size);

  if (p == NULL)
    p = calloc (1, size);
  CHECK (p != NULL);
  return p;
}

/* The first chunk with at least this number. */
static size_t
find (const struct mem_file *f, uint64_t number)
{
  size_t lo = 0, hi = f->n;

  while (lo < hi) {
    size_t mid = lo + (hi - lo) / 2;

    if (f->chunks[mid].number < number)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo;
}

static uint8_t *
insert (struct mem_file *f, size_t i, uint64_t number)
{
  if (f->n == f->allocated) {
    struct chunk *old = f->chunks;

    f->allocated = f->allocated ? 2 * f->allocated : 64;
    f->chunks = allocate (f->allocated * sizeof *f->chunks);
    if (f->n > 0)
      memcpy (f->chunks, old, f->n * sizeof *old);
    free (old);
  }
  memmove (&f->chunks[i + 1], &f->chunks[i], (f->n - i) * sizeof *f->chunks);
  f->n++;
  f->chunks[i] = (struct chunk) { number, allocate (MEM_CHUNK) };
  return f->chunks[i].data;
}

/* Free the chunks I .. J-1. */
static void
discard (struct mem_file *f, size_t i, size_t j)
{
  if (i == j)
    return;
  for (size_t k = i; k < j; k++)
    free (f->chunks[k].data);
  memmove (&f->chunks[i], &f->chunks[j], (f->n - j) * sizeof *f->chunks);
  f->n -= j - i;
}

static void
get (const struct mem_file *f, uint8_t *buf, size_t count, uint64_t offset)
{
  size_t i = find (f, offset / MEM_CHUNK);

  memset (buf, 0, count);
  for (; i < f->n; i++) {
    uint64_t start = f->chunks[i].number * MEM_CHUNK;
    uint64_t from = start > offset ? start : offset;
    size_t skip = from - start, done = from - offset, len;

    if (done >= count)
      break;
    len = MEM_CHUNK - skip < count - done ? MEM_CHUNK - skip : count - done;
    memcpy (buf + done, f->chunks[i].data + skip, len);
  }
}

static void
put (struct mem_file *f, const uint8_t *buf, size_t count, uint64_t offset)
{
  size_t i = find (f, offset / MEM_CHUNK);

  if (count > 0 && offset + count > f->size)
    f->size = offset + count;
  while (count > 0) {
    uint64_t number = offset / MEM_CHUNK;
    size_t skip = offset % MEM_CHUNK;
    size_t len = MEM_CHUNK - skip < count ? MEM_CHUNK - skip : count;
    uint8_t *data = i < f->n && f->chunks[i].number == number ?
      f->chunks[i].data : insert (f, i, number);

    memcpy (data + skip, buf, len);
    buf += len;
    count -= len;
    offset += len;
    i++;
  }
}

static void
zero_in_chunk (struct mem_file *f, uint64_t offset, size_t count)
{
  size_t i = find (f, offset / MEM_CHUNK);

  if (i < f->n && f->chunks[i].number == offset / MEM_CHUNK)
    memset (f->chunks[i].data + offset % MEM_CHUNK, 0, count);
}

static void
punch (struct mem_file *f, uint64_t offset, uint64_t length)
{
  uint64_t end = offset + length;
  uint64_t first = (offset + MEM_CHUNK - 1) / MEM_CHUNK;
  uint64_t last = end / MEM_CHUNK;

  if (first > last) {           /* inside of one chunk */
    zero_in_chunk (f, offset, length);
    return;
  }
  zero_in_chunk (f, offset, first * MEM_CHUNK - offset);
  zero_in_chunk (f, last * MEM_CHUNK, end - last * MEM_CHUNK);
  discard (f, find (f, first), find (f, last));
}

static void
set_size (struct mem_file *f, uint64_t size)
{
  /* The rest of the last chunk too: it must read as zeros later. */
  if (size < f->size)
    punch (f, size,
           (f->size + MEM_CHUNK - 1) / MEM_CHUNK * MEM_CHUNK - size);
  f->size = size;
}

static uint64_t
next_extent (const struct mem_file *f, uint64_t offset, bool *hole)
{
  uint64_t number = offset / MEM_CHUNK, next;
  size_t i = find (f, number);

  *hole = i == f->n || f->chunks[i].number != number;
  if (*hole)
    next = i == f->n ? f->size : f->chunks[i].number * MEM_CHUNK;
  else {
    while (i < f->n && f->chunks[i].number == number) {
      i++;
      number++;
    }
    next = number * MEM_CHUNK;
  }
  return next < f->size ? next : f->size;
}

/* ---- faults and counters ---- */

static uint64_t
add (_Atomic uint64_t *counter, uint64_t n)
{
  return n + atomic_fetch_add_explicit (counter, n, memory_order_relaxed);
}

static uint64_t
load (_Atomic uint64_t *counter)
{
  return atomic_load_explicit (counter, memory_order_relaxed);
}

static void
store (_Atomic uint64_t *counter, uint64_t n)
{
  atomic_store_explicit (counter, n, memory_order_relaxed);
}

/* Begin an operation: count it and apply the faults.  Returns the number of
 * bytes to transfer at most, or -1 if it fails.
 */
static ssize_t
enter (struct mem_file *f, enum mem_op op, uint64_t offset, size_t count)
{
  const struct mem_faults *faults = &f->faults;
  struct counter *c = &f->counters[op];
  uint64_t largest = load (&c->largest);

  add (&c->calls, 1);
  while (count > largest &&
         !atomic_compare_exchange_weak_explicit (&c->largest, &largest, count,
                                                 memory_order_relaxed,
                                                 memory_order_relaxed))
    ;

  if (f->hook) {
    ssize_t r = f->hook (f->hook_opaque, op, offset, count);

    if (r == -1)
      return -1;
    count = (size_t) r;
  }
  if (faults->delay_us &&
      (op == MEM_PREAD || op == MEM_PWRITE || op == MEM_SYNC))
    usleep (faults->delay_us);
  if (faults->eintr_every > 1 && op != MEM_MAKE_WRITABLE &&
      add (&f->eintr_calls, 1) % faults->eintr_every == 0) {
    errno = EINTR;
    return -1;
  }
  if (faults->first > 0 && (faults->op == op || faults->op == MEM_ANY)) {
    uint64_t k = add (&f->fault_calls, 1);

    if (k >= faults->first && k - faults->first < faults->count) {
      errno = faults->err;
      return -1;
    }
  }
  if (faults->max_transfer && count > faults->max_transfer)
    count = faults->max_transfer;
  return (ssize_t) count;
}

/* ---- operations ---- */

static struct mem_file *
file (struct qed_storage *st)
{
  return ((struct mem_storage *) st)->f;
}

/* As the kernel: offsets and lengths are signed. */
static bool
too_large (uint64_t offset, size_t count)
{
  return offset > INT64_MAX || count > INT64_MAX - offset;
}

static ssize_t
op_pread (struct qed_storage *st, void *buf, size_t count, uint64_t offset)
{
  struct mem_file *f = file (st);
  ssize_t r = enter (f, MEM_PREAD, offset, count);

  if (r == -1)
    return -1;
  if (too_large (offset, count)) {
    errno = EINVAL;
    return -1;
  }
  pthread_rwlock_rdlock (&f->lock);
  if (offset >= f->size)
    r = 0;
  else {
    if ((uint64_t) r > f->size - offset)
      r = (ssize_t) (f->size - offset);
    get (f, buf, (size_t) r, offset);
  }
  pthread_rwlock_unlock (&f->lock);
  add (&f->counters[MEM_PREAD].bytes, (uint64_t) r);
  return r;
}

static ssize_t
op_pwrite (struct qed_storage *st, const void *buf, size_t count,
           uint64_t offset)
{
  struct mem_file *f = file (st);
  ssize_t r = enter (f, MEM_PWRITE, offset, count);

  if (r == -1)
    return -1;
  if (too_large (offset, count)) {
    errno = EFBIG;
    return -1;
  }
  pthread_rwlock_wrlock (&f->lock);
  if (f->device && offset + (size_t) r > f->size)
    r = offset < f->size ? (ssize_t) (f->size - offset) : -1;
  if (r > 0)
    put (f, buf, (size_t) r, offset);
  pthread_rwlock_unlock (&f->lock);
  if (r == -1) {
    errno = ENOSPC;
    return -1;
  }
  add (&f->counters[MEM_PWRITE].bytes, (uint64_t) r);
  return r;
}

ssize_t
mem_pwritev (struct qed_storage *st, const struct iovec *iov, int iovcnt,
             uint64_t offset)
{
  size_t count = 0;
  char *buf;
  ssize_t r;

  for (int i = 0; i < iovcnt; ++i)
    count += iov[i].iov_len;
  buf = allocate (count);
  count = 0;
  for (int i = 0; i < iovcnt; ++i) {
    memcpy (buf + count, iov[i].iov_base, iov[i].iov_len);
    count += iov[i].iov_len;
  }
  r = st->ops->pwrite (st, buf, count, offset);
  free (buf);
  return r;
}

static int64_t
op_get_size (struct qed_storage *st)
{
  struct mem_file *f = file (st);

  if (enter (f, MEM_GET_SIZE, 0, 0) == -1)
    return -1;
  return (int64_t) mem_size (f);
}

static int
op_resize (struct qed_storage *st, uint64_t size)
{
  struct mem_file *f = file (st);

  CHECK (!f->device);
  if (enter (f, MEM_RESIZE, size, 0) == -1)
    return -1;
  if (too_large (size, 0)) {
    errno = EINVAL;
    return -1;
  }
  mem_truncate (f, size);
  return 0;
}

static int
op_sync (struct qed_storage *st)
{
  return enter (file (st), MEM_SYNC, 0, 0) == -1 ? -1 : 0;
}

static int64_t
op_next_extent (struct qed_storage *st, uint64_t offset, bool *hole)
{
  struct mem_file *f = file (st);
  uint64_t size = mem_size (f);

  if (enter (f, MEM_NEXT_EXTENT, offset, 0) == -1)
    return -1;
  if (offset >= size) {         /* lseek gives ENXIO, of which the storage */
    *hole = true;               /* on real files makes this */
    return (int64_t) size;
  }
  if (f->faults.no_holes) {
    *hole = false;
    return (int64_t) size;
  }
  return (int64_t) mem_next_extent (f, offset, hole);
}

static int
op_prefetch (struct qed_storage *st, uint64_t offset, uint64_t length)
{
  struct mem_file *f = file (st);

  if (enter (f, MEM_PREFETCH, offset, length) == -1)
    return -1;
  add (&f->counters[MEM_PREFETCH].bytes, length);
  return 0;
}

static int
op_punch (struct qed_storage *st, uint64_t offset, uint64_t length)
{
  struct mem_file *f = file (st);

  if (enter (f, MEM_PUNCH, offset, length) == -1)
    return -1;
  if (f->faults.no_punch) {
    errno = EOPNOTSUPP;
    return -1;
  }
  CHECK (length > 0 && offset + length <= mem_size (f));
  mem_punch (f, offset, length);
  add (&f->counters[MEM_PUNCH].bytes, length);
  return 0;
}

static int
op_zero (struct qed_storage *st, uint64_t offset, uint64_t length)
{
  static const uint8_t zeros[4096];
  struct mem_file *f = file (st);

  if (enter (f, MEM_ZERO, offset, length) == -1)
    return -1;
  if (f->faults.no_zero) {
    errno = EOPNOTSUPP;
    return -1;
  }
  CHECK (length > 0 && offset + length <= mem_size (f));
  add (&f->counters[MEM_ZERO].bytes, length);
  while (length > 0) {
    size_t n = length < sizeof zeros ? length : sizeof zeros;

    mem_write (f, zeros, n, offset);
    offset += n;
    length -= n;
  }
  return 0;
}

static int64_t
op_free_space (struct qed_storage *st)
{
  uint64_t space = file (st)->faults.free_space;

  return space > 0 ? (int64_t) space : -1;
}

static int
op_make_writable (struct qed_storage *st)
{
  return enter (file (st), MEM_MAKE_WRITABLE, 0, 0) == -1 ? -1 : 0;
}

static void
op_close (struct qed_storage *st)
{
  struct mem_file *f = file (st);

  add (&f->counters[MEM_CLOSE].calls, 1);
  atomic_fetch_sub (&f->storages, 1);
  free (st);
}

static const struct qed_storage_ops mem_ops = {
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
  .free_space = op_free_space,
  .make_writable = op_make_writable,
  .close = op_close,
};

/* ---- for tests ---- */

struct mem_file *
mem_file_new (void)
{
  struct mem_file *f = calloc (1, sizeof *f);

  CHECK (f != NULL);
  CHECK (pthread_rwlock_init (&f->lock, NULL) == 0);
  return f;
}

void
mem_file_free (struct mem_file *f)
{
  CHECK_EQ (mem_open_storages (f), 0);
  discard (f, 0, f->n);
  free (f->chunks);
  pthread_rwlock_destroy (&f->lock);
  free (f);
}

struct qed_storage *
mem_open (struct mem_file *f)
{
  struct mem_storage *m = allocate (sizeof *m);

  m->st.ops = &mem_ops;
  m->st.name = MEM_NAME;
  m->st.fixed_size = f->device;
  m->f = f;
  atomic_fetch_add (&f->storages, 1);
  return &m->st;
}

/* A word of old content, in a device of SIZE bytes. */
static uint64_t
old_word (struct rng *rng, uint64_t size)
{
  switch (rng_below (rng, 4)) {
  case 0: return rng_next (rng) | 1;
  case 1: return rng_below (rng, 8) ? 0 : 1;
  default: return rng_below (rng, size / 4096) * 4096;
  }
}

void
mem_make_device (struct mem_file *f, uint64_t bytes)
{
  const uint64_t start = mem_size (f), end = start + bytes;
  struct rng rng = { end };
  uint64_t words[MEM_CHUNK / sizeof (uint64_t)];

  CHECK_EQ (start % MEM_CHUNK + bytes % MEM_CHUNK, 0);
  for (uint64_t o = start; o < end; o += sizeof words) {
    for (size_t i = 0; i < sizeof words / sizeof words[0]; ++i)
      words[i] = htole64 (old_word (&rng, end));
    words[0] |= htole64 (UINT64_C (0xa7) << 56 * (o / MEM_CHUNK % 2));
    mem_write (f, words, sizeof words, o);
  }
  f->device = true;
}

bool
mem_is_device (const struct mem_file *f)
{
  return f->device;
}

unsigned
mem_open_storages (const struct mem_file *f)
{
  return atomic_load (&f->storages);
}

uint64_t
mem_size (struct mem_file *f)
{
  uint64_t r;

  pthread_rwlock_rdlock (&f->lock);
  r = f->size;
  pthread_rwlock_unlock (&f->lock);
  return r;
}

void
mem_truncate (struct mem_file *f, uint64_t size)
{
  pthread_rwlock_wrlock (&f->lock);
  set_size (f, size);
  pthread_rwlock_unlock (&f->lock);
}

void
mem_read (struct mem_file *f, void *buf, size_t count, uint64_t offset)
{
  pthread_rwlock_rdlock (&f->lock);
  get (f, buf, count, offset);
  pthread_rwlock_unlock (&f->lock);
}

void
mem_write (struct mem_file *f, const void *buf, size_t count, uint64_t offset)
{
  CHECK (!too_large (offset, count));
  pthread_rwlock_wrlock (&f->lock);
  put (f, buf, count, offset);
  pthread_rwlock_unlock (&f->lock);
}

void
mem_punch (struct mem_file *f, uint64_t offset, uint64_t length)
{
  pthread_rwlock_wrlock (&f->lock);
  punch (f, offset, length);
  pthread_rwlock_unlock (&f->lock);
}

uint64_t
mem_next_extent (struct mem_file *f, uint64_t offset, bool *hole)
{
  uint64_t r;

  pthread_rwlock_rdlock (&f->lock);
  r = next_extent (f, offset, hole);
  pthread_rwlock_unlock (&f->lock);
  return r;
}

/* FNV-1a over the words that aren't zero and their offsets. */
uint64_t
mem_hash (struct mem_file *f)
{
  uint64_t h = UINT64_C (0xcbf29ce484222325) ^ f->size, word;

  for (size_t i = 0; i < f->n; i++)
    for (size_t j = 0; j < MEM_CHUNK; j += sizeof word) {
      memcpy (&word, f->chunks[i].data + j, sizeof word);
      if (word) {
        h = (h ^ (f->chunks[i].number * MEM_CHUNK + j)) *
          UINT64_C (0x100000001b3);
        h = (h ^ word) * UINT64_C (0x100000001b3);
        h ^= h >> 32;
      }
    }
  return h;
}

void
mem_set_faults (struct mem_file *f, const struct mem_faults *faults)
{
  f->faults = faults ? *faults : (struct mem_faults) { 0 };
  store (&f->fault_calls, 0);
  store (&f->eintr_calls, 0);
}

void
mem_set_hook (struct mem_file *f, mem_hook *hook, void *opaque)
{
  f->hook = hook;
  f->hook_opaque = opaque;
}

uint64_t
mem_calls (struct mem_file *f, enum mem_op op)
{
  uint64_t r = 0;

  if (op != MEM_ANY)
    return load (&f->counters[op].calls);
  for (int i = 0; i < MEM_NR_OPS; i++)
    if (i != MEM_CLOSE)
      r += load (&f->counters[i].calls);
  return r;
}

uint64_t
mem_bytes (struct mem_file *f, enum mem_op op)
{
  return load (&f->counters[op].bytes);
}

uint64_t
mem_largest (struct mem_file *f, enum mem_op op)
{
  return load (&f->counters[op].largest);
}

void
mem_reset_counters (struct mem_file *f)
{
  for (int i = 0; i < MEM_NR_OPS; i++) {
    store (&f->counters[i].calls, 0);
    store (&f->counters[i].bytes, 0);
    store (&f->counters[i].largest, 0);
  }
}
