/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* nbdkit qed file=disk.qed: serve a QED image.
 *
 * Notes on the design and implementation:
 *
 * Everything specific to QED is in lib/.  This file has only the callbacks and
 * most of the parameters; it would look the same for another image format.
 * Beside it are source.c, the parameters that say where the image is; and with
 * dir= directory.c, the exports, of which there are many then.
 *
 * All connections to an image share one struct qed_image, in an engine
 * (engine.c).  It has no per-connection state and the library's calls may run
 * in parallel, hence multi-conn.  .get_ready opens the image and its backing
 * files, so that errors in them appear before nbdkit goes into the background,
 * and .cleanup closes them.  With dir= an image is opened by its first
 * connection and closed by its last one.
 *
 * The image is opened read-only; .open makes it writable when the first
 * connection that is not read-only arrives.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "plugin.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

/* backing=, backing-format=, backing-dir= and backing-uri=, lock=, salvage=,
 * cache-size=.
 */
static struct qed_chain_options chain_options = {
  .lock = true,
  .cache_size = QED_DEFAULT_CACHE_SIZE,
};

/* The strings in chain_options that .unload must free. */
static char *backing_path;
static char **backing_dirs;

/* check= */
static struct qed_write_options write_options = {
  .idle_ms = QED_DEFAULT_IDLE_MS,
  .commit_ms = QED_DEFAULT_COMMIT_MS,
};

/* The image, from .get_ready to .cleanup, in the process READY_PID.  NULL with
 * dir=.
 */
static struct engine *the_engine;
static pid_t ready_pid;

/* -D qed.io=1 logs each request, -D qed.table=1 each read of a table slice;
 * -D qed.stream=1: see copying.c.
 */
NBDKIT_DLL_PUBLIC int qed_debug_io;
NBDKIT_DLL_PUBLIC int qed_debug_table;

#define trace_io(...)                                           \
  do {                                                          \
    if (__builtin_expect (qed_debug_io, 0))                     \
      nbdkit_debug (__VA_ARGS__);                               \
  } while (0)

/* ---- configuration ---- */

static void
qed_plugin_unload (void)
{
  for (size_t i = 0; i < chain_options.nr_backing_dirs; ++i)
    free (backing_dirs[i]);
  free (backing_dirs);
  free (backing_path);
  source_unload ();
}

static int
parse_backing (const char *value)
{
  free (backing_path);
  backing_path = NULL;
  chain_options.backing = value;
  if (strcmp (value, "none") != 0 && !qed_is_nbd_uri (value)) {
    if (qed_has_protocol (value) && access (value, F_OK) == -1) {
      complain ("backing=%s: there is no such file, and of URIs only "
                "nbd://, nbds://, nbd+unix:// and nbds+unix:// can be "
                "used", value);
      return -1;
    }
    chain_options.backing = backing_path = nbdkit_absolute_path (value);
    if (backing_path == NULL)
      return -1;
  }
  return 0;
}

static int
parse_backing_dir (const char *value)
{
  size_t n = chain_options.nr_backing_dirs;
  char **dirs = realloc (backing_dirs, (n + 1) * sizeof *dirs);
  struct stat st;

  if (dirs == NULL) {
    complain ("realloc: %m");
    return -1;
  }
  backing_dirs = dirs;
  chain_options.backing_dirs = (const char **) dirs;

  dirs[n] = nbdkit_realpath (value);
  if (dirs[n] == NULL)
    return -1;
  chain_options.nr_backing_dirs++;
  if (stat (dirs[n], &st) == -1) {
    complain ("backing-dir=%s: %m", value);
    return -1;
  }
  if (!S_ISDIR (st.st_mode)) {
    complain ("backing-dir=%s: must be a directory", value);
    return -1;
  }
  return 0;
}

static int
parse_cache_size (const char *value)
{
  int64_t r = nbdkit_parse_size (value);

  if (r == -1)
    return -1;
  if (r < (int64_t) QED_MIN_CACHE_SIZE || (uint64_t) r > SIZE_MAX / 2) {
    complain ("cache-size=%s: must be at least %zuK", value,
              QED_MIN_CACHE_SIZE / 1024);
    return -1;
  }
  chain_options.cache_size = (size_t) r;
  return 0;
}

static int
qed_plugin_config (const char *key, const char *value)
{
  int r = source_config (key, value);

  if (r == 1)
    r = copying_config (key, value);
  if (r != 1)
    return r;
  if (strcmp (key, "backing") == 0)
    return parse_backing (value);
  if (strcmp (key, "backing-format") == 0) {
    chain_options.backing_format = value;
    return 0;
  }
  if (strcmp (key, "backing-dir") == 0)
    return parse_backing_dir (value);
  if (strcmp (key, "backing-uri") == 0)
    return parse_bool (value, &chain_options.backing_uri);
  if (strcmp (key, "cache-size") == 0)
    return parse_cache_size (value);
  if (strcmp (key, "check") == 0) {
    write_options.no_check = strcmp (value, "never") == 0;
    if (!write_options.no_check && strcmp (value, "auto") != 0) {
      complain ("check=%s: must be auto or never", value);
      return -1;
    }
    return 0;
  }
  if (strcmp (key, "lock") == 0)
    return parse_bool (value, &chain_options.lock);
  if (strcmp (key, "salvage") == 0)
    return parse_bool (value, &chain_options.salvage);
  complain ("unknown parameter '%s': see nbdkit qed --help", key);
  return -1;
}

static int
qed_plugin_config_complete (void)
{
  if (source_config_complete () == -1 || copying_config_complete () == -1)
    return -1;
  if (copying_is_wanted () && chain_options.salvage) {
    complain ("salvage=true: the export is read-only then, so nothing can be "
              "copied into the image: leave out copy-on-read= and stream=");
    return -1;
  }
  return 0;
}

#define qed_plugin_config_help \
  "Where the image is (required, exactly one):\n" \
  "[file=]<FILENAME>                A file or block device.\n" \
  "uri=<URI>                        What an NBD server exports.\n" \
  "command=<PROGRAM>                What an NBD server exports that nbdkit " \
  "starts,\n" \
  "arg=<ARG>                        with these arguments (may be " \
  "repeated).\n" \
  "fd=<N>                           A file that the descriptor N has open.\n" \
  "dir=<DIR>                        Each image in the directory is an export " \
  "of\n" \
  "                                 its name.\n" \
  "Other parameters:\n" \
  "backing=<NAME>|<URI>|none        Use this backing file (default: the " \
  "one that the\n" \
  "                                 image's header names).\n" \
  "backing-format=raw|qed|auto|<FORMAT>\n" \
  "                                 Format of the backing file (default: " \
  "auto).\n" \
  "backing-dir=<DIR>                Allow backing files beneath DIR, too.\n" \
  "backing-uri=true|false           Allow headers to name NBD URIs " \
  "(default: false).\n" \
  "cache-size=<SIZE>                Memory for table slices (default: 32M).\n" \
  "check=auto|never                 Before writing to an image that was not " \
  "closed\n" \
  "                                 cleanly, check it or refuse " \
  "(default: auto).\n" \
  "copy-on-read=true|false          Keep in the image what is read from the " \
  "backing\n" \
  "                                 file (default: false).\n" \
  "lock=true|false                  Lock the image as QEMU does " \
  "(default: true).\n" \
  "salvage=true|false               Read damaged clusters as zeros; the " \
  "export is\n" \
  "                                 read-only (default: false).\n" \
  "stream=true|false                Copy all of the backing file into the " \
  "image, then\n" \
  "                                 use that alone (default: false).\n" \
  "stream-rate=<SIZE>               Copy so many bytes a second at most."

static void
qed_plugin_dump_plugin (void)
{
  printf ("qed_libnbd=%s\n", qed_have_libnbd ? "yes" : "no");
  printf ("qed_punch_hole=yes\n");
  printf ("qed_version=%s\n", PACKAGE_VERSION);
}

/* ---- the life of the server ---- */

/* How an image is made writable before nbdkit may go into the background. */
static struct qed_write_options
before_fork (void)
{
  struct qed_write_options opts = write_options;

  opts.before_fork = true;
  return opts;
}

static int
qed_plugin_get_ready (void)
{
  qed_debug = debug;
  qed_trace_tables = qed_debug_table != 0;
  ready_pid = getpid ();

  /* A write past RLIMIT_FSIZE must fail with EFBIG, not kill nbdkit. */
  signal (SIGXFSZ, SIG_IGN);

  if (source_directory () == NULL) {
    struct qed_storage *st = source_find ();

    if (st == NULL)
      return library_error ();
    the_engine = engine_open (st, &(struct engine_options) {
        .chain = &chain_options, .write = before_fork (),
      });
    if (the_engine == NULL)
      return -1;
  }
  return 0;
}

static int
qed_plugin_after_fork (void)
{
  /* Before the fork a signal simply ends the process. */
  ending_watch ();
  return the_engine ? engine_begin (the_engine, getpid () != ready_pid) : 0;
}

static void
qed_plugin_cleanup (void)
{
  qed_hurry ();
  engine_close_all ();
  the_engine = NULL;
}

/* ---- the exports ---- */

static int
qed_plugin_list_exports (int readonly UNUSED, int is_tls UNUSED,
                         struct nbdkit_exports *exports)
{
  const char *dir = source_directory ();

  return dir ? directory_list (dir, exports) :
    nbdkit_use_default_export (exports);
}

/* ---- a connection ---- */

static struct qed_image *
image_of (void *handle)
{
  return ((const struct handle *) handle)->image;
}

/* An engine for the export that the client wants. */
static struct engine *
find_engine (void)
{
  const char *dir = source_directory (), *name;

  if (dir == NULL) {
    engine_use (the_engine);
    return the_engine;
  }
  name = nbdkit_export_name ();
  return name ? engine_open (directory_find (dir, name),
                             &(struct engine_options) {
                               .chain = &chain_options,
                               .write = write_options,
                             }) : NULL;
}

/* 1: a connection may write; 0: it may not; -1: there is an error. */
static int
make_writable (struct qed_image *img)
{
  switch (qed_make_writable (img, &write_options)) {
  case 0:
    return 1;
  case 1:
    nbdkit_debug ("%s: the export is read-only", qed_get_error ());
    return 0;
  default:
    return library_error ();
  }
}

static void *
qed_plugin_open (int readonly)
{
  struct engine *e = find_engine ();
  int r = 0;

  if (e && !readonly && !chain_options.salvage)
    r = make_writable (engine_image (e));
  if (r == -1) {
    engine_close (e);
    e = NULL;
  }
  return e ? engine_handle (e, r == 1) : NULL;
}

static void
qed_plugin_close (void *handle)
{
  engine_close (((struct handle *) handle)->engine);
}

static int
qed_plugin_can_write (void *handle)
{
  return ((const struct handle *) handle)->writable;
}

static int64_t
qed_plugin_get_size (void *handle)
{
  /* An image size is at most QED_MAX_IMAGE_SIZE, which fits in int64_t. */
  return (int64_t) qed_get_header (image_of (handle))->image_size;
}

static const char *
qed_plugin_export_description (void *handle)
{
  const struct qed_header *h = qed_get_header (image_of (handle));

  return nbdkit_printf_intern ("QED image, cluster size %" PRIu32
                               ", table size %" PRIu32,
                               h->cluster_size, h->table_size);
}

static int
qed_plugin_block_size (void *handle, uint32_t *minimum,
                       uint32_t *preferred, uint32_t *maximum)
{
  /* NBD wants a power of two of 512 bytes to 32 MiB; clusters have at least
   * 4 KiB.
   */
  const uint32_t max_preferred = 32 * 1024 * 1024;
  uint32_t cluster_size = qed_get_header (image_of (handle))->cluster_size;

  *minimum = 1;
  *preferred = cluster_size < max_preferred ? cluster_size : max_preferred;
  *maximum = UINT32_MAX;
  return 0;
}

static int
qed_plugin_is_rotational (void *handle)
{
  return qed_is_rotational (image_of (handle));
}

static int
qed_plugin_can_multi_conn (void *handle UNUSED)
{
  return 1;
}

static int
qed_plugin_can_extents (void *handle UNUSED)
{
  return 1;
}

static int
qed_plugin_can_cache (void *handle UNUSED)
{
  return NBDKIT_CACHE_NATIVE;
}

static int
qed_plugin_can_fua (void *handle UNUSED)
{
  return NBDKIT_FUA_NATIVE;
}

/* qed_zero with QED_FAST_ZERO fails with ENOTSUP where it wouldn't be fast. */
static int
qed_plugin_can_fast_zero (void *handle UNUSED)
{
  return 1;
}

/* ---- requests ---- */

/* A request begins, and ends with the result R of the library's call. */
static struct qed_image *
begin (void *handle)
{
  const struct handle *h = handle;

  if (h->copier)
    qed_copier_begin_request (h->copier);
  return h->image;
}

static int
end (void *handle, int r)
{
  const struct handle *h = handle;

  if (h->copier)
    qed_copier_end_request (h->copier);
  return r == -1 ? library_error () : 0;
}

static int
qed_plugin_pread (void *handle, void *buf, uint32_t count,
                  uint64_t offset, uint32_t flags UNUSED)
{
  struct qed_copier *copier = ((const struct handle *) handle)->copier;
  struct qed_image *img = begin (handle);

  trace_io ("qed: pread count=%" PRIu32 " offset=%" PRIu64, count, offset);
  return end (handle, copier ? qed_copier_pread (copier, buf, count, offset) :
              qed_pread (img, buf, count, offset));
}

static int
qed_plugin_cache (void *handle, uint32_t count, uint64_t offset,
                  uint32_t flags UNUSED)
{
  trace_io ("qed: cache count=%" PRIu32 " offset=%" PRIu64, count, offset);
  return end (handle, qed_prefetch (begin (handle), offset, count));
}

/* Translate nbdkit's request flags into the library's. */
static unsigned
write_flags (uint32_t flags)
{
  return (flags & NBDKIT_FLAG_FUA ? QED_FUA : 0) |
    (flags & NBDKIT_FLAG_MAY_TRIM ? QED_MAY_TRIM : 0) |
    (flags & NBDKIT_FLAG_FAST_ZERO ? QED_FAST_ZERO : 0);
}

static int
qed_plugin_pwrite (void *handle, const void *buf, uint32_t count,
                   uint64_t offset, uint32_t flags)
{
  trace_io ("qed: pwrite count=%" PRIu32 " offset=%" PRIu64 " flags=0x%"
            PRIx32, count, offset, flags);
  return end (handle, qed_pwrite (begin (handle), buf, count, offset,
                                  write_flags (flags)));
}

static int
qed_plugin_zero (void *handle, uint32_t count, uint64_t offset,
                 uint32_t flags)
{
  trace_io ("qed: zero count=%" PRIu32 " offset=%" PRIu64 " flags=0x%"
            PRIx32, count, offset, flags);
  return end (handle, qed_zero (begin (handle), count, offset,
                                write_flags (flags)));
}

static int
qed_plugin_trim (void *handle, uint32_t count, uint64_t offset,
                 uint32_t flags)
{
  trace_io ("qed: trim count=%" PRIu32 " offset=%" PRIu64 " flags=0x%"
            PRIx32, count, offset, flags);
  return end (handle, qed_trim (begin (handle), count, offset,
                                write_flags (flags)));
}

static int
qed_plugin_flush (void *handle, uint32_t flags UNUSED)
{
  trace_io ("qed: flush");
  /* nbdkit offers flushes on read-only connections too. */
  if (!((const struct handle *) handle)->writable)
    return 0;
  return end (handle, qed_flush (begin (handle)));
}

struct extents_request {
  struct nbdkit_extents *extents;
  bool one;
  bool add_failed;              /* nbdkit has logged the error */
};

static int
add_extent (void *opaque, uint64_t offset, uint64_t length, bool zero)
{
  struct extents_request *req = opaque;

  if (nbdkit_add_extent (req->extents, offset, length,
                         zero ? NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO : 0)
      == -1) {
    req->add_failed = true;
    return -1;
  }
  return req->one;
}

static int
qed_plugin_extents (void *handle, uint32_t count,
                    uint64_t offset, uint32_t flags,
                    struct nbdkit_extents *extents)
{
  struct extents_request req = {
    .extents = extents,
    .one = (flags & NBDKIT_FLAG_REQ_ONE) != 0,
  };
  int r;

  trace_io ("qed: extents count=%" PRIu32 " offset=%" PRIu64 " req_one=%d",
            count, offset, req.one);
  r = qed_extents (begin (handle), offset, count, add_extent, &req);
  if (r == -1 && req.add_failed) {
    (void) end (handle, 0);
    return -1;
  }
  return end (handle, r);
}

static struct nbdkit_plugin plugin = {
  .name = "qed",
  .longname = "nbdkit QED plugin",
  .version = PACKAGE_VERSION,
  .description = "Serve disk images in QEMU's QED format.",
  .unload = qed_plugin_unload,
  .config = qed_plugin_config,
  .config_complete = qed_plugin_config_complete,
  .config_help = qed_plugin_config_help,
  .magic_config_key = "file",
  .dump_plugin = qed_plugin_dump_plugin,
  .get_ready = qed_plugin_get_ready,
  .after_fork = qed_plugin_after_fork,
  .cleanup = qed_plugin_cleanup,
  .list_exports = qed_plugin_list_exports,
  .open = qed_plugin_open,
  .close = qed_plugin_close,
  .get_size = qed_plugin_get_size,
  .export_description = qed_plugin_export_description,
  .block_size = qed_plugin_block_size,
  .is_rotational = qed_plugin_is_rotational,
  .can_multi_conn = qed_plugin_can_multi_conn,
  .can_extents = qed_plugin_can_extents,
  .can_cache = qed_plugin_can_cache,
  .can_write = qed_plugin_can_write,
  .can_fua = qed_plugin_can_fua,
  .can_fast_zero = qed_plugin_can_fast_zero,
  .pread = qed_plugin_pread,
  .pwrite = qed_plugin_pwrite,
  .zero = qed_plugin_zero,
  .trim = qed_plugin_trim,
  .flush = qed_plugin_flush,
  .extents = qed_plugin_extents,
  .cache = qed_plugin_cache,
  .errno_is_preserved = 1,
};

/* NBDKIT_REGISTER_PLUGIN defines this function without declaring it. */
extern struct nbdkit_plugin *plugin_init (void);

NBDKIT_REGISTER_PLUGIN (plugin)
