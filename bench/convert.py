#!/usr/bin/env python3
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

"""Compare "qed-img convert" with "qemu-img convert" and nbdcopy, and "qed-img
compare" with "qemu-img compare".

Notes on the design:

The disk has runs of random bytes and holes by turns, of 64 KiB to 4 MiB: half
of it is data.  The image is made by qemu-img.  All programs have their default
options.  They take turns in each round, and the first round is thrown away.

Page cache: all files are in a tmpfs.  Disk: the source isn't in the page cache
before, and the time ends when the target is on the disk, for which a sync of it
follows each program; qed-img has synced it itself.

The output has medians, and ratios, which are above 1 if qed-img is faster, and
the peak resident memory of qed-img.  Nothing here fails because something is
slow: the exit status is 0 unless a program fails or the copies differ.
"""

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30


def make_raw(path, size):
    r = random.Random(0)
    offset, data = 0, True
    with open(path, "wb") as f:
        f.truncate(size)
        while offset < size:
            n = min(size - offset, 1 << r.randint(16, 22))
            if data:
                f.seek(offset)
                f.write(r.randbytes(n))
            offset += n
            data = not data


def run(argv):
    """Seconds, and MiB of memory, that a command takes."""
    start = time.monotonic()
    p = subprocess.Popen(argv, stdin=subprocess.DEVNULL,
                         stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(p.pid, 0)
    seconds = time.monotonic() - start
    p.returncode = os.waitstatus_to_exitcode(status)
    if p.returncode:
        sys.exit("convert.py: error: %s: exit status %d" %
                 (" ".join(argv), p.returncode))
    return seconds, usage.ru_maxrss / 1024


def forget(*paths):
    """Let nothing of the files be in the page cache."""
    for path in paths:
        with open(path, "rb") as f:
            os.fsync(f.fileno())
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sync(path):
    start = time.monotonic()
    with open(path, "rb") as f:
        os.fsync(f.fileno())
    return time.monotonic() - start


def one(program, sources, target, cold):
    """One program, once: seconds and memory."""
    if target and os.path.exists(target):
        os.unlink(target)
    if cold:
        forget(*sources)
    seconds, memory = run(program)
    if target and cold:
        seconds += sync(target)
    return seconds, memory


def row(name, programs, sources, target, cold):
    """Let the PROGRAMS, the first of which is ours, take turns."""
    results = [[] for _ in programs]
    for _ in range(opts.rounds + 1):
        for program, result in zip(programs, results):
            result.append(one(program, sources, target, cold))
    seconds = [statistics.median(s for s, _ in r[1:]) for r in results]
    memory = max(m for _, m in results[0])
    others = "".join("%9.2f" % s for s in seconds[1:]).ljust(18)
    ratios = "".join("%9.2f" % (s / seconds[0]) for s in seconds[1:]).ljust(18)
    print("  %-24s %8.2f %s %s %6.0f" %
          (name, seconds[0], others, ratios, memory), flush=True)


def bench(dir, cold):
    raw, qed, target = (os.path.join(dir, n)
                        for n in ("disk.raw", "disk.qed", "target"))
    make_raw(raw, opts.size * MiB)
    run([opts.qemu_img, "convert", "-f", "raw", "-O", "qed", raw, qed])
    where = "disk" if cold else "page cache"
    nbdcopy = [opts.wrapper, "-r", "-U", "-", "qed", qed, "--run",
               'nbdcopy "$uri" ' + target]
    row("QED to raw, " + where,
        [[opts.qed_img, "convert", qed, target],
         [opts.qemu_img, "convert", "-f", "qed", "-O", "raw", qed, target],
         nbdcopy], [qed], target, cold)
    nbdcopy = [opts.wrapper, "-U", "-", "qed", target, "--run",
               'nbdcopy %s "$uri"' % raw]
    create = [opts.qed_img, "create", "-q", target, str(opts.size * MiB)]
    row("raw to QED, " + where,
        [[opts.qed_img, "convert", "-O", "qed", raw, target],
         [opts.qemu_img, "convert", "-f", "raw", "-O", "qed", raw, target],
         ["sh", "-c", '"$@" && cd / && exec %s' %
          " ".join("'%s'" % a.replace("'", "'\\''") for a in nbdcopy),
          "sh", *create]], [raw], target, cold)
    if opts.compare:
        row("compare, " + where,
            [[opts.qed_img, "compare", raw, qed],
             [opts.qemu_img, "compare", "-f", "raw", "-F", "qed", raw, qed]],
            [raw, qed], None, cold)
    for path in raw, qed, target:
        os.unlink(path)


def huge(dir):
    """The largest disk that there is, with nothing in it."""
    path, target = (os.path.join(dir, n) for n in ("huge.qed", "target"))
    run([opts.qed_img, "create", "-q", path, "64T"])
    row("64 TiB of nothing", [[opts.qed_img, "convert", "-O", "qed", path,
                               target]], [path], target, False)


def parse_arguments():
    p = argparse.ArgumentParser(
        description="Benchmark qed-img convert and compare.")
    p.add_argument("--qed-img", metavar="PROGRAM", default="tools/qed-img")
    p.add_argument("--qemu-img", metavar="PROGRAM", default="qemu-img")
    p.add_argument("--wrapper", metavar="PROGRAM", default="./nbdkit",
                   help="nbdkit with the plugin [./nbdkit]")
    p.add_argument("--dir", metavar="DIR",
                   default=os.environ.get("TMPDIR", "."),
                   help="directory on a disk, for the files [$TMPDIR or here]")
    p.add_argument("--tmpfs", metavar="DIR", default="/dev/shm",
                   help="directory in memory [/dev/shm]")
    p.add_argument("--size", metavar="MIB", type=int, default=8192,
                   help="size of the disk, in MiB [8192]")
    p.add_argument("--rounds", type=int, metavar="N", default=3,
                   help="rounds, not counting the discarded one [3]")
    p.add_argument("--only", choices=("tmpfs", "disk"),
                   help="only files in memory, or on a disk")
    p.add_argument("--no-compare", dest="compare", action="store_false",
                   help="leave out compare")
    o = p.parse_args()
    if o.size < 1 or o.rounds < 1:
        p.error("--size and --rounds are at least 1")
    for program in (o.qed_img, o.qemu_img, o.wrapper, "nbdcopy"):
        if not shutil.which(program):
            p.error("%s: not found" % program)
    o.qed_img, o.wrapper = (os.path.abspath(shutil.which(x))
                            for x in (o.qed_img, o.wrapper))
    return o


def main():
    print("convert of %d MiB, half of it data: seconds, ratios, MiB of memory" %
          opts.size)
    print("                            qed-img qemu-img  nbdcopy"
          " qemu-img  nbdcopy qed-img")
    for dir, cold in (opts.tmpfs, False), (opts.dir, True):
        if opts.only == ("disk" if not cold else "tmpfs"):
            continue
        with tempfile.TemporaryDirectory(dir=dir) as d:
            bench(d, cold)
            if not cold:
                huge(d)


if __name__ == "__main__":
    opts = parse_arguments()
    main()
