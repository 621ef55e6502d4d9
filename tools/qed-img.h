/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Declarations shared by the files of qed-img.  See qed-img.c. */

#ifndef QED_IMG_H
#define QED_IMG_H

#include <getopt.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <time.h>

#include "qed.h"

struct json_object;

/* ---- verbs: qed-img.c ---- */

/* RUN parses its arguments with next_option; argv[0] is the verb.  It returns
 * the exit code.
 */
struct verb {
  const char *name;
  int (*run) (int argc, char *argv[]);
  const char *synopsis;         /* the arguments, in one line */
  const char *help;             /* the lines below the synopsis */
};

extern const struct verb verb_create, verb_info, verb_check, verb_map,
  verb_resize, verb_rebase, verb_commit, verb_convert, verb_measure,
  verb_compare;

/* getopt_long, which also handles unknown options, those of qemu-img that are
 * left out, missing values and --help ('h').  It adds to LONGS the names that
 * qemu-img 10 has for the letters in SHORTS: see long_names.
 */
extern int next_option (int argc, char *argv[], const char *shorts,
                        const struct option *longs);

/* Print an error in the command line, and exit. */
extern void usage_error (const char *fmt, ...)
  __attribute__ ((noreturn, format (printf, 1, 2)));

/* Check the values of options that several verbs have; invalid values are
 * usage errors.  option_format: -f must be qed.  option_cache: -t and -T must
 * be one of QEMU's cache modes, and have no effect.  option_output: return
 * whether --output is json.
 */
extern void option_format (const char *value);
extern void option_cache (const char *option, const char *value);
extern bool option_output (const char *value);

/* The long options of verbs that open a backing chain: part of their list.  The
 * values of a verb's own ones begin at OPTION_OWN.
 */
enum {
  OPTION_BACKING_DIR = 256, OPTION_BACKING_FORMAT, OPTION_BACKING_URI,
  OPTION_OWN
};
#define CHAIN_OPTIONS_BELOW                                             \
  { "backing-dir", required_argument, NULL, OPTION_BACKING_DIR },       \
  { "backing-uri", no_argument, NULL, OPTION_BACKING_URI }
#define CHAIN_OPTIONS                                                   \
  CHAIN_OPTIONS_BELOW,                                                  \
  { "backing-format", required_argument, NULL, OPTION_BACKING_FORMAT }

/* Their part of the synopsis, and their lines of the help, whose column is that
 * of all verbs which use them.  BELOW: without the format, where -F has that.
 */
#define CHAIN_SYNOPSIS \
  "[--backing-dir=DIR] [--backing-format=FORMAT] [--backing-uri]"
#define CHAIN_HELP_DIR                                                   \
  "  --backing-dir=DIR      allow backing files beneath DIR, too; may be\n" \
  "                         repeated\n"
#define CHAIN_HELP_URI                                                   \
  "  --backing-uri          allow an NBD URI that a header names\n"
#define CHAIN_HELP_BELOW CHAIN_HELP_DIR CHAIN_HELP_URI
#define CHAIN_HELP                                                       \
  CHAIN_HELP_DIR                                                         \
  "  --backing-format=FORMAT\n"                                           \
  "                         how to read the backing file of the image: raw,\n" \
  "                         qed, auto (default), or a format of qemu-nbd's\n" \
  CHAIN_HELP_URI

/* Handle option C, if it is one of these, with its value in optarg.  False: it
 * isn't.  Lists in OPTS are never freed.
 */
extern bool option_chain (struct qed_chain_options *opts, int c);

/* The exit code of failures that any verb can have.  A verb whose exit code 1
 * has another meaning sets it at the start.
 */
extern int exit_failure;

/* Flush stdout.  Return the exit code: STATUS, or exit_failure if output is
 * lost.
 */
extern int finish (int status);

/* ---- options of a new image: image-options.c ---- */

/* The strings on the command line; those that are absent are NULL. */
struct image_options {
  const char *size;
  const char *cluster_size;
  const char *table_size;
  const char *backing;
  const char *backing_format;
};

/* Parse the value of one option -o, which is changed, and must stay.  Its
 * errors are usage errors.
 */
extern void parse_o (char *s, struct image_options *o);

/* Set the sizes in OPTS to those of O, or to the defaults; the image size stays
 * as it is if there is none.  FILE is the image's name, for messages.
 */
extern int parse_numbers (const struct image_options *o, const char *file,
                          struct qed_create_options *opts);

/* ---- text: text.c ---- */

/* xasprintf and xvasprintf exit if there is no memory. */
extern void out_of_memory (void) __attribute__ ((noreturn));
extern char *xasprintf (const char *fmt, ...)
  __attribute__ ((format (printf, 1, 2)));
extern char *xvasprintf (const char *fmt, va_list args)
  __attribute__ ((format (printf, 1, 0)));

/* The length of the UTF-8 character at S, or 0 if it is invalid. */
extern size_t utf8_length (const char *s);

/* Write one line of human-readable output to OUT, control characters escaped.
 */
extern void say (FILE *out, const char *fmt, ...)
  __attribute__ ((format (printf, 2, 3)));

/* Write a message to stderr, after the program's name. */
extern void complain (const char *fmt, ...)
  __attribute__ ((format (printf, 1, 2)));

/* Write the library's last error to stderr.  If it is a lock that -U would
 * ignore, the message says so.
 */
extern void complain_unshared (void);

/* Parse a size: digits, decimals, suffix, as in 512, 64k, 1.5G.  Return -1 if
 * S is malformed, has a fraction of a byte, or is 2^64 or more.
 */
extern int parse_size (const char *s, uint64_t *size);

/* SIZE with three significant digits, as qemu-img prints it: "1.5 GiB".  The
 * caller frees it.
 */
extern char *human_size (uint64_t size);

/* PART of WHOLE (> 0) in per cent, without the sign: "12.5", or "<0.1".  The
 * caller frees it.
 */
extern char *human_percent (uint64_t part, uint64_t whole);

/* ---- progress: text.c ---- */

/* Option -p: one line on stdout, overwritten as work goes on, if stdout is a
 * terminal; otherwise nothing.
 *
 *     struct progress p;
 *
 *     r = qed_resize (img, size, shrink, progress_start (&p, wanted));
 *     progress_end (&p);
 *
 * Each call needs its own progress_start.  Call progress_end before anything
 * else is printed.
 */
struct progress {
  struct qed_progress callback;
  bool shown;                   /* the line needs a newline at the end */
  struct timespec last;         /* when the line was last written */
};

/* Return the callback to pass to the library, or NULL to show nothing. */
extern const struct qed_progress *progress_start (struct progress *p,
                                                  bool wanted);
extern void progress_end (struct progress *p);

/* ---- JSON: json.c ---- */

/* Add VALUE under KEY.  O takes over the reference. */
extern void add_json (struct json_object *o, const char *key,
                      struct json_object *value);
extern void add_number (struct json_object *o, const char *key,
                        uint64_t value);
extern void add_string (struct json_object *o, const char *key,
                        const char *value);

/* Print O on stdout, and free it. */
extern void print_json (struct json_object *o);

/* ---- map as a drawing: map-svg.c ---- */

/* A drawing of IMG and LENGTH bytes of its disk from START on.  The file NAME
 * is read first (NULL: that failed); then the entries of the range are added,
 * all of them and in order, and then it is printed.  IMG stays open until
 * then, and NAME valid.
 */
struct map_svg;
extern struct map_svg *map_svg_new (const struct qed_image *img,
                                    const char *name, uint64_t start,
                                    uint64_t length);
extern void map_svg_add (struct map_svg *s, const struct qed_map_entry *e);
extern void map_svg_print (const struct map_svg *s);
extern void map_svg_free (struct map_svg *s); /* S may be NULL */

/* ---- damaged ranges: damages.c ---- */

/* The damaged ranges of the image in ST, with the header H.  ST must stay open
 * for damages_find_owners.  Release with free.
 */
struct damages;
extern struct damages *damages_new (struct qed_storage *st,
                                    const struct qed_header *h);

/* Callbacks for struct qed_check_options: damage and told. */
extern void damages_add (void *opaque, enum qed_damage damage,
                         uint64_t offset, uint64_t length,
                         uint64_t file_offset);
extern int damages_find_owners (void *opaque);

/* Print the damaged ranges; with REPAIRED, say how each was repaired. */
extern void damages_print (FILE *out, const struct qed_check_result *result,
                           struct damages *d, bool repaired);

/* ---- check.c ---- */

/* If another program has the image in ST, with the result *R, open for writing,
 * the clusters after the last one in use aren't leaked.  That program has
 * reserved them: it is going to use them or to truncate the file.  Take them
 * off R->leaks, and return their bytes.
 */
extern uint64_t check_take_reserved (struct qed_storage *st,
                                     uint32_t cluster_size,
                                     struct qed_check_result *r);

/* ---- statistics: stats.c ---- */

/* How an image uses its clusters, and its file; bytes. */
struct stats {
  struct qed_check_result check;
  uint64_t file;                /* without what is reserved */
  uint64_t used, leaked;        /* of that */
  uint64_t reserved;
};

/* Read all tables of the image in ST, which may be in use.  BELOW: see struct
 * qed_check_options.  -1: see qed_get_error.
 */
extern int stats_read (struct qed_storage *st, const struct qed_header *h,
                       uint64_t below, struct stats *s);
extern void stats_print (const struct stats *s);
extern struct json_object *stats_json (const struct stats *s);

/* ---- disks: disk.c ---- */

/* Tables are read in order, so few are needed. */
#define DISK_CACHE_SIZE ((size_t) 8 << 20)

/* Open the disk NAME, an image with its chain, or raw, for reading, and take
 * locks if OPTS says so.  FORMAT: "raw", "qed", or NULL: look for a magic.
 * OPTION is the option that gives the format.  NULL: a message has been
 * printed.
 */
extern struct qed_backing *open_disk (const char *name, const char *format,
                                      const char *option,
                                      const struct qed_chain_options *opts);

/* Let a signal end calls of the library in order: see qed_interrupted.  If that
 * takes long, because a server hangs, the program ends all the same, as it does
 * at the next signal.
 */
extern void catch_signals (void);

/* The value of -f or of another OPTION that names the format of a disk: must be
 * raw or qed.
 */
extern const char *option_disk_format (const char *option, const char *value);

/* The value of -O: is it qed?  It must be raw or qed. */
extern bool option_target_format (const char *value);

/* Open what the header of TARGET will name as its backing file, with -F FORMAT
 * or NULL.  *RAW: no probing.  NULL: a message has been printed.
 */
extern struct qed_backing *open_target_backing (const char *target,
                                                const char *name,
                                                const char *format,
                                                const struct
                                                qed_chain_options *opts,
                                                bool *raw);

/* How many threads should copy?  Servers answer many requests at once; for
 * files more than two for each CPU are in each other's way.
 */
extern unsigned default_threads (const char *source, const char *target);

/* ---- unreadable ranges: salvage.c ---- */

struct salvage {
  struct qed_file_range *ranges; /* of the disk */
  size_t n;
  uint64_t shared;              /* bytes whose L2 table is another range's */
  bool own_only;                /* what is below the image isn't copied */
};

/* Add a range: see struct qed_convert_options, unreadable. */
extern void salvage_add (void *opaque, uint64_t offset, uint64_t length);

/* Add the ranges that damaged entries of the chain of IMG map. */
extern int salvage_find_unsound (struct salvage *s, struct qed_image *img);

/* Print the ranges of the disk FILE as messages. */
extern void salvage_print (const struct salvage *s, const char *file);

/* ---- a backing file that the user names: backing.c ---- */

/* The value of -F.  It is a usage error if it can't be that of a format. */
extern const char *option_backing_format (const char *value);

/* Return what has to be opened as the backing file NAME of IMAGE, a path or a
 * URI, to be freed; NULL: a message has been printed.
 */
extern char *find_named (const char *image, const char *name);

/* Is NAME relative to the directory of IMAGE, but IMAGE an NBD export, which
 * has none?
 */
extern bool has_no_directory (const char *image, const char *name);

/* Notes on stderr: the backing file of IMAGE is raw, since nothing else is
 * known of it, or isn't known, for a reason.
 */
extern void note_taken_as_raw (const char *image, const char *path);
extern void note_unknown (const char *image, const char *name,
                          const char *why);

#endif /* QED_IMG_H */
