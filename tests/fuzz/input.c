/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

#include <config.h>

#include "harness.h"
#include "input.h"

static uint64_t
get (const uint8_t *p, int bytes)
{
  uint64_t v = 0;

  for (int i = bytes - 1; i >= 0; i--)
    v = v << 8 | p[i];
  return v;
}

struct mem_file *
input_load (const uint8_t *data, size_t size)
{
  struct mem_file *f = mem_file_new ();
  uint64_t file_size;

  if (size < 8 || memcmp (data, "QED", 3) == 0) {
    mem_write (f, data, size, 0);
    return f;
  }

  file_size = get (data, 8) & INT64_MAX;
  data += 8;
  size -= 8;
  while (size > 10) {
    uint64_t offset = get (data, 8) & INT64_MAX, count = get (data + 8, 2);

    data += 10;
    size -= 10;
    if (count > size)
      count = size;
    if (count <= INT64_MAX - offset)
      mem_write (f, data, count, offset);
    data += count;
    size -= count;
  }
  mem_truncate (f, file_size);
  return f;
}

static void
put (FILE *fp, uint64_t v, int bytes)
{
  for (int i = 0; i < bytes; i++, v >>= 8)
    putc ((int) (v & 0xff), fp);
}

/* As pieces: each chunk that isn't a hole, without the zeros at its end. */
static void
save_sparse (struct mem_file *f, FILE *fp)
{
  uint64_t size = mem_size (f);

  put (fp, size, 8);
  for (uint64_t offset = 0; offset < size;) {
    uint8_t buf[MEM_CHUNK];
    size_t n = sizeof buf;
    bool hole;
    uint64_t next = mem_next_extent (f, offset, &hole);

    if (hole) {
      offset = next;
      continue;
    }
    mem_read (f, buf, sizeof buf, offset);
    while (n > 1 && buf[n - 1] == 0)
      n--;
    put (fp, offset, 8);
    put (fp, n, 2);
    CHECK_EQ (fwrite (buf, 1, n, fp), n);
    offset += sizeof buf;
  }
}

void
input_save (struct mem_file *f, bool sparse, const char *path)
{
  FILE *fp = fopen (path, "w");

  CHECK (fp != NULL);
  if (sparse)
    save_sparse (f, fp);
  else
    for (uint64_t offset = 0; offset < mem_size (f); offset += MEM_CHUNK) {
      uint64_t left = mem_size (f) - offset;
      size_t n = left < MEM_CHUNK ? left : MEM_CHUNK;
      uint8_t buf[MEM_CHUNK];

      mem_read (f, buf, n, offset);
      CHECK_EQ (fwrite (buf, 1, n, fp), n);
    }
  CHECK (fclose (fp) == 0);
}
