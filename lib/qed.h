/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* The whole interface of the QED library: what plugin/, tools/ and tests/
 * include.
 *
 * lib/README is a map: the layers, and the way of an allocating write.
 *
 * Invariants I1-I10 are the design's, cited by these numbers in the code:
 *
 *   I1.  Mapping only grows: a cluster goes unallocated -> zero or data,
 *        zero -> data, and a data cluster stays where it is.  So a lookup
 *        that races with an allocation gets an answer that is right, and
 *        no lock is held across data I/O.
 *   I2.  Fresh space reads as zeros: clusters come from the end of the file,
 *        which is extended as a hole; where the storage has a size of its own,
 *        from space that was zeroed, durably, before.
 *   I3.  No link becomes durable before what it points to would be wrong
 *        without it.  Without a backing file fresh space reads as the
 *        unallocated cluster did, so entries are written at once, after
 *        the data, without a barrier.  With a backing file the data, and what
 *        was copied up around it, is durable first: links stay in memory
 *        until a commit, which writes many of them.
 *   I4.  Memory follows the disk: lookups see an entry when its write has
 *        succeeded; or, if it waits for a commit, when that of the data has.
 *   I5.  Flush and FUA return when everything acknowledged before them is
 *        durable.  A failed sync or commit is sticky: the image turns
 *        read-only.
 *   I6.  Clean means clean: NEED_CHECK is durable before the first change of
 *        metadata, and cleared, durably, when all is in order.
 *   I7.  Memory is bounded by cache_size, whatever the geometry.  A
 *        lookup that hits takes no lock and writes no memory that other
 *        threads read (but a mark that a slice was used, if it isn't set).
 *   I8.  Of two writers to one unallocated cluster the first allocates;
 *        the other waits for that and then writes in place.
 *   I9.  Nothing from the file is trusted.  Each entry is checked where
 *        it is used, against the file's length as it was at open or as
 *        the library has grown it, and arithmetic on offsets can't overflow.
 *   I10. A backing file, and an image opened read-only, are never written:
 *        not one byte.
 *
 * Errors: a function that fails returns -1 (or NULL) with errno set, and
 * leaves a message in qed_get_error (), which says which file, where, what
 * value, and the rule or what to do.  errno is what a client of the disk
 * should see: EIO for damage, EINVAL for a file that isn't a QED image or for
 * a bad argument, ENOTSUP for a valid image that needs an unsupported feature,
 * EBUSY for an image in use, EROFS for an image not opened for writing, else
 * what the system said.
 *
 * All offsets and lengths are bytes unless a name says clusters.
 */

#ifndef QED_H
#define QED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

/* ---- errors ---- */

/* The message of the last failure in this thread.  The string belongs to
 * the library and stays until the next failure in the same thread.
 */
extern const char *qed_get_error (void);

/* The length in bytes of the character at S, in UTF-8, if it must not be shown
 * raw, because it commands a terminal, or changes the order or the lines of
 * the text around it; else 0.
 */
extern size_t qed_control_length (const char *s);

/* Overwrite each byte of such characters with a question mark.  qed_get_error
 * returns messages masked in this way; qed_debug gets them unmasked.
 */
extern void qed_mask_controls (char *s);

/* Debug messages (no newline at the end) go here if it isn't NULL, and
 * with qed_trace_tables also a message for each table slice read.  Set
 * both before the first call, from one thread.
 */
extern void (*qed_debug) (const char *fmt, ...)
  __attribute__ ((format (printf, 1, 2)));
extern bool qed_trace_tables;

/* If it isn't NULL, calls that read all tables of an image (the check of
 * qed_make_writable, the first allocation, qed_check and what builds on it) or
 * zero space of a device ask this now and then, in their thread: true lets
 * them fail with ESHUTDOWN.
 * What they have changed by then is as safe as after a crash.
 */
extern bool (*qed_interrupted) (void);

/* ---- format: see format.c ---- */

/* Limits of the format: QED-FORMAT.md, Header. */
#define QED_HEADER_BYTES 64
#define QED_MIN_CLUSTER_SIZE (UINT32_C (1) << 12)
#define QED_MAX_CLUSTER_SIZE (UINT32_C (1) << 26)
#define QED_DEFAULT_CLUSTER_SIZE (UINT32_C (1) << 16)
#define QED_MIN_TABLE_SIZE UINT32_C (1)
#define QED_MAX_TABLE_SIZE UINT32_C (16)
#define QED_DEFAULT_TABLE_SIZE UINT32_C (4)
#define QED_SECTOR_SIZE UINT32_C (512)

/* A limit of NBD and of off_t, not of the format: sizes are signed. */
#define QED_MAX_IMAGE_SIZE ((UINT64_C (1) << 63) - QED_SECTOR_SIZE)

/* No path is longer (PATH_MAX); the format's limit is the header clusters. */
#define QED_MAX_BACKING_FILENAME 4095

/* Bits of features: QED-FORMAT.md, Header. */
#define QED_F_BACKING_FILE UINT64_C (0x01)
#define QED_F_NEED_CHECK UINT64_C (0x02)
#define QED_F_BACKING_FORMAT_NO_PROBE UINT64_C (0x04)
#define QED_F_KNOWN UINT64_C (0x07)

/* The header, decoded.  The fields are in the order of the file and have
 * its units: cluster_size in bytes, table_size and header_size in
 * clusters, the others in bytes.
 */
struct qed_header {
  uint32_t cluster_size;
  uint32_t table_size;
  uint32_t header_size;
  uint64_t features;
  uint64_t compat_features;
  uint64_t autoclear_features;
  uint64_t l1_table_offset;
  uint64_t image_size;
  uint32_t backing_filename_offset;
  uint32_t backing_filename_size;
};

/* What follows from a valid header.  Filled by qed_geometry_init. */
struct qed_geometry {
  unsigned cluster_bits;        /* log2 of the cluster size: 12 .. 26 */
  unsigned table_bits;          /* log2 of the entries in a table: 9 .. 27 */
  uint64_t cluster_size;
  uint64_t table_bytes;         /* one table, L1 or L2: 4 KiB .. 1 GiB */
  uint64_t header_bytes;        /* header clusters: < 2^32 */
  uint64_t l1_offset;
  uint64_t image_size;          /* the disk: a multiple of 512 */
};

/* Decode or encode the 64 bytes at the start of an image.  Decoding fails
 * with EINVAL if the magic isn't QED's, and looks at nothing else; NAME is
 * the file's, for the message.
 */
extern int qed_header_decode (const uint8_t buf[QED_HEADER_BYTES],
                              const char *name, struct qed_header *h);
extern void qed_header_encode (const struct qed_header *h,
                               uint8_t buf[QED_HEADER_BYTES]);

/* Check each field of a header against the rules of QED-FORMAT.md and the
 * length of the file that it was read from.  EINVAL: a field breaks a
 * rule; ENOTSUP: an unknown feature bit.
 */
extern int qed_header_validate (const struct qed_header *h,
                                uint64_t file_size, const char *name);

/* The part of the above that needs no file: cluster_size and table_size
 * are legal.  EINVAL if not.
 */
extern int qed_header_check_sizes (const struct qed_header *h,
                                   const char *name);

/* The geometry of a header whose sizes are legal. */
extern void qed_geometry_init (struct qed_geometry *g,
                               const struct qed_header *h);

/* The largest disk a geometry can map, in bytes: n * n * cluster_size for
 * n entries in a table, cut to QED_MAX_IMAGE_SIZE, which it can pass.
 */
extern uint64_t qed_max_image_size (const struct qed_geometry *g);

/* Why an L1 or L2 entry other than 0 (and, in L2, other than 1) may not be
 * followed, in words; or NULL: it is sound.  See QED-FORMAT.md, Tables and
 * clusters, and I9.  LENGTH is that of what it points to (a cluster or a
 * table); FILE_END the end of the file rounded down to a cluster;
 * OWN_TABLE the offset of the L2 table an L2 entry stands in, 0 for L1.
 */
extern const char *qed_entry_unsound (const struct qed_geometry *g,
                                      uint64_t entry, uint64_t length,
                                      uint64_t file_end, uint64_t own_table);

/* ---- magics: see magic.c ---- */

/* The bytes at the start of a file that suffice to recognise its format. */
#define QED_MAGIC_BYTES 512

/* The name of the format, as QEMU spells it, whose magic is in the COUNT bytes
 * at the start of a file; or NULL: none is known.  It is that of a disk image,
 * a compressed file or an archive.
 */
extern const char *qed_find_magic (const uint8_t *buf, size_t count);

/* What to do with a compressed file, or an archive, of that FORMAT, for the
 * end of a message.  NULL: FORMAT is neither.
 */
extern const char *qed_packed_advice (const char *format);

/* ---- storage: see storage.c, storage-file.c, storage-nbd.c ---- */

/* An image file behind a small table of operations: the one seam for real
 * files, fault injection and recording.  An implementation embeds this
 * struct as its first member.  Operations may be called from many threads
 * at once (close excepted) and behave like the system calls: they return
 * -1 with errno and leave no message, may transfer less than asked, and
 * may fail with EINTR; the callers in the library cope.
 */
struct qed_storage;
struct qed_storage_ops {
  ssize_t (*pread) (struct qed_storage *st, void *buf, size_t count,
                    uint64_t offset);
  ssize_t (*pwrite) (struct qed_storage *st, const void *buf, size_t count,
                     uint64_t offset);

  /* The same from IOVCNT buffers, one after the other. */
  ssize_t (*pwritev) (struct qed_storage *st, const struct iovec *iov,
                      int iovcnt, uint64_t offset);

  /* The file's length now, or -1. */
  int64_t (*get_size) (struct qed_storage *st);

  /* Set the file's length; bytes added read as zeros. */
  int (*resize) (struct qed_storage *st, uint64_t size);

  /* Everything written so far is durable when this returns 0.  Called by
   * QED_MAX_SYNCS threads at once at most.  A write that can't be made durable
   * fails each sync that is under way, not only one of them.
   */
#define QED_MAX_SYNCS 4
  int (*sync) (struct qed_storage *st);

  /* Set *HOLE to whether the byte at OFFSET (inside the file) lies in a
   * hole and return the offset where that changes, at most the file's
   * length, or -1.
   */
  int64_t (*next_extent) (struct qed_storage *st, uint64_t offset,
                          bool *hole);

  /* The range will be read soon. */
  int (*prefetch) (struct qed_storage *st, uint64_t offset, uint64_t length);

  /* Make a range inside the file read as zeros: punch gives its space back,
   * zero keeps it.  Neither changes the file's length nor takes as long as
   * writing; EOPNOTSUPP if that can't be had.
   */
  int (*punch) (struct qed_storage *st, uint64_t offset, uint64_t length);
  int (*zero) (struct qed_storage *st, uint64_t offset, uint64_t length);

  /* The content of a range isn't needed any more, whatever it reads as then.
   * May be NULL, and then punch does it.  EOPNOTSUPP if that can't be had.
   */
  int (*discard) (struct qed_storage *st, uint64_t offset, uint64_t length);

  /* How many bytes the filesystem can still give to the file, or -1.  May be
   * NULL: that isn't known.
   */
  int64_t (*free_space) (struct qed_storage *st);

  /* Called once before the first of pwrite, pwritev, resize, sync, punch and
   * zero.  Unlike the others it leaves a message when it fails.  EACCES, EPERM
   * or EROFS: we may not write; reading goes on.  make_readonly undoes it; none
   * of those is under way then.  Both may be NULL.
   */
  int (*make_writable) (struct qed_storage *st);
  void (*make_readonly) (struct qed_storage *st);

  /* The process has forked, and this is the child, which goes on alone.  May
   * be NULL.
   */
  void (*after_fork) (struct qed_storage *st);

  void (*close) (struct qed_storage *st);
};

struct qed_storage {
  const struct qed_storage_ops *ops;
  const char *name;             /* for messages; owned by the storage */
  bool rotational;              /* seeks are slow there, as far as known */
  bool fixed_size;              /* a block device, an NBD export: resize can't
                                   work, and what is behind the image may be
                                   anything */
  bool slow_zero;               /* punch and zero may take as long as writing */
  bool explains;                /* a failing operation leaves a message, but
                                   for next_extent */
  uint64_t device, inode;       /* which file it is; 0, 0: that isn't known */
};

/* Open what NAME is: an NBD URI (see qed_is_nbd_uri; a file of such a name is
 * ./NAME), or the path of a regular file or block device, which is opened
 * read-only.  With LOCK the locks of a reader are taken on a file or device
 * (DESIGN.md, Locking), which conflict with any writer: EBUSY.  Never blocks,
 * whatever a path leads to.  The locks survive a fork and are dropped with
 * the last copy of the descriptor.
 */
extern struct qed_storage *qed_storage_open (const char *name, bool lock);

/* The stages of qed_storage_open, for a caller that has to decide something
 * between them.  The others take a storage that was found.
 *
 * Find which file PATH is.  Nothing is done to it, and the operations don't
 * work yet.  Anything but a regular file or a block device is an error.
 */
extern struct qed_storage *qed_storage_find (const char *path);

/* The same for the file that the descriptor FD has open for reading at least.
 * FD stays the caller's.  The file is opened again for what is done to it, and
 * only where that isn't permitted FD's description of it is used.  It doesn't
 * become writable (EROFS) if FD isn't.  Its name is a path if it has one.
 */
extern struct qed_storage *qed_storage_find_fd (int fd);

/* The path of the file that was found, absolute and without symbolic links; or
 * of what has none, such as an export, its name.  The caller frees it.
 */
extern char *qed_storage_resolve (struct qed_storage *st);

/* Open that very file for reading. */
extern int qed_storage_begin (struct qed_storage *st);

/* Open what an NBD server exports, which URI names, and which may name files
 * with keys too; or what the program ARGV serves, which ends with a NULL: it is
 * started with a socket as systemd passes one, and ended by the close
 * operation.  It is looked for in PATH.  ENOTSUP: there is no libnbd.
 */
extern struct qed_storage *qed_storage_open_uri (const char *uri);
extern struct qed_storage *qed_storage_open_command (const char *const argv[]);

/* The process is about to end.  From now on an NBD server that doesn't answer
 * for some seconds is given up: all requests to it fail.  May be called from
 * any thread.
 */
extern void qed_hurry (void);

/* If it isn't NULL, a thread that has waited a second for an NBD server asks
 * this: is the process about to end?  If so that is as qed_hurry.
 */
extern bool (*qed_is_ending) (void);

/* Do the locks say that another process has the file of ST open for writing?
 * ST is from qed_storage_open.  -1: that filesystem, or an export, has no
 * locks.
 */
extern int qed_storage_is_written (struct qed_storage *st);

/* Call the close operation, which frees ST.  ST may be NULL. */
extern void qed_storage_close (struct qed_storage *st);

struct qed_image;

/* ---- extents ---- */

/* A function that is called for each extent of a range, in order, without
 * gaps.  Neighbours differ.  ZERO: the extent reads as zeros and takes no
 * space.  Returns 0 to go on, 1 to stop, -1 with errno (and the message that
 * its caller expects) to fail.
 */
typedef int qed_extent_fn (void *opaque, uint64_t offset, uint64_t length,
                           bool zero);

/* ---- backing files: see backing.c, backing-image.c ---- */

/* A backing file, which unallocated clusters are read from: a raw file,
 * another image, an NBD server.  An implementation embeds this struct as its
 * first member.  Operations may be called from many threads at once (close
 * excepted).  They get ranges inside SIZE only, and leave a message when they
 * fail (-1).  They never write (I10).
 */
struct qed_backing;
struct qed_backing_ops {
  /* Read exactly COUNT bytes. */
  int (*pread) (struct qed_backing *b, void *buf, size_t count,
                uint64_t offset);

  /* Call FN for the extents of a range, until it doesn't return 0.  Returns
   * -1 if that or FN failed.  FN must not call these operations: a connection
   * to a server may be in use meanwhile.
   */
  int (*extents) (struct qed_backing *b, uint64_t offset, uint64_t length,
                  qed_extent_fn *fn, void *opaque);

  /* The range will be read soon. */
  int (*prefetch) (struct qed_backing *b, uint64_t offset, uint64_t length);

  /* B is going to be closed, and requests that are under way aren't needed: let
   * them fail, rather than wait for a server.  May be NULL.
   */
  void (*interrupt) (struct qed_backing *b);

  void (*close) (struct qed_backing *b);
};

struct qed_backing {
  const struct qed_backing_ops *ops;
  const char *name;             /* for messages; owned by the backing */
  uint64_t size;                /* bytes; fixed */
  bool rotational;

  /* The file that it is read from, as in struct qed_storage: for map, RAW; for
   * all, what DEVICE and INODE say.
   */
  bool raw;                     /* it is the plain file NAME */
  uint64_t device, inode;       /* of a file; 0, 0: it is none of this machine,
                                   or that isn't known */

  /* Not NULL if it is an image. */
  struct qed_image *image;
};

/* A raw file, or an image, as a backing file.  It owns ST or IMG from now on;
 * on failure (NULL) the caller keeps it.
 */
extern struct qed_backing *qed_backing_raw (struct qed_storage *st);
extern struct qed_backing *qed_backing_image (struct qed_image *img);

/* Call the interrupt operation, if there is one.  B may be NULL. */
extern void qed_backing_interrupt (struct qed_backing *b);

/* Call the close operation, which frees B.  B may be NULL. */
extern void qed_backing_close (struct qed_backing *b);

/* ---- opening: see header.c, image.c ---- */

#define QED_DEFAULT_CACHE_SIZE ((size_t) 32 << 20)
#define QED_MIN_CACHE_SIZE ((size_t) 64 << 10)

/* Read the header of ST, and the backing file's name if it has one.  The
 * header is decoded and validated.  *BACKING, if not NULL, gets the name,
 * NUL-terminated, to be freed by the caller, or NULL if the image has no
 * backing file.
 */
extern int qed_read_header (struct qed_storage *st, struct qed_header *h,
                            char **backing);

/* Open the image in ST for reading with at most CACHE_SIZE bytes (at least
 * QED_MIN_CACHE_SIZE) of table cache.  The image owns ST from now on; on
 * failure the caller keeps it.  ENOTSUP: the image has a backing file.
 */
extern struct qed_image *qed_open (struct qed_storage *st, size_t cache_size);

/* The same for any image, on top of BACKING, whatever the image's header
 * names.  Where BACKING ends, and if it is NULL, unallocated clusters read as
 * zeros.  The image owns BACKING too; on failure the caller keeps both.
 */
extern struct qed_image *qed_open_overlay (struct qed_storage *st,
                                           struct qed_backing *backing,
                                           size_t cache_size);

/* ---- chains: see layers.c, chain.c, examine.c, names.c, source.c ---- */

/* The longest backing chain: images and files in all (I9). */
#define QED_MAX_CHAIN 64

/* QEMU takes the start of such a name for a protocol ("nbd:", "json:"). */
extern bool qed_has_protocol (const char *name);

/* Is it the URI of an NBD server (nbd, nbds, nbd+unix, nbds+unix)? */
extern bool qed_is_nbd_uri (const char *name);

/* The path of the backing file that the header of IMAGE names.  As in QEMU a
 * relative name starts at the directory in IMAGE's own name, symbolic link or
 * not.  To be freed.
 */
extern char *qed_backing_path (const char *image, const char *name);

/* The name of the format whose magic is in ST, as qed_find_magic says; "raw"
 * if there is none that we know; NULL: the file can't be read.
 */
extern const char *qed_probe (struct qed_storage *st);

/* Can it be the name of a format of qemu-nbd's, or "auto"? */
extern bool qed_is_format_name (const char *format);

/* Was the library built with libnbd?  If not, NBD servers and other formats
 * than raw and QED are ENOTSUP.
 */
extern const bool qed_have_libnbd;

struct qed_chain_options {
  /* What is below the image: a path, an NBD URI, "none" (a file of that name
   * is "./none"), or NULL: what the header says.
   */
  const char *backing;

  /* How that is read: "raw", "qed", "auto" (also NULL: look for a magic, unless
   * the header names the file and says that it is raw), or a format that
   * qemu-nbd knows.
   */
  const char *backing_format;

  /* Directories beneath which files may lie that are named in headers, as well
   * as beneath the directory of the image that names them.
   */
  const char *const *backing_dirs;
  size_t nr_backing_dirs;

  bool backing_uri;             /* headers may name NBD URIs */
  bool qed_img;                 /* messages are to advise options of qed-img's,
                                   not parameters of the plugin's */
  bool salvage;                 /* what unsound entries map reads as zeros, in
                                   all images of the chain, and is no data; the
                                   image may not be made writable */
  bool lock;                    /* take locks: qed_storage_open */
  bool share_backing;           /* but on the first layer only: what is below
                                   may be open for writing elsewhere */
  size_t cache_size;            /* bytes, for all the images together */
};

/* Open the image NAME (see qed_storage_open) and its backing chain, for
 * reading; qed_close closes all of it.  The strings of OPTS are used during
 * the call only.  Messages about a backing file name the image too.
 */
extern struct qed_image *qed_open_chain (const char *name,
                                         const struct qed_chain_options *opts);

/* The same for an image in ST, which it owns from now on, also on failure.  ST
 * was found, or is from qed_storage_open_uri or qed_storage_open_command; NULL:
 * that failed.
 */
extern struct qed_image *
qed_open_chain_in (struct qed_storage *st,
                   const struct qed_chain_options *opts);

/* A layer of a chain, as far as it is known without reading the disk. */
struct qed_layer {
  char *path;                   /* as it was reached; or an NBD URI */
  char *format;                 /* "qed", "raw", or one that qemu-nbd reads */
  bool qed;
  uint64_t virtual_size;        /* of the disk, in bytes: whole sectors */

  /* Open for reading; NULL: it is below an image, and read over NBD. */
  struct qed_storage *st;

  /* Only of a file or a device of this machine, not of an export: */
  bool is_file;
  uint64_t device, inode;       /* as in ST */
  uint64_t actual_size;         /* space allocated on the host, in bytes */

  /* Only of a QED image: */
  struct qed_header header;
  char *backing;                /* the name in the header, or NULL */
  char *full_backing;           /* what leads to it, followed or not; or NULL */
};

struct qed_layers {
  struct qed_layer layers[QED_MAX_CHAIN];
  size_t n;                     /* at least 1 */
  char *error;                  /* why the next one couldn't be opened; NULL:
                                   there is none, or it wasn't tried */
};

/* Examine the image NAME and BELOW layers below it, or as many as there are, by
 * the rules of qed_open_chain, with the same messages.  Only headers are read,
 * and qemu-nbd runs, if it has to, meanwhile only.  No locks are taken, unless
 * OPTS says so.  NULL: not even the first layer can be opened.
 */
extern struct qed_layers *
qed_examine_chain (const char *name, const struct qed_chain_options *opts,
                   size_t below);

/* The same for an image NAME that doesn't exist yet, on top of OPTS->backing,
 * which isn't NULL or "none", and is the first layer here.
 */
extern struct qed_layers *
qed_examine_new (const char *name, const struct qed_chain_options *opts);

/* ALL may be NULL. */
extern void qed_free_layers (struct qed_layers *all);

/* ---- the open image: see image.c, read.c, mapping.c ---- */

/* Make everything durable and, if the image is writable and in order, give
 * space back that failed calls had taken, mark it as clean and cut the file to
 * its last used cluster (I6).  If only the first of these fails the image
 * stays marked NEED_CHECK, which is no failure of this call.  Then free the
 * image and close its storage, also when that failed (-1).  No other call may
 * be under way or follow.  IMG may be NULL.
 */
extern int qed_close (struct qed_image *img);

/* IMG is going to be closed, and calls under way that wait for its backing file
 * aren't needed: they may fail.  May be called from any thread.
 */
extern void qed_interrupt (struct qed_image *img);

/* IMG goes on in this process, which was FORKED from the one that opened it, or
 * is the same.  Called before other threads use it, and only needed after a
 * fork, or after qed_make_writable with BEFORE_FORK.  -1: there is no thread.
 */
extern int qed_after_fork (struct qed_image *img, bool forked);

/* They belong to IMG, and change only in qed_resize, qed_set_backing and
 * qed_empty.
 */
extern const struct qed_header *qed_get_header (const struct qed_image *img);
extern bool qed_is_rotational (const struct qed_image *img);
extern const char *qed_get_name (const struct qed_image *img);

/* The calls below may be made from many threads at once.  A range that
 * isn't inside the disk is EINVAL.
 */

/* Read COUNT bytes of the disk at OFFSET.  EIO if an unsound entry maps a
 * part of the range, unless the chain was opened with salvage, or the file is
 * shorter than it was.
 */
extern int qed_pread (struct qed_image *img, void *buf, size_t count,
                      uint64_t offset);

/* A run: a range of the disk that is mapped in one way. */
enum qed_run_type {
  QED_RUN_UNALLOCATED,          /* L1 or L2 entry 0 */
  QED_RUN_ZERO,                 /* L2 entry 1 */
  QED_RUN_DATA,                 /* at file_offset and what follows it */
  QED_RUN_UNSOUND,              /* entries that may not be followed */
};
struct qed_run {
  enum qed_run_type type;
  uint64_t length;              /* from the offset that was asked for */
  uint64_t file_offset;         /* DATA: of that offset.
                                   UNSOUND: the first entry's value */
};

/* The run at OFFSET, at most LENGTH bytes (> 0).  It merges contiguous
 * clusters, and jumps over absent L2 tables.  It may end before the mapping
 * changes: a run of data does after some thousand clusters.
 */
extern int qed_map (struct qed_image *img, uint64_t offset, uint64_t length,
                    struct qed_run *run);

/* The extents of a range, through all that is below the image.  A range is
 * zero if nothing is allocated for it anywhere, if it was zeroed, or if the
 * file that it would be read from has a hole there.  Unsound clusters count as
 * data: reading them says what is wrong, but with salvage they are zeros.
 * Returns -1 if FN does.
 */
extern int qed_extents (struct qed_image *img, uint64_t offset,
                        uint64_t length, qed_extent_fn *fn, void *opaque);

/* Fetch the data of a range in the background, because it will be read soon.
 */
extern int qed_prefetch (struct qed_image *img, uint64_t offset,
                         uint64_t length);

/* ---- writing: see writable.c, write.c, zero.c, writer.c ---- */

/* After so many milliseconds without an allocation an image that is in order
 * is marked as clean, in the background.
 */
#define QED_DEFAULT_IDLE_MS 5000

/* A pending link of an overlay is made durable, in the background, after so
 * many milliseconds at most (I3).
 */
#define QED_DEFAULT_COMMIT_MS 800

struct qed_write_options {
  bool no_check;                /* refuse an image marked NEED_CHECK */
  unsigned idle_ms;             /* 0: no thread: it is marked in qed_close, and
                                   COMMIT_MS is as 0 */
  unsigned commit_ms;           /* 0: links wait for a flush */
  bool before_fork;             /* the thread is started by qed_after_fork */
};

/* Open the image for writing too: the storage, its writer's locks; unknown
 * autoclear bits are cleared; an image marked NEED_CHECK is checked, and
 * repaired where nothing can be lost by that (check.c).  Reading goes on
 * meanwhile.  Once it is writable it stays so, and calling this again does
 * nothing.
 *
 * Returns 0; or 1 if we may not write the file (EACCES, EPERM, EROFS, and a
 * message); or -1: EBUSY, the image is in use; EIO, it is corrupt, or marked
 * NEED_CHECK and may not be checked.  The image is then what it was: it can
 * be read, and this may be called again.  May be called from many threads at
 * once; before the process forks into the background only with BEFORE_FORK.
 */
extern int qed_make_writable (struct qed_image *img,
                              const struct qed_write_options *opts);

/* The calls below may be made from many threads at once, on an image that was
 * made writable (else EROFS).  A range that isn't inside the disk is EINVAL.
 * A call that fails with EINVAL, EROFS or ENOTSUP has changed nothing, nor has
 * one that is known in advance to need clusters that can't be allocated
 * (ENOSPC, EFBIG).  When a call fails with another error, each sector of the
 * range has old or new content.  After a failed sync, a failed commit, or a
 * failed write of metadata that could not be undone, all of them fail (I5).
 */
#define QED_FUA 1U              /* durable when the call returns */
#define QED_MAY_TRIM 2U         /* zeros need not take up space */
#define QED_FAST_ZERO 4U        /* ENOTSUP if slower than punching a hole */

/* FLAGS: QED_FUA. */
extern int qed_pwrite (struct qed_image *img, const void *buf, size_t count,
                       uint64_t offset, unsigned flags);

/* Make a range read as zeros.  Whole unallocated clusters become zero clusters
 * if there is a backing file.  FLAGS: any.
 */
extern int qed_zero (struct qed_image *img, uint64_t count, uint64_t offset,
                     unsigned flags);

/* The content of a range isn't needed any more.  It reads as zeros or as
 * before, and as the backing file only where it did before.  The host gets the
 * space back where the filesystem can give it.  FLAGS: QED_FUA.
 */
extern int qed_trim (struct qed_image *img, uint64_t count, uint64_t offset,
                     unsigned flags);

/* Make durable what was written by calls that have returned. */
extern int qed_flush (struct qed_image *img);

/* ---- copy-on-read and streaming: see copier.c, stream.c ---- */

struct qed_copy_options {
  bool on_read;                 /* keep in the image what is read from below */
  bool stream;                  /* copy all that is below into it; then let the
                                   header name no backing file, and close that
                                   */
  uint64_t rate;                /* streaming: bytes a second; 0: unlimited */
  unsigned retry_ms;            /* how long copying pauses after a failure */

  /* Something has failed that no call reports.  May be NULL.  Called in any
   * thread.
   */
  void (*say) (void *opaque, const char *fmt, ...)
    __attribute__ ((format (printf, 2, 3)));

  /* Streaming: DONE of TOTAL bytes of the disk have been read from below, and
   * most of them are kept.  They are equal only when the header names no
   * backing file.  May be NULL.
   */
  void (*progress) (void *opaque, uint64_t done, uint64_t total);
  void *opaque;
};
#define QED_DEFAULT_RETRY_MS 5000

/* Can that be done?  EINVAL: the backing file that the header names isn't open.
 * ENOTSUP: as qed_set_backing; or the clusters are too large for ON_READ.
 */
extern int qed_copier_check (struct qed_image *img,
                             const struct qed_copy_options *opts);

/* Begin to copy, in threads.  IMG was made writable, nothing uses it yet, since
 * streaming checks all tables first, and it is closed only after
 * qed_copier_stop.  OPTS is copied.  No acknowledged content depends on what is
 * copied: a crash loses copies only.
 */
struct qed_copier;
extern struct qed_copier *
qed_copier_start (struct qed_image *img, const struct qed_copy_options *opts);

/* End that, and free C, which may be NULL.  No other call is under way.  IMG is
 * closed next: its backing file may be of no use any more (qed_interrupt).
 */
extern void qed_copier_stop (struct qed_copier *c);

/* As qed_pread, but what is read from below is kept, if ON_READ says so.  It
 * does not wait for that, but may wait for memory (copier.c), and it fails only
 * where qed_pread would.
 */
extern int qed_copier_pread (struct qed_copier *c, void *buf, size_t count,
                             uint64_t offset);

/* A request of a client, of any kind, begins and ends: streaming makes way. */
extern void qed_copier_begin_request (struct qed_copier *c);
extern void qed_copier_end_request (struct qed_copier *c);

/* ---- create: see create.c ---- */

struct qed_create_options {
  uint64_t image_size;          /* bytes; rounded up to a sector */
  uint32_t cluster_size;        /* bytes; 0: the default */
  uint32_t table_size;          /* clusters; 0: the default */
  const char *backing;          /* name for the header, or NULL */
  bool backing_raw;             /* the backing file is raw: no probing */
};

/* Write an empty image into ST, which is open for writing, and sync it.  A
 * file must be empty.  Storage of a fixed size may hold anything: the header
 * cluster and the L1 table are overwritten, and nothing else.  If that fails or
 * is interrupted there is no image, or, before anything was written, the old
 * one.  ENOSPC: it is smaller than these two.  The disk may be larger than it.
 */
extern int qed_create_in (struct qed_storage *st,
                          const struct qed_create_options *opts);

/* Make an empty image, NAME: see qed_storage_open.
 *
 * A path: a regular file that no other process has open as an image (EBUSY) is
 * replaced.  When this returns 0 file and name are durable; when it fails the
 * file is as it was, unless it was the very last step that failed, the sync of
 * the directory.
 *
 * In a block device and on an export the image is made as qed_create_in does.
 * EBUSY: the device is open as an image, or mounted, or in use in another such
 * way.  EROFS: nothing can be written to the export, or not durably.
 */
extern int qed_create (const char *name,
                       const struct qed_create_options *opts);

/* ---- calls that take long ---- */

/* Called now and then, in the thread of the call: DONE of TOTAL, in units of
 * the call's own, never less than before.  FN calls nothing of the library.  A
 * pointer to it may be NULL.
 */
struct qed_progress {
  void (*fn) (void *opaque, uint64_t done, uint64_t total);
  void *opaque;
};

/* ---- map: see map.c ---- */

/* A range of the disk and the layer that it comes from, as qemu-img map tells.
 * DEPTH 0 is the image, 1 its backing file, and so on.
 */
struct qed_map_entry {
  uint64_t offset, length;      /* bytes of the disk */
  unsigned depth;
  bool present;                 /* some layer has something there */
  bool zero, data;              /* reads as zeros; takes space */
  bool unsound;                 /* an entry that may not be followed */
  bool shared;                  /* the clusters at FILE_OFFSET are those of
                                   another range too, or of a table; without
                                   HAS_OFFSET: the L2 table is another range's,
                                   and what it maps isn't told here again */
  bool has_offset;
  uint64_t file_offset;         /* HAS_OFFSET: in the file ... */
  const char *filename;         /* ... of this name, of the layer; or NULL */
};

/* Returns as a qed_extent_fn does. */
typedef int qed_map_fn (void *opaque, const struct qed_map_entry *e);

/* Call FN for all of a range, through all layers, in order, without gaps,
 * neighbours that could be one entry merged.  Holes in raw files are zeros,
 * those inside an image's clusters aren't looked for.  FN must not call
 * anything about IMG, for the reason that qed_backing_ops has.  Returns -1 if
 * FN does.
 */
extern int qed_map_layers (struct qed_image *img, uint64_t offset,
                           uint64_t length, qed_map_fn *fn, void *opaque);

/* The same for a disk of any kind, but what is shared isn't looked for: nothing
 * is told as such, and the tables of other ranges aren't read.  The range may
 * end in the sector that B ends in.
 */
extern int qed_map_disk (struct qed_backing *b, uint64_t offset,
                         uint64_t length, qed_map_fn *fn, void *opaque);

/* ---- usage of the file: see usage.c ---- */

/* What a range of an image file is used for. */
enum qed_use {
  QED_USE_HEADER,               /* header clusters */
  QED_USE_TABLE,                /* the L1 table, L2 tables */
  QED_USE_DATA,                 /* of the disk */
  QED_USE_SHARED,               /* by several L2 entries or tables */
  QED_USE_DAMAGED,              /* an entry that may not be followed */
};

typedef void qed_use_fn (void *opaque, enum qed_use use, uint64_t offset,
                         uint64_t length);

struct qed_usage {
  uint64_t file_size;           /* bytes; set before the first call of FN */
  uint64_t end;                 /* of what the image takes: in a file its last
                                   whole cluster, else the last one in use */
};

/* Tell FN of the ranges of IMG's file that are in use, in no particular order.
 * But for damaged entries, which are in tables, no byte is told twice; what
 * isn't told before END is leaked, as qed_check counts it.  Each call for data
 * is a piece that is contiguous in the file and in the order of the disk: on
 * that there may be what takes no data in between.  All tables are read twice.
 * EFBIG: as qed_check.
 */
extern int qed_file_usage (const struct qed_image *img, qed_use_fn *fn,
                           void *opaque, struct qed_usage *usage);

/* ---- check and repair: see check.c, repair.c ---- */

/* What can be wrong with an entry: QED-FORMAT.md, Tables and clusters. */
enum qed_damage {
  QED_DAMAGE_UNSOUND,           /* an L1 or L2 entry that may not be followed:
                                   the range can't be read; repaired it is
                                   unallocated */
  QED_DAMAGE_SHARED_TABLE,      /* an L2 table overlaps with that of an earlier
                                   range */
  QED_DAMAGE_IN_TABLE,          /* the data is inside an L2 table */
  QED_DAMAGE_SHARED_DATA,       /* the data cluster is another range's too */
  QED_NR_DAMAGES
};

struct qed_check_result {
  uint64_t damages[QED_NR_DAMAGES]; /* entries */
  uint64_t corruptions;         /* their sum */
  uint64_t leaks;               /* clusters that nothing refers to */
  uint64_t total_clusters;      /* of the disk */
  uint64_t allocated_clusters;  /* sound L2 entries that point to data */
  uint64_t fragmented_clusters; /* of those, not next to the one before */
  uint64_t zero_clusters;       /* L2 entries that say so */
  uint64_t unallocated;         /* bytes: see BELOW */
  uint64_t end;                 /* of the last cluster in use, in bytes */
  uint64_t file_size;           /* bytes; may end with part of a cluster */
  bool need_check;              /* the image is marked NEED_CHECK */
};

struct qed_check_options {
  const struct qed_progress *progress;

  /* How many of so many bytes at the start of the disk, which has at least as
   * many, aren't allocated?  As for qed_bytes_unallocated.
   */
  uint64_t below;

  /* If not NULL: what is found, as ranges of the disk (which may be beyond its
   * end, or empty for that reason), in no particular order, neighbours not
   * merged.  FILE_OFFSET: the entry.
   */
  void (*damage) (void *opaque, enum qed_damage damage, uint64_t offset,
                  uint64_t length, uint64_t file_offset);

  /* If not NULL: called after the last damage, if there was any, and before
   * anything is repaired.  -1: fail.
   */
  int (*told) (void *opaque);
  void *opaque;
};

/* How many of the first COUNT bytes of the disk, which has at least as many,
 * aren't allocated, so that they read as the backing file does?  Those that an
 * unsound entry maps count, too.  Each table is read once.
 */
extern int qed_bytes_unallocated (struct qed_storage *st, uint64_t count,
                                  uint64_t *bytes);

/* A range of the file, in bytes. */
struct qed_file_range {
  uint64_t offset, length;
};

/* An entry that points to FILE_LENGTH bytes at FILE_OFFSET, and the range of
 * the disk that it maps, cut at the end of the disk: an L1 entry, which points
 * to an L2 TABLE, or an L2 entry.
 */
typedef void qed_owner_fn (void *opaque, uint64_t file_offset,
                           uint64_t file_length, bool table, uint64_t offset,
                           uint64_t length);

/* Tell FN of all sound entries that point to what overlaps with one of N
 * ranges of the file.  These are sorted and disjoint.  Of L2 tables that
 * overlap the entries that they share are told once.
 */
extern int qed_find_owners (struct qed_storage *st,
                            const struct qed_file_range *ranges, size_t n,
                            qed_owner_fn *fn, void *opaque);

/* Check the image in ST, which is open for reading at least, and change
 * nothing.  Each table is read once.  Memory: two sets of clusters (bitmap.h),
 * a bit for each L1 entry, and 24 bytes for each L2 table.  EFBIG: they would
 * take too much.
 */
extern int qed_check (struct qed_storage *st,
                      const struct qed_check_options *opts,
                      struct qed_check_result *result);

/* Repair the image in ST, which is not in use, and which is made writable.
 *
 * LEAKS: clusters and tables from the end of the file are moved to where space
 * is leaked, and the file is cut.  Not while there are corruptions, since the
 * leaks may be what a damaged entry pointed to: then nothing is changed.  ALL:
 * before that unsound entries are cleared.  A range that shares a table or a
 * cluster with an earlier range, or has its data in a table, gets a copy.
 *
 * If it fails or is interrupted the image is no worse than before, is marked
 * NEED_CHECK, and can be repaired again.  What was found at the start is in
 * BEFORE (and goes to OPTS->damage), what is left in AFTER.
 */
enum qed_repair { QED_REPAIR_LEAKS, QED_REPAIR_ALL };
struct qed_repair_result {
  struct qed_check_result before, after;
  uint64_t corruptions_fixed;   /* entries */
  uint64_t leaks_fixed;         /* clusters, also such as came to light */
};
extern int qed_repair (struct qed_storage *st, enum qed_repair what,
                       const struct qed_check_options *opts,
                       struct qed_repair_result *result);

/* ---- resize, rebase, empty: see resize.c, rebase.c, empty.c ---- */

/* In all of these IMG is open for writing, no other call is under way, and
 * none but qed_close follows, unless that is said.  If they fail or are
 * interrupted the disk is as before, or as wanted, and the same call makes it
 * what is wanted.
 */

/* Change the disk's size.  SIZE: bytes, a multiple of 512.  EINVAL: more than
 * the geometry can map.  What is added reads as zeros, whatever the backing
 * file has there.  A smaller SIZE needs SHRINK (EINVAL); the clusters
 * beyond are given back.
 */
extern int qed_resize (struct qed_image *img, uint64_t size, bool shrink,
                       const struct qed_progress *progress);

/* Write NAME (NULL: none) into the header as that of the backing file, which
 * is RAW or is probed.  ENOTSUP: there are compat_features we don't know.
 * If there isn't room for the name in the header clusters what follows them is
 * moved, and they get more.  EIO: not in a corrupt image.  ENAMETOOLONG: nor
 * beyond 4 GiB.
 */
extern int qed_set_backing (struct qed_image *img, const char *name, bool raw);

/* Fail for one of these reasons, as that would.  IMG need not be writable. */
extern int qed_check_backing_name (struct qed_image *img, const char *name);

/* Copy into IMG what would read differently with the backing file TO (NULL:
 * zeros) than with the one it has.  Durable when it returns.  TO stays the
 * caller's.  qed_set_backing may follow.
 */
extern int qed_copy_differing (struct qed_image *img, struct qed_backing *to,
                               const struct qed_progress *progress);

/* Close IMG, which isn't writable, and return its backing file, or NULL: it
 * has none.
 */
extern struct qed_backing *qed_take_backing (struct qed_image *img);

/* Make all of the disk unallocated, and cut the file accordingly.  After a
 * failure or an interruption any part of the disk may be unallocated.
 */
extern int qed_empty (struct qed_image *img);

/* ---- commit: see commit.c; pairs: chain.c ---- */

/* Write what the image at PATH has into its backing file, which may be raw or
 * QED and grows if it is smaller, make that durable, then, unless KEEP, empty
 * the image.  The disk reads the same all the time, also if this fails or is
 * interrupted, and can be repeated.  CHAIN is to say nothing about the backing
 * file.  EINVAL: there is none.  ENOTSUP: it is of another kind.
 *
 * With BASE, which is the name of one of the files below the image, as it is
 * in a header, as it was reached, or of that very file, all that the image and
 * the layers in between have is written there, and the image isn't emptied.
 * These layers can't be used on their own afterwards.  EINVAL: there is no
 * such file below the image, or two.
 */
extern int qed_commit (const char *path, const char *base,
                       const struct qed_chain_options *chain, bool keep,
                       const struct qed_progress *progress);

/* An image and, opened apart from it, a file below it: either RAW or BASE. */
struct qed_pair {
  struct qed_image *img;        /* on top of the layers in between, images all,
                                   the lowest of them on top of NULL */
  struct qed_storage *raw;
  struct qed_image *base;
};

/* Open the image at PATH and its backing file or BASE, as for qed_commit, and
 * all that is below that; and close them.
 */
extern int qed_open_pair (const char *name, const char *base,
                          const struct qed_chain_options *opts,
                          struct qed_pair *pair);
extern void qed_close_pair (struct qed_pair *pair);

/* Commit in a pair, which is closed, also on failure.  KEEP must be true if
 * there are layers in between.  Returns 1 when the backing file has grown, and
 * nothing else is done: open it and call this again.
 */
extern int qed_commit_pair (struct qed_pair *pair, bool keep,
                            const struct qed_progress *progress);

/* The name under which a new file is written, or NULL.  A program that ends in
 * a signal handler, without qed_storage_close, may unlink it there.
 */
extern const char *volatile qed_unfinished_file;

/* ---- convert, measure: see convert.c, copy-disk.c, measure.c ---- */

struct qed_convert_options {
  bool qed;                     /* what is written is an image, else raw */
  bool existing;                /* the target exists, and stays the file that it
                                   is; else it is replaced, or new */
  bool target_is_zero;          /* an existing target reads as zeros now */
  const struct qed_chain_options *chain; /* of an image that exists */

  /* Of an image that is new.  Its size is that of the source.  BACKING is what
   * the name in CREATE stands for, and becomes the image's, also when the call
   * fails; NULL if there is no such name.
   */
  const struct qed_create_options *create;
  struct qed_backing *backing;
  bool own_only;                /* copy only what the image that is the source
                                   has itself, not what is below it */

  unsigned threads;             /* 1 .. QED_MAX_CONVERT_THREADS */
  uint64_t min_zeros;           /* bytes, a multiple of 512: so many zeros in a
                                   row take no space; 0: all zeros do */
  const struct qed_progress *progress;

  /* If not NULL: a range that can't be read is told, and is written as zeros.
   * One thread at a time.
   */
  void (*unreadable) (void *opaque, uint64_t offset, uint64_t length);
  void *opaque;
};
#define QED_MAX_CONVERT_THREADS 16
#define QED_DEFAULT_MIN_ZEROS UINT64_C (4096)
#define QED_MAX_MIN_ZEROS (UINT64_C (16) << 20)

/* Write the disk B to NAME: a file, a block device, an NBD URI, or (raw only)
 * "-", standard output.  Durable when it returns.  A new file has its name only
 * when it is complete.  After a failure, or when qed_interrupted says so
 * (ESHUTDOWN), an EXISTING target, or a device, may have any part of it.
 * EBUSY: B is read from the target, or OPTS->backing is.
 *
 * Standard output is made durable if it is a file.
 */
extern int qed_convert (struct qed_backing *b, const char *name,
                        const struct qed_convert_options *opts);

/* The length of a file, in bytes. */
struct qed_measure {
  uint64_t required;            /* with what the disk has */
  uint64_t fully_allocated;     /* with all of it in use */
};

/* How long will a new file be to which qed_convert, with OPTS, writes B?  It is
 * read, if that matters.  B NULL: an empty disk of the size in OPTS->create,
 * which is never NULL here.  OPTS->backing stays the caller's.
 */
extern int qed_measure (struct qed_backing *b,
                        const struct qed_convert_options *opts,
                        struct qed_measure *m);

/* ---- compare: see compare.c ---- */

enum qed_difference {
  QED_SAME,
  QED_DIFFERENT_SIZE,           /* only if that is asked for */
  QED_DIFFERENT_STATUS,         /* the same */
  QED_DIFFERENT_CONTENT
};

struct qed_compare_options {
  unsigned threads;             /* 1 .. QED_MAX_CONVERT_THREADS */

  /* The sizes must be the same, and of each byte whether a layer has something
   * there, and whether that is data or zeros: PRESENT, DATA and ZERO of struct
   * qed_map_entry.
   */
  bool strict;
  const struct qed_progress *progress;
};
#define QED_DEFAULT_COMPARE_THREADS 8

struct qed_compare_result {
  enum qed_difference difference; /* the first one on the disk */
  uint64_t offset;              /* where the status differs; or of the sector
                                   in which the content does */
  uint64_t sizes[2];            /* bytes, rounded up to sectors */
  bool status_failed;           /* on failure: there, no status can be had, as
                                   for an unsound entry; else data */
};

/* Compare two disks.  Where one has ended it reads as zeros.  The message of a
 * failure, which is for a range before the first difference, names the range.
 * ESHUTDOWN: qed_interrupted.
 */
extern int qed_compare_disks (struct qed_backing *a, struct qed_backing *b,
                              const struct qed_compare_options *opts,
                              struct qed_compare_result *result);

#endif /* QED_H */
