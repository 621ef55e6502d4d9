/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* What the files of qed-img share.  See qed-img.c. */

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

/* RUN returns the exit code.  Its argv[0] is the verb, and it starts with a
 * loop over next_option.
 */
struct verb {
  const char *name;
  int (*run) (int argc, char *argv[]);
  const char *synopsis;         /* of the arguments, in one line */
  const char *help;             /* the lines after that */
};

extern const struct verb verb_create, verb_info, verb_check, verb_map,
  verb_resize, verb_rebase, verb_commit;

/* getopt_long, with the answers to mistakes and to --help ('h'). */
extern int next_option (int argc, char *argv[], const char *shorts,
                        const struct option *longs);

/* The command line is wrong: say so and give up. */
extern void usage_error (const char *fmt, ...)
  __attribute__ ((noreturn, format (printf, 1, 2)));

/* The values of options that several verbs have.  Wrong ones are usage errors.
 * option_format: -f, which must be qed; option_cache: -t or -T, which must be a
 * cache mode of QEMU's, and means nothing; option_output: is it --output=json?
 */
extern void option_format (const char *value);
extern void option_cache (const char *option, const char *value);
extern bool option_output (const char *value);

/* --backing-dir=DIR, which may be repeated: append DIR to the list in OPTS,
 * which stays until the program exits.
 */
extern void option_backing_dir (struct qed_chain_options *opts,
                                const char *dir);

/* The exit code: STATUS if all output has been written. */
extern int finish (int status);

/* ---- text: text.c ---- */

/* These exit if there is no memory. */
extern void out_of_memory (void) __attribute__ ((noreturn));
extern char *xasprintf (const char *fmt, ...)
  __attribute__ ((format (printf, 1, 2)));
extern char *xvasprintf (const char *fmt, va_list args)
  __attribute__ ((format (printf, 1, 0)));

/* The length of the UTF-8 character at S, or 0 if there isn't a valid one. */
extern size_t utf8_length (const char *s);

/* Write one line for people: no control character of it reaches OUT raw. */
extern void say (FILE *out, const char *fmt, ...)
  __attribute__ ((format (printf, 2, 3)));

/* Say something on stderr, after the program's name. */
extern void complain (const char *fmt, ...)
  __attribute__ ((format (printf, 1, 2)));

/* Say what the library's last error is, and if it is that a file is in use that
 * -U would not mind about, that.
 */
extern void complain_unshared (void);

/* Parse a size: digits, decimals, suffix, as in 512, 64k, 1.5G.  -1 if S is
 * something else, wants parts of a byte, or is 2^64 or more.
 */
extern int parse_size (const char *s, uint64_t *size);

/* SIZE in three digits, as qemu-img writes it: "1.5 GiB".  To be freed. */
extern char *human_size (uint64_t size);

/* ---- progress: text.c ---- */

/* Option -p: on a terminal, on stdout, a line that is written over and over;
 * elsewhere nothing.
 *
 *     struct progress p;
 *
 *     r = qed_resize (img, size, shrink, progress_start (&p, wanted));
 *     progress_end (&p);
 *
 * One progress_start per call; progress_end before anything else is printed.
 */
struct progress {
  struct qed_progress callback;
  bool shown;                   /* there is a line to be ended */
  struct timespec last;         /* when it was written */
};

/* What to pass to the library: NULL if nothing is to be shown. */
extern const struct qed_progress *progress_start (struct progress *p,
                                                  bool wanted);
extern void progress_end (struct progress *p);

/* ---- JSON: json.c ---- */

/* Add VALUE, which becomes O's, under KEY. */
extern void add_json (struct json_object *o, const char *key,
                      struct json_object *value);
extern void add_number (struct json_object *o, const char *key,
                        uint64_t value);
extern void add_string (struct json_object *o, const char *key,
                        const char *value);

/* Print O on stdout, and drop it. */
extern void print_json (struct json_object *o);

/* ---- damaged ranges: damages.c ---- */

/* To be freed.  ST, which has H, is read for owners. */
struct damages;
extern struct damages *damages_new (struct qed_storage *st,
                                    const struct qed_header *h);

/* What struct qed_check_options has as damage and told. */
extern void damages_add (void *opaque, enum qed_damage damage,
                         uint64_t offset, uint64_t length,
                         uint64_t file_offset);
extern int damages_find_owners (void *opaque);

/* Print what was found or, with REPAIRED, what that has become. */
extern void damages_print (FILE *out, const struct qed_check_result *result,
                           struct damages *d, bool repaired);

/* ---- the chain: chain.c ---- */

enum format { FORMAT_PROBE, FORMAT_RAW, FORMAT_QED };

struct layer {
  char *path;                   /* as it was reached */
  dev_t dev;
  ino_t ino;
  enum format format;           /* never FORMAT_PROBE */
  uint64_t virtual_size;
  uint64_t actual_size;         /* space taken, in bytes */

  /* Of a QED image: */
  struct qed_header header;
  char *backing;                /* the name in the header, or NULL */
  char *full_backing;           /* where that leads from here, or NULL */
};

/* An image, its backing file, that one's, and so on.  Starts as zeros. */
struct chain {
  struct layer layers[QED_MAX_CHAIN];
  size_t n;
  char *error;                  /* why the next layer couldn't be added */
};

/* Append the file PATH, taking it for the format ASKED. */
extern int chain_add (struct chain *c, const char *path, enum format asked);

/* Append the backing file that IMAGE has under NAME. */
extern int chain_add_backing (struct chain *c, const char *image,
                              const char *name, enum format asked);

/* Append all that is below the last layer. */
extern int chain_add_rest (struct chain *c);

extern void chain_free (struct chain *c);

#endif /* QED_IMG_H */
