/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

#include <config.h>

#include "repaired.h"

static const char * __attribute__ ((format (printf, 1, 2)))
violation (const char *fmt, ...)
{
  static char why[300];
  va_list args;

  va_start (args, fmt);
  vsnprintf (why, sizeof why, fmt, args);
  va_end (args);
  return why;
}

int
repair (struct mem_file *f, enum qed_repair what,
        struct qed_repair_result *result)
{
  struct qed_storage *st = mem_open (f);
  int r, err;

  mem_reset_counters (f);
  r = qed_repair (st, what, NULL, result);
  err = errno;
  qed_storage_close (st);
  errno = err;
  return r;
}

uint64_t
changes (struct mem_file *f)
{
  return mem_calls (f, MEM_PWRITE) + mem_calls (f, MEM_RESIZE) +
    mem_calls (f, MEM_PUNCH) + mem_calls (f, MEM_ZERO) +
    mem_calls (f, MEM_SYNC);
}

void
take_before (struct before *b, struct mem_file *f, enum qed_repair what)
{
  struct model m;

  CHECK (model_open (&m, f));
  b->what = what;
  b->h = m.h;
  mem_read (f, b->header, sizeof b->header, 0);
  snapshot_take (&b->content, f);
  CHECK (damage_check (f, false, &b->check));
  b->hash = mem_hash (f);
}

void
free_before (struct before *b)
{
  snapshot_free (&b->content);
}

/* Only fields that a repair must change may have changed. */
static const char *
check_header (const struct before *b, const struct model *m)
{
  const struct qed_header *old = &b->h, *new = &m->h;

  if (new->features != (old->features & ~QED_F_NEED_CHECK))
    return violation ("clean: features are %#" PRIx64, new->features);
  if (new->cluster_size != old->cluster_size ||
      new->table_size != old->table_size ||
      new->header_size != old->header_size ||
      new->compat_features != old->compat_features ||
      new->image_size != old->image_size ||
      new->backing_filename_offset != old->backing_filename_offset ||
      new->backing_filename_size != old->backing_filename_size)
    return "content: header was changed";
  if (new->autoclear_features != 0 &&
      new->autoclear_features != old->autoclear_features)
    return "content: autoclear_features were changed";
  return NULL;
}

static const char *
check_end (const struct before *b, struct mem_file *f, enum snapshot_when when)
{
  struct qed_check_result r;
  struct snapshot content;
  const char *why;
  struct model m;

  if (!model_open (&m, f))
    return "content: not a valid image";
  why = check_header (b, &m);
  if (why)
    return why;
  CHECK (damage_check (f, false, &r));
  if (r.corruptions || r.leaks || r.need_check ||
      (!mem_is_device (f) && r.file_size != r.end))
    return violation ("clean: %" PRIu64 " corruptions, %" PRIu64 " leaks, "
                      "used %#" PRIx64 " of %#" PRIx64, r.corruptions, r.leaks,
                      r.end, r.file_size);
  snapshot_take (&content, f);
  why = snapshot_diff (&b->content, &content, when);
  snapshot_free (&content);
  return why;
}

const char *
check_repaired (const struct before *b, struct mem_file *f)
{
  return check_end (b, f, REPAIRED);
}

/* Is the file unchanged except for the header? */
static bool
is_untouched (const struct before *b, struct mem_file *f)
{
  uint8_t header[QED_HEADER_BYTES];
  bool r;

  mem_read (f, header, sizeof header, 0);
  mem_write (f, b->header, sizeof header, 0);
  r = mem_hash (f) == b->hash;
  mem_write (f, header, sizeof header, 0);
  return r;
}

const char *
check_interrupted (const struct before *b, struct mem_file *f)
{
  struct qed_repair_result result;
  struct qed_check_result r;
  struct snapshot content;
  const char *why;

  if (!damage_check (f, false, &r))
    return "content: not a valid image";
  if (!r.need_check && (r.corruptions || r.leaks) &&
      (b->check.need_check || !is_untouched (b, f)))
    return violation ("clean, but %" PRIu64 " corruptions, %" PRIu64 " leaks",
                      r.corruptions, r.leaks);
  snapshot_take (&content, f);
  why = snapshot_diff (&b->content, &content, INTERRUPTED);
  snapshot_free (&content);
  if (why)
    return why;
  if (repair (f, b->what, &result) == -1)
    return violation ("again: %s", qed_get_error ());
  return check_end (b, f, REPAIRED_LATER);
}
