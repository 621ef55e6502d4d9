/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* qed-img check.
 *
 * The damaged ranges of the disk are collected while the library reads the
 * tables, and printed afterwards: see damages.c.
 */

#include <config.h>

#include <inttypes.h>
#include <string.h>

#include <json-c/json.h>

#include "qed-img.h"

struct args {
  const char *file;
  bool json, progress, quiet, share;
  bool repair;
  enum qed_repair what;
};

enum { CORRUPTIONS = 2, LEAKS = 3 }; /* exit codes */

/* With -U: how another program uses the image. */
struct use {
  bool written;                 /* it has the image open for writing */
  uint64_t reserved;            /* bytes at the end of the file that it has
                                   reserved for new clusters */
};

/* ---- human-readable output: qemu-img's lines, and some more ---- */

static double
percent (uint64_t part, uint64_t whole)
{
  return 100 * (double) part / (double) whole;
}

static void
print_use (const struct use *use, bool errors)
{
  char *size = human_size (use->reserved);

  if (use->reserved)
    say (stdout, "%s (%" PRIu64 " bytes) at the end of the file are reserved "
         "by the program that has the image open.", size, use->reserved);
  if (use->written && errors)
    say (stdout, "The image is open for writing: what is being changed may "
         "look like an error.");
  free (size);
}

static void
print_result (const struct args *args, const struct qed_check_result *r,
              const struct use *use)
{
  if (r->corruptions) {
    say (stdout, "%" PRIu64 " errors were found on the image.",
         r->corruptions);
    say (stdout, "Data may be corrupted, or further writes to the image may "
         "corrupt it.");
    if (r->leaks)
      say (stdout, "%s", "");
  }
  if (r->leaks) {
    say (stdout, "%" PRIu64 " leaked clusters were found on the image.",
         r->leaks);
    say (stdout, "This means waste of disk space, but no harm to data.");
  }
  if (r->corruptions == 0 && r->leaks == 0)
    say (stdout, "No errors were found on the image.");
  print_use (use, r->corruptions || r->leaks);
  if (r->need_check)
    say (stdout, "The image %s not closed cleanly: opening it for writing "
         "checks it first.", args->share ? "is in use, or was" : "was");
  if (r->total_clusters && r->allocated_clusters)
    say (stdout, "%" PRIu64 "/%" PRIu64 " = %.2f%% allocated, %.2f%% "
         "fragmented, 0.00%% compressed clusters", r->allocated_clusters,
         r->total_clusters, percent (r->allocated_clusters, r->total_clusters),
         percent (r->fragmented_clusters, r->allocated_clusters));
  say (stdout, "Image end offset: %" PRIu64, r->end);
}

/* Print what the repair changed, if anything. */
static void
print_repair (const struct qed_repair_result *r)
{
  if (r->before.file_size != r->after.file_size)
    say (stdout, "The file had %" PRIu64 " bytes and has %" PRIu64 " now.",
         r->before.file_size, r->after.file_size);
  if (r->before.need_check && !r->after.need_check)
    say (stdout, "The image is marked as closed cleanly now.");
  if (r->leaks_fixed || r->corruptions_fixed) {
    say (stdout, "The following inconsistencies were found and repaired:");
    say (stdout, "%s", "");
    say (stdout, "    %" PRIu64 " leaked clusters", r->leaks_fixed);
    say (stdout, "    %" PRIu64 " corruptions", r->corruptions_fixed);
    say (stdout, "%s", "");
    say (stdout, "Double checking the fixed image now...");
    say (stdout, "%s", "");
  }
}

/* ---- JSON: qemu-img's keys in its order ---- */

static void
add_count (json_object *o, const char *key, uint64_t count)
{
  if (count)
    add_number (o, key, count);
}

static void
print_result_json (const char *file, const struct qed_repair_result *r)
{
  const struct qed_check_result *after = &r->after;
  json_object *o = json_object_new_object ();

  add_count (o, "total-clusters", after->total_clusters);
  add_count (o, "image-end-offset", after->end);
  add_count (o, "corruptions", after->corruptions);
  add_count (o, "corruptions-fixed", r->corruptions_fixed);
  add_number (o, "check-errors", 0);
  add_count (o, "leaks", after->leaks);
  add_count (o, "leaks-fixed", r->leaks_fixed);
  add_count (o, "allocated-clusters", after->allocated_clusters);
  add_string (o, "filename", file);
  add_string (o, "format", "qed");
  add_count (o, "fragmented-clusters", after->fragmented_clusters);
  print_json (o);
}

/* ---- the verb ---- */

static void
parse_args (int argc, char *argv[], struct args *args)
{
  enum { OUTPUT = 256 };
  static const struct option longs[] = {
    { "force-share", no_argument, NULL, 'U' },
    { "format", required_argument, NULL, 'f' },
    { "help", no_argument, NULL, 'h' },
    { "output", required_argument, NULL, OUTPUT },
    { "repair", required_argument, NULL, 'r' },
    { NULL, 0, NULL, 0 }
  };
  int c;

  while ((c = next_option (argc, argv, ":f:hpqr:T:U", longs)) != -1)
    switch (c) {
    case 'f':
      option_format (optarg);
      break;
    case OUTPUT:
      args->json = option_output (optarg);
      break;
    case 'p':
      args->progress = true;
      break;
    case 'q':
      args->quiet = true;
      break;
    case 'r':
      args->repair = true;
      args->what = strcmp (optarg, "all") == 0 ? QED_REPAIR_ALL :
        QED_REPAIR_LEAKS;
      if (args->what == QED_REPAIR_LEAKS && strcmp (optarg, "leaks") != 0)
        usage_error ("-r: '%s': must be leaks or all", optarg);
      break;
    case 'T':
      option_cache ("-T", optarg);
      break;
    case 'U':
      args->share = true;
      break;
    }
  if (argc - optind != 1)
    usage_error ("expected one file name");
  if (args->repair && args->share)
    usage_error ("-U: an image that is in use can't be repaired");
  args->file = argv[optind];
}

uint64_t
check_take_reserved (struct qed_storage *st, uint32_t cluster_size,
                     struct qed_check_result *r)
{
  uint64_t clusters;

  if (st->fixed_size || r->file_size <= r->end ||
      qed_storage_is_written (st) != 1)
    return 0;
  clusters = (r->file_size - r->end) / cluster_size;
  r->leaks -= clusters < r->leaks ? clusters : r->leaks;
  return r->file_size - r->end;
}

/* Check the image, and repair it with -r.  Without -r the results before and
 * after are the same.
 */
static int
run (const struct args *args, struct qed_storage *st,
     const struct qed_header *h, struct damages *d,
     struct qed_repair_result *r, struct use *use)
{
  struct progress p;
  struct qed_check_options opts = {
    .progress = progress_start (&p, args->progress && !args->quiet),
    .damage = damages_add,
    .told = damages_find_owners,
    .opaque = d,
  };
  int err;

  if (args->repair)
    err = qed_repair (st, args->what, &opts, r);
  else {
    use->written = args->share && qed_storage_is_written (st) == 1;
    err = qed_check (st, &opts, &r->before);
    if (use->written)
      use->reserved = check_take_reserved (st, h->cluster_size, &r->before);
    r->after = r->before;
  }
  progress_end (&p);
  return err;
}

/* Print what was found and repaired, and return the exit code. */
static int
report (const struct args *args, const struct qed_repair_result *r,
        struct damages *d, const struct use *use)
{
  const struct qed_check_result *after = &r->after;

  if (!args->quiet) {
    /* qemu-img's JSON has no place for ranges. */
    damages_print (args->json ? stderr : stdout, &r->before, d,
                   r->corruptions_fixed > 0);
    if (args->json)
      print_result_json (args->file, r);
    else {
      print_repair (r);
      print_result (args, after, use);
    }
  }
  if (args->repair && args->what == QED_REPAIR_LEAKS && after->corruptions)
    complain ("%s: has corruptions, so nothing was changed: what looks like a "
              "leak may be data that they have lost: see -r all", args->file);
  return after->corruptions ? CORRUPTIONS : after->leaks ? LEAKS :
    EXIT_SUCCESS;
}

static int
check (int argc, char *argv[])
{
  struct args args = { .file = NULL };
  struct qed_repair_result result = { .leaks_fixed = 0 };
  struct use use = { .written = false };
  struct damages *d = NULL;
  struct qed_storage *st;
  struct qed_header h;
  int r = EXIT_FAILURE;

  parse_args (argc, argv, &args);
  st = qed_storage_open (args.file, !args.share);
  if (st && qed_read_header (st, &h, NULL) == 0) {
    d = damages_new (st, &h);
    if (run (&args, st, &h, d, &result, &use) == 0)
      r = report (&args, &result, d, &use);
    else if (!args.quiet) /* some entries may have been cleared already */
      damages_print (stderr, &result.before, d, false);
  }
  if (st == NULL && !args.repair)
    complain_unshared ();
  else if (r == EXIT_FAILURE)
    complain ("%s", qed_get_error ());
  qed_storage_close (st);
  free (d);
  return r;
}

const struct verb verb_check = {
  "check", check,
  "[--output=human|json] [-r leaks|all] [-p] [-q] [-T CACHE] [-U] FILE",

  "Check an image for errors, and with -r repair them.\n"
  "\n"
  "  -r, --repair=leaks|all\n"
  "                         leaks: free leaked clusters, unless there are\n"
  "                         errors; all: first clear table entries that are\n"
  "                         out of range, and copy clusters and tables that\n"
  "                         are referenced twice\n"
  "  -p, --progress         show progress on a terminal\n"
  "  -q, --quiet            print error messages only\n"
  "  -T, --cache=CACHE      QEMU's cache mode: accepted, no effect\n"
  "  -U, --force-share      check an image that is in use: changes made\n"
  "                         meanwhile may look like errors\n"
  "  -f, --format=qed       the format of FILE: must be qed\n"
  "  --output=human|json    the output format (default: human)\n"
  "\n"
  "Exit status: 0 no errors; 1 the image could not be checked or repaired;\n"
  "2 corruptions; 3 leaked clusters only.  With -r: what remains afterwards.\n"
};
