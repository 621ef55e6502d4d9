#!/usr/bin/env python3
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

"""Compare "qed-img check" with "qemu-img check" on images of much data.

Notes on the design:

The images have complete tables, but their data clusters are holes.  So an
image with hundreds of gigabytes of data takes only the space of its tables, and
a check reads no data.  The L2 tables are in random order in the file, each
followed by the clusters that it maps, as on a disk that was filled from many
places at once.

Both programs check each image in turns, first with a cold page cache and then
with all tables in it.  The first turn is thrown away.  The output has the
medians, their ratio, which is above 1 if qed-img is faster, and the peak
resident memory.

Nothing here fails because something is slow: the exit status is 0 unless
a program fails or qed-img finds an error, of which there are none.  (qemu-img
7.2 finds leaks where there are none, too.)
"""

import argparse
import array
import os
import random
import shutil
import statistics
import struct
import subprocess
import sys
import time

KiB, GiB = 1 << 10, 1 << 30

# Cluster size and clusters in a table: the smallest clusters, with which a
# disk can have that size, and the default.
GEOMETRIES = [(4 * KiB, 16), (64 * KiB, 4)]


def make_image(path, size, cluster_size, table_size):
    """An image of which each cluster is allocated."""
    table = cluster_size * table_size
    n = table // 8
    group = table + n * cluster_size    # an L2 table and what it maps
    start = cluster_size + table        # behind the L1 table
    count = -(-size // (n * cluster_size))
    order = random.Random(0).sample(range(count), count)
    assert count <= n and sys.byteorder == "little"
    with open(path + ".new", "wb") as f:
        f.write(struct.pack("<4s3I5Q2I", b"QED\0", cluster_size, table_size,
                            1, 0, 0, 0, cluster_size, size, 0, 0))
        os.ftruncate(f.fileno(), start + count * group)
        l1 = array.array("Q", (start + i * group for i in order))
        os.pwrite(f.fileno(), l1.tobytes(), cluster_size)
        for i, at in zip(range(count), l1):
            used = min(n, (size - i * n * cluster_size) // cluster_size)
            first = at + table
            entries = array.array("Q", range(first,
                                             first + used * cluster_size,
                                             cluster_size))
            os.pwrite(f.fileno(), entries.tobytes(), at)
        os.fsync(f.fileno())
    os.rename(path + ".new", path)


def forget(path):
    """Let nothing of the file be in the page cache."""
    with open(path, "rb") as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(argv, good):
    """Seconds, and MiB of memory, that a command takes."""
    start = time.monotonic()
    p = subprocess.Popen(argv, stdin=subprocess.DEVNULL,
                         stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(p.pid, 0)
    seconds = time.monotonic() - start
    p.returncode = os.waitstatus_to_exitcode(status)
    if p.returncode not in good:
        sys.exit("check.py: error: %s: exit status %d" %
                 (" ".join(argv), p.returncode))
    return seconds, usage.ru_maxrss / 1024


def compare(path):
    programs = [([opts.qed_img, "check", path], (0,)),
                ([opts.qemu_img, "check", "-f", "qed", path], (0, 3))]
    for cold in (True, False):
        results = [[], []]
        for turn in range(opts.rounds + 1):
            for (argv, good), r in zip(programs, results):
                if cold:
                    forget(path)
                r.append(measure(argv, good))
        qed, qemu = ([statistics.median(x) for x in zip(*r[1:])]
                     for r in results)
        print("  %-4s %9.2f %9.2f %8.2f %9.0f %9.0f" %
              ("cold" if cold else "warm", qed[0], qemu[0], qemu[0] / qed[0],
               qed[1], qemu[1]), flush=True)


def parse_arguments():
    p = argparse.ArgumentParser(
        description="Benchmark qed-img check beside qemu-img check.")
    p.add_argument("--qed-img", metavar="PROGRAM", default="tools/qed-img")
    p.add_argument("--qemu-img", metavar="PROGRAM", default="qemu-img")
    p.add_argument("--dir", metavar="DIR",
                   default=os.path.join(os.environ.get("TMPDIR", "."),
                                        "nbdkit-qed-bench"),
                   help="directory for the images, which are kept and used "
                   "again [nbdkit-qed-bench in $TMPDIR or here]")
    p.add_argument("--size", metavar="GIB", type=int, default=256,
                   help="data in an image, in GiB; at most 256 [256]")
    p.add_argument("--rounds", type=int, metavar="N", default=3,
                   help="rounds, not counting the discarded one [3]")
    o = p.parse_args()
    if not 1 <= o.size <= 256 or o.rounds < 1:
        p.error("--size is 1 to 256, --rounds at least 1")
    for program in (o.qed_img, o.qemu_img):
        if not shutil.which(program):
            p.error("%s: not found" % program)
    return o


def main():
    os.makedirs(opts.dir, exist_ok=True)
    print("check of %d GiB of data: seconds, and MiB of memory" % opts.size)
    print("         qed-img  qemu-img    ratio   qed-img  qemu-img")
    for cluster_size, table_size in GEOMETRIES:
        path = os.path.join(opts.dir, "check-%d-%d-%d.qed" %
                            (opts.size, cluster_size, table_size))
        if not os.path.exists(path):
            make_image(path, opts.size * GiB, cluster_size, table_size)
        print("clusters of %d KiB:" % (cluster_size // KiB))
        compare(path)


if __name__ == "__main__":
    opts = parse_arguments()
    main()
