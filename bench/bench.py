#!/usr/bin/env python3
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

"""Compare this plugin, qemu-nbd on the same QED image, and nbdkit's file
plugin on a raw image of the same content; or, for writes over a backing file,
nbdkit's cow filter on that file, which keeps nothing.  And for images on an
export of "nbdkit file": this plugin, nbdkit's nbd plugin on the raw one, and
this plugin on the file itself.

Notes on the design:

A workload is one line of WORKLOADS.  In each round each server is measured
once, and the order rotates from round to round.  So a disturbance of the
machine hits all servers alike.  The first round of each workload warms up and
is thrown away.

Read workloads: all servers are started afresh, on the same images, and stay
up, idle until their turn.

Write workloads: for each turn an image is made, synced, served by a server
that is started for it, and removed.  So a fresh image is fresh in each round,
and dirty pages of one server don't slow down the next.  A workload on a fresh
image ends after a fixed amount of data, so that it neither wraps around and
writes in place, nor fills the disk; with a slow server it ends when the time
is up.  Random writes over a backing file gradually become in-place writes:
there each server does the same work, however long it takes.  The memory for a
fresh image is touched beforehand: a virtual machine may return memory that was
free for some seconds to the host, and getting it back takes many times longer
than what is measured.

The output has the medians over the rounds, and ratios: the median over the
rounds of the ratio within a round, which cancels a slow drift of the machine.
(So it isn't quite the quotient of two medians in the table.)  A ratio above 1
means that the first server of the table is faster, for rates and for times.

Nothing here fails because something is slow: the exit status is 0 unless
a server or a tool fails.  Targets are reported as "ok" or "below".
"""

import argparse
import collections
import ctypes
import importlib.util
import json
import mmap
import os
import platform
import random
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

KiB, MiB, GiB, TiB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

CLUSTER = 64 * KiB              # of the QED images
STRIDE = 32 * MiB               # the sparse image has a data cluster in each

# ---------------------------------------------------------------------------
# How to measure.  unit, and sign: +1 if bigger is better, -1 if smaller is;
# run (server, turn) returns the figure of one turn.


class Fio:
    """fio jobs over the NBD engine: IOPS, or MiB/s if bs is large; reads and
    writes are added up.  limit: bytes after which they end.  exact: they don't
    end before, and no block is written twice.  once: they end after one pass
    over the disk.  jobs: number of connections, each with the given iodepth
    and its part of the limit."""

    sign = 1

    def __init__(self, rw, bs, iodepth, *extra, limit=None, exact=False,
                 once=False, jobs=1):
        self.unit = "MiB/s" if bs >= MiB else "IOPS"
        self.limit, self.exact = limit, exact
        self.args = ["--rw=%s" % rw, "--bs=%d" % bs,
                     "--iodepth=%d" % iodepth,
                     "--numjobs=%d" % jobs, "--group_reporting", *extra]
        if limit:
            self.args.append("--io_size=%d" % (limit // jobs))
        elif not once:
            self.args.append("--time_based")
        if not exact:
            self.args.append("--norandommap")

    def run(self, server, turn):
        # --thread: no child process that could outlive fio.  The seed gives
        # all servers the same offsets in a round, and other ones in the next.
        out = call(["fio", "--name=bench", "--thread", "--ioengine=nbd",
                    "--uri=" + server.uri,
                    *([] if self.exact else ["--runtime=%g" % opts.seconds]),
                    "--randseed=%d" % (turn + 1),
                    "--output-format=json", *self.args])
        # fio may print notes before the JSON.
        job = json.loads(out[out.index("{"):])["jobs"][0]
        if job["error"]:
            raise Failure("fio: job failed with error %d" % job["error"])
        if self.unit == "IOPS":
            return job["read"]["iops"] + job["write"]["iops"]
        return (job["read"]["bw_bytes"] + job["write"]["bw_bytes"]) / MiB


class Timed:
    """The time a command takes, "URI" standing for the server, "IMAGE" for
    what the server has opened, and "QED-IMG" for the program.  The command is
    repeated for as long as a fio job would run, and the median taken."""

    sign = -1
    unit = "s"

    def __init__(self, *argv):
        self.argv = argv

    def run(self, server, turn):
        words = {"URI": server.uri, "IMAGE": server.image,
                 "QED-IMG": opts.qed_img}
        argv = [words.get(a, a) for a in self.argv]
        times = []
        start = time.monotonic()
        while not times or time.monotonic() - start < opts.seconds:
            t = time.monotonic()
            call(argv, stdout=subprocess.DEVNULL)
            times.append(time.monotonic() - t)
        return statistics.median(times)


class Zero:
    """The time it takes to zero the whole disk, a request after the other."""

    sign = -1
    unit = "s"
    limit = None

    def run(self, server, turn):
        # This is nbdsh, with the right python.  The time to start it and to
        # connect doesn't count.
        return float(call([sys.executable, "-m", "nbd", "--uri", server.uri,
                           "-c", """
import time
size, step = h.get_size(), 32 << 20
start = time.monotonic()
for offset in range(0, size, step):
    h.zero(min(step, size - offset), offset)
print(time.monotonic() - start)
"""]))


# ---------------------------------------------------------------------------
# What to measure.  servers: the one that is judged, and one or two that it is
# compared with; target and second are the least ratios to reach against these;
# mem: the most memory (MiB) the first server may have used; fs: the second
# ratio is only meant for this filesystem.

LOCAL = "qed", "raw", "qemu-nbd"
OVERLAY = "qed", "cow", "qemu-nbd"
REMOTE = "uri", "nbd", "qed"

Workload = collections.namedtuple(
    "Workload", "name image measure target second mem fs servers",
    defaults=[None, None, None, LOCAL])

WORKLOADS = [
    Workload("sequential read 1M qd8", "full",
             Fio("read", MiB, 8), 0.95),
    Workload("random read 4k qd1", "full",
             Fio("randread", 4 * KiB, 1), 0.95, 2),
    Workload("random read 4k qd32", "full",
             Fio("randread", 4 * KiB, 32), 0.95, 2),
    Workload("nbdcopy to null:", "full",
             Timed("nbdcopy", "URI", "null:"), 0.95),
    Workload("sparse: random read 4k qd32", "sparse",
             Fio("randread", 4 * KiB, 32), 0.85, 2, 48),
    # Offsets that are multiples of the stride: each read hits a data cluster,
    # and each cluster's entry is in another 4 KiB of the tables.
    Workload("sparse: random read 4k qd32, data only", "sparse",
             Fio("randread", 4 * KiB, 32, "--blockalign=%d" % STRIDE),
             0.85, 2, 48),
    Workload("sparse: nbdinfo --map", "sparse",
             Timed("nbdinfo", "--map", "URI"), 0.85, None, 48),

    Workload("in place: random write 4k qd32", "copy",
             Fio("randwrite", 4 * KiB, 32), 0.95, 3, fs="tmpfs"),
    Workload("in place: random read and write 4k, 8 connections qd4", "copy",
             Fio("randrw", 4 * KiB, 4, jobs=8), 0.95),
    Workload("in place: zero all data", "copy",
             Zero(), 0.95),
    Workload("fresh: sequential write 1M qd8", "fresh",
             Fio("write", MiB, 8, limit=GiB), 0.95),
    Workload("fresh: sequential write 4k qd32", "fresh",
             Fio("write", 4 * KiB, 32, limit=256 * MiB), 0.95),
    Workload("fresh: random write 64k qd32", "fresh",
             Fio("randwrite", 64 * KiB, 32, limit=GiB), 0.95),
    # The fresh disk is so large that 9 of 10 of these are the first one to
    # their cluster.
    Workload("fresh: random write 4k qd32", "fresh",
             Fio("randwrite", 4 * KiB, 32, limit=256 * MiB), 0.95, 15),
    Workload("fresh: random write 4k, 8 connections qd4", "fresh",
             Fio("randwrite", 4 * KiB, 4, limit=256 * MiB, jobs=8), 0.95),
    Workload("fresh: random write 4k, flush each", "fresh",
             Fio("randwrite", 4 * KiB, 1, "--fsync=1", limit=256 * MiB),
             0.95, 1.3),
    Workload("fresh: random write 4k, flush each, 8 connections", "fresh",
             Fio("randwrite", 4 * KiB, 1, "--fsync=1", limit=256 * MiB,
                 jobs=8), 0.95, 1.3),

    Workload("untouched overlay: random read 4k qd32", "untouched",
             Fio("randread", 4 * KiB, 32), 0.95),
    Workload("chain of 5: sequential read 1M qd8", "chain",
             Fio("read", MiB, 8), None, 1),
    Workload("chain of 5: random read 4k qd32", "chain",
             Fio("randread", 4 * KiB, 32), None, 1),

    # 8192 writes into 16384 clusters: 8 of 10 are the first to theirs.
    Workload("overlay: random write 4k qd32", "overlay",
             Fio("randwrite", 4 * KiB, 32, limit=32 * MiB, exact=True),
             1, 10, servers=OVERLAY),
    # The cow filter doesn't flush anything, so is no mark for these two.
    Workload("overlay: random write 4k, flush each", "overlay",
             Fio("randwrite", 4 * KiB, 1, "--fsync=1", limit=32 * MiB),
             None, 1.15, servers=OVERLAY),
    Workload("overlay: random write 4k, flush each, 8 connections", "overlay",
             Fio("randwrite", 4 * KiB, 1, "--fsync=1", limit=32 * MiB,
                 jobs=8), None, 1.15, servers=OVERLAY),
    Workload("overlay: sequential write 64k qd32", "overlay",
             Fio("write", 64 * KiB, 32, once=True), None, 1, servers=OVERLAY),
    Workload("overlay: sequential write 1M qd8", "overlay",
             Fio("write", MiB, 8, once=True), None, 1, servers=OVERLAY),

    Workload("remote: sequential read 1M qd8", "full",
             Fio("read", MiB, 8), 0.9, servers=REMOTE),
    Workload("remote: random read 4k qd1", "full",
             Fio("randread", 4 * KiB, 1), 0.9, servers=REMOTE),
    Workload("remote: random read 4k qd32", "full",
             Fio("randread", 4 * KiB, 32), 0.9, servers=REMOTE),
    Workload("remote: nbdcopy to null:", "full",
             Timed("nbdcopy", "URI", "null:"), 0.9, servers=REMOTE),
    Workload("remote, sparse: nbdinfo --map", "sparse",
             Timed("nbdinfo", "--map", "URI"), None, 0.5, servers=REMOTE),
    Workload("remote, sparse: qed-img map", "sparse",
             Timed("QED-IMG", "map", "IMAGE"), 0.5, servers=("uri", "qed")),
    Workload("remote, in place: random write 4k qd32", "copy",
             Fio("randwrite", 4 * KiB, 32), 0.9, servers=REMOTE),
    Workload("remote, fresh: sequential write 1M qd8", "fresh",
             Fio("write", MiB, 8, limit=GiB), 0.8, servers=REMOTE),
    Workload("remote, fresh: random write 4k qd32", "fresh",
             Fio("randwrite", 4 * KiB, 32, limit=256 * MiB), 0.8,
             servers=REMOTE),
    Workload("remote, fresh: random write 4k, flush each", "fresh",
             Fio("randwrite", 4 * KiB, 1, "--fsync=1", limit=256 * MiB), 0.8,
             servers=REMOTE),
]

# The servers: name, and the command line for a file, or for the URI of a
# server below, and a socket.

SERVERS = {
    "qed": lambda path, sock, writable:
        [opts.wrapper, "-f", *([] if writable else ["-r"]), "-U", sock,
         "qed", "file=" + path],
    # Not limited to one client, and not gone after the first one.
    "qemu-nbd": lambda path, sock, writable:
        [opts.qemu_nbd, "--format=qed",
         "--cache=writeback" if writable else "--read-only", "--persistent",
         "--shared=16", "--socket=" + sock, path],
    "raw": lambda path, sock, writable:
        [opts.nbdkit, "-f", *([] if writable else ["-r"]), "-U", sock,
         "file", "file=" + path],
    "cow": lambda path, sock, writable:
        [opts.nbdkit, "-f", "-U", sock, "--filter=cow", "file",
         "file=" + path],
    "uri": lambda path, sock, writable:
        [opts.wrapper, "-f", *([] if writable else ["-r"]), "-U", sock,
         "qed", "uri=" + path],
    "nbd": lambda path, sock, writable:
        [opts.nbdkit, "-f", *([] if writable else ["-r"]), "-U", sock,
         "nbd", "uri=" + path],
}

# Those that get the file from another server, a "raw" of their own.
ON_SERVER = "uri", "nbd"

SUFFIXES = {"qed": ".qed", "qemu-nbd": ".qed", "raw": ".raw", "cow": ".raw",
            "uri": ".qed", "nbd": ".raw"}

TITLES = {"qed": "this plugin", "qemu-nbd": "qemu-nbd -f qed",
          "raw": "nbdkit file, raw", "cow": "nbdkit cow filter over raw",
          "uri": "this plugin on nbdkit file",
          "nbd": "nbdkit nbd on nbdkit file, raw"}


def servers(w):
    """The servers that a workload is measured with."""
    return [s for s in w.servers if s in opts.servers]


def peers(w):
    """Those that the first one is compared with, and the targets here."""
    here = w.fs in (None, filesystem())
    return zip(w.servers[1:], (w.target, w.second if here else None))


class Failure(Exception):
    """An error to report to the user without a traceback."""


# ---------------------------------------------------------------------------
# Processes

libc = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


def die_with_parent():
    # In case this script gets killed and can't clean up.
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def call(argv, **kwargs):
    """Run a command to its end and return its output."""
    kwargs.setdefault("stdout", subprocess.PIPE)
    try:
        # A time limit only for the case that a server hangs.
        p = subprocess.run(argv, stdin=subprocess.DEVNULL,
                           stderr=subprocess.PIPE, text=True,
                           timeout=600 + 2 * opts.seconds,
                           preexec_fn=die_with_parent, **kwargs)
    except FileNotFoundError:
        raise Failure("%s: command not found" % argv[0])
    except subprocess.TimeoutExpired:
        raise Failure("%s: does not end" % " ".join(argv))
    if p.returncode:
        raise Failure("%s: exit status %d\n%s" %
                      (" ".join(argv), p.returncode, p.stderr or p.stdout))
    return p.stdout


class Server:
    """A running server."""

    running = []                # all of them, so that none is left behind

    def __init__(self, name, path, sockdir, writable=False, above=""):
        self.name = name
        self.socket = os.path.join(sockdir, above + name + ".sock")
        self.uri = "nbd+unix:///?socket=" + self.socket
        self.below = None
        if name in ON_SERVER:
            self.below = Server("raw", path, sockdir, writable, name + "-")
            self.below.warm_up()
        self.image = self.below.uri if self.below else path
        self.log = tempfile.TemporaryFile("w+")
        argv = SERVERS[name](self.image, self.socket, writable)
        try:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL,
                                            stdout=self.log, stderr=self.log,
                                            # For what the cow filter writes.
                                            env={**os.environ,
                                                 "TMPDIR": opts.dir},
                                            preexec_fn=die_with_parent)
        except OSError as e:
            raise Failure("%s: %s" % (argv[0], e.strerror))
        Server.running.append(self)
        self.pid = self.wait_until_ready()

    def warm_up(self):
        """Read from it over a connection of our own.  The threads of its first
        connection are given other memory than those of later ones, and are
        slower.  That would count against a server above that keeps its first
        connection, and for one that opens one for each client."""
        call([sys.executable, "-m", "nbd", "--uri", self.uri, "-c", """
n = min(1 << 20, h.get_size())
for _ in range(4):
    todo = [h.aio_pread(nbd.Buffer(n), 0) for _ in range(16)]
    while todo:
        h.poll(-1)
        todo = [c for c in todo if not h.aio_command_completed(c)]
"""])

    def wait_until_ready(self):
        """Returns the PID of the process that listens."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            self.check()
            try:
                with socket.socket(socket.AF_UNIX) as s:
                    s.connect(self.socket)
                    cred = s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED,
                                        struct.calcsize("3i"))
                    return struct.unpack("3i", cred)[0]
            except OSError:
                time.sleep(0.02)
        raise Failure("%s: does not listen on its socket" % self.name)

    def check(self):
        if self.below:
            self.below.check()
        if self.process.poll() is not None:
            self.log.seek(0)
            raise Failure("%s: server ended with status %d\n%s" %
                          (self.name, self.process.returncode, self.log.read()))

    def peak_memory(self):
        """In MiB."""
        with open("/proc/%d/status" % self.pid) as f:
            return int(re.search(r"^VmHWM:\s*(\d+) kB", f.read(),
                                 re.M).group(1)) / 1024

    def stop(self):
        Server.running.remove(self)
        self.log.close()
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        if self.below:
            self.below.stop()

    def kill(self):
        """Its image is thrown away: don't wait until that is synced."""
        for s in self, self.below:
            if s:
                s.process.kill()
                s.process.wait()
        self.stop()

    @classmethod
    def stop_all(cls):
        while cls.running:
            # One that was started last isn't below any other.
            cls.running[-1].stop()


# ---------------------------------------------------------------------------
# Images that are read: a pair of files, NAME.raw and NAME.qed.  They are made
# under another name and renamed when complete, and used again by later runs.
# Overlays are made each time, over the raw file of the full image.


def full_image(f):
    """Data everywhere."""
    r = random.Random(1)
    for n in range(opts.size, 0, -MiB):
        f.write(r.randbytes(min(n, MiB)))


def sparse_image(f):
    """One cluster of data at the start of each stride."""
    r = random.Random(2)
    f.truncate(opts.sparse_size)
    for offset in range(0, opts.sparse_size, STRIDE):
        f.seek(offset)
        f.write(r.randbytes(CLUSTER))


# Function that makes the raw file; size; number of clusters with data.
IMAGES = {
    "full": lambda: (full_image, opts.size, -(-opts.size // CLUSTER)),
    "sparse": lambda: (sparse_image, opts.sparse_size,
                       -(-opts.sparse_size // STRIDE)),
}


def is_sound(image, size, clusters):
    """Are the files there, and what they should be?"""
    if not os.path.exists(image + ".raw") or not os.path.exists(image + ".qed"):
        return False
    with open(image + ".qed", "rb") as f:
        header = f.read(56)
    # magic, cluster_size, image_size
    if (len(header) < 56
            or struct.unpack("<4sI40xQ", header) != (b"QED\0", CLUSTER, size)
            or os.path.getsize(image + ".raw") != size
            or os.stat(image + ".raw").st_blocks * 512 < clusters * CLUSTER):
        return False
    # Not call: its exit status 3 for leaks is not reliable.
    p = subprocess.run(["qemu-img", "check", "--output=json", "-f", "qed",
                        image + ".qed"], stdout=subprocess.PIPE, text=True)
    if p.returncode not in (0, 3):
        return False
    return json.loads(p.stdout).get("allocated-clusters") == clusters


def image_path(kind):
    """Without the suffix."""
    return os.path.join(opts.dir, "%s-%dM" % (kind, IMAGES[kind]()[1] // MiB))


# How many layers; each is the backing file of the next.
LAYERS = {"untouched": 1, "chain": 5}


def layer_path(kind, i):
    return os.path.join(opts.dir, "%s-%d.qed" % (kind, i))


def create_overlay(path, backing, fmt):
    call(["qemu-img", "create", "-q", "-f", "qed", "-F", fmt,
          "-b", os.path.basename(backing),
          "-o", "cluster_size=%d" % CLUSTER, path])


def make_layers(kind):
    """Overlays of the same content as the full image.  In a chain each layer
    holds a sixteenth of the data, in a piece in each 64 MiB."""
    check_space(opts.size * LAYERS[kind] // 8)
    backing, fmt = image_path("full") + ".raw", "raw"
    for i in range(LAYERS[kind]):
        path = layer_path(kind, i)
        create_overlay(path, backing, fmt)
        if kind == "chain":
            pieces = range(3 * i * 4 * MiB, opts.size - 4 * MiB, 64 * MiB)
            # -C copies what is read into the overlay.
            call(["qemu-io", "-C", "-f", "qed", path] +
                 [a for p in pieces for a in ("-c", "read -q %d 4M" % p)])
        with open(path, "rb") as f:
            os.fsync(f.fileno())
        backing, fmt = path, "qed"


def files_read(kind):
    """All files that servers read from, for an image."""
    if kind not in LAYERS:
        return [image_path(kind) + suffix for suffix in (".raw", ".qed")]
    return ([image_path("full") + ".raw"] +
            [layer_path(kind, i) for i in range(LAYERS[kind])])


def file_served(kind, name):
    """The file that a server gets."""
    if kind not in LAYERS:
        return image_path(kind) + SUFFIXES[name]
    return files_read(kind)[-1 if SUFFIXES[name] == ".qed" else 0]


def make_image(kind):
    write, size, clusters = IMAGES[kind]()
    image = image_path(kind)
    if is_sound(image, size, clusters):
        return

    progress("making %s.raw and .qed" % image)
    for suffix in (".raw", ".qed"):
        if os.path.exists(image + suffix):
            os.unlink(image + suffix)
    # The two files, and 1/16 for tables and the like.
    check_space(2 * clusters * CLUSTER * 17 // 16 + 256 * MiB)
    tmp = os.path.join(opts.dir, "tmp")
    try:
        try:
            with open(tmp + ".raw", "wb") as f:
                write(f)
        except OSError as e:
            raise Failure("%s: %s" % (tmp + ".raw", e.strerror))
        call(["qemu-img", "convert", "-f", "raw", "-O", "qed",
              "-o", "cluster_size=%d" % CLUSTER, tmp + ".raw", tmp + ".qed"])
        for suffix in (".raw", ".qed"):
            # Written back now, not while something is measured; and out of
            # the page cache, where what was written and what was read lie
            # in pages of different size and so differ in speed.
            with open(tmp + suffix, "rb") as f:
                os.fsync(f.fileno())
                os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            os.rename(tmp + suffix, image + suffix)
    finally:
        for suffix in (".raw", ".qed"):
            if os.path.exists(tmp + suffix):
                os.unlink(tmp + suffix)
    if not is_sound(image, size, clusters):
        raise Failure("%s: qemu-img made something unexpected" % image)


def check_space(need):
    if shutil.disk_usage(opts.dir).free < need:
        raise Failure("%s: needs %d MiB of free space; "
                      "use --dir, --size or --sparse-size" %
                      (opts.dir, need // MiB))


def warm_cache(path):
    """Read all data of a file, and none of its holes."""
    buf = bytearray(MiB)
    with open(path, "rb", buffering=0) as f:
        end = 0
        while True:
            try:
                start = os.lseek(f.fileno(), end, os.SEEK_DATA)
            except OSError:     # no more data
                return
            end = os.lseek(f.fileno(), start, os.SEEK_HOLE)
            os.lseek(f.fileno(), start, os.SEEK_SET)
            for n in range(end - start, 0, -len(buf)):
                f.readinto(memoryview(buf)[:min(n, len(buf))])


def compare_content(kind, names, sockdir):
    """Fail if the servers differ in content.  Of a large image three windows
    are read: at the start, in the middle and at the end."""
    size = IMAGES[BASES.get(kind, kind)]()[1]
    window = 8 * GiB
    offsets = (0, (size - window) // 2, size - window)
    if size <= len(offsets) * window:
        offsets, window = (0,), size
    running = [Server(name, file_served(kind, name), sockdir)
               for name in names]
    progress("%s: comparing what the servers serve" % kind)
    for other in running[1:]:
        for offset in offsets:
            call(["qemu-img", "compare", "--image-opts"] +
                 ["driver=raw,offset=%d,size=%d,file.driver=nbd,"
                  "file.server.type=unix,file.server.path=%s" %
                  (offset, window, s.socket) for s in (running[0], other)])
    Server.stop_all()


# ---------------------------------------------------------------------------
# Images that are written: one file, for one turn of one server.

# The source of each image: a "copy" is a copy of that file, an "overlay" is on
# top of its raw file.  "fresh" starts empty.
BASES = {"copy": "full", "overlay": "full", "untouched": "full",
         "chain": "full"}


class Scratch:
    """A context that makes the image and removes it; the value is the path
    of the file to serve."""

    def __init__(self, kind, name):
        self.kind = kind
        self.suffix = SUFFIXES[name]
        self.on_server = name in ON_SERVER
        self.path = os.path.join(opts.dir, "scratch" + self.suffix)

    def __enter__(self):
        self.remove()
        # Fresh: what 256 MiB of 4 KiB writes become with a server that fills
        # clusters.  It takes a fast one to get there in time.
        check_space(4 * GiB if self.kind == "fresh" else opts.size * 17 // 16)
        path = self.make()
        # This also writes what the removal of the last image left behind.
        call(["sync", "--file-system", opts.dir])
        return path

    def make(self):
        if self.kind == "overlay":
            base = image_path(BASES[self.kind]) + ".raw"
            if self.suffix == ".raw":
                return base     # the cow filter doesn't write to it
            create_overlay(self.path, base, "raw")
        elif self.kind == "copy":
            # One that shares blocks would be copied as it is written.
            call(["cp", "--reflink=never", "--sparse=never",
                  image_path(BASES[self.kind]) + self.suffix, self.path])
        elif self.suffix == ".qed":
            call(["qemu-img", "create", "-q", "-f", "qed",
                  "-o", "cluster_size=%d" % CLUSTER, self.path,
                  str(opts.fresh_size)])
            if self.on_server:  # an export doesn't grow: room for all
                os.truncate(self.path, opts.fresh_size * 17 // 16)
        else:
            with open(self.path, "wb") as f:
                f.truncate(opts.fresh_size)
        return self.path

    def __exit__(self, *exc_info):
        self.remove()

    def remove(self):
        if os.path.exists(self.path):
            os.unlink(self.path)


class WarmMemory:
    """Memory kept from the host until an image needs it."""

    def __init__(self, limit):
        # More than is written: the page cache also uses pages as large as
        # there are, and the largest ones go back to the host first.  And more
        # than the copy of an image, or the clusters that a server fills.
        self.size = min(max(3 * (limit or 0), 5 * GiB // 4),
                        physical_memory() // 4)
        self.hold()

    def hold(self):
        self.map = mmap.mmap(-1, self.size, mmap.MAP_PRIVATE)
        self.map.madvise(mmap.MADV_HUGEPAGE)
        for offset in range(0, len(self.map), mmap.PAGESIZE):
            self.map[offset] = 1

    def release(self):
        self.map.close()


# ---------------------------------------------------------------------------
# Measuring

# values: per server, a list with the figure of each round;
# memory: per server, the peak.
Result = collections.namedtuple("Result", "workload values memory")


def rounds(w):
    for turn in range(opts.rounds + 1):
        progress("%s, round %d of %d" % (w.name, turn, opts.rounds)
                 if turn else "%s, warming up" % w.name)
        yield turn


def measure(w, server, turn):
    value = w.measure.run(server, turn)
    server.check()
    return turn, server.name, value, server.peak_memory()


def read_turns(w, sockdir):
    for path in files_read(w.image):
        warm_cache(path)
    running = [Server(name, file_served(w.image, name), sockdir)
               for name in servers(w)]
    for turn in rounds(w):
        for s in running:
            yield measure(w, s, turn)
        running.append(running.pop(0))
    Server.stop_all()


def write_turns(w, sockdir):
    names = servers(w)
    limit = w.measure.limit
    if w.image == "overlay":
        limit = limit or opts.size
        warm_cache(image_path(BASES[w.image]) + ".raw")
    memory = WarmMemory(limit)
    for turn in rounds(w):
        for name in names:
            memory.release()
            with Scratch(w.image, name) as path:
                s = Server(name, path, sockdir, writable=True)
                yield measure(w, s, turn)
                s.kill()
            memory.hold()
        names.append(names.pop(0))


def run_workload(w, sockdir):
    values = {name: [] for name in servers(w)}
    memory = {name: 0 for name in servers(w)}
    turns = (read_turns if w.image in IMAGES or w.image in LAYERS
             else write_turns)
    for turn, name, value, peak in turns(w, sockdir):
        if turn:
            values[name].append(value)
        memory[name] = max(memory[name], peak)
    return Result(w, values, memory)


# ---------------------------------------------------------------------------
# Reporting


def ratios(r, other):
    """The first server against another, per round; or None."""
    first = r.workload.servers[0]
    if first not in r.values or other not in r.values:
        return None
    return [(a / b) ** r.workload.measure.sign
            for a, b in zip(r.values[first], r.values[other])]


def status(r):
    """Compare with the targets: "ok", or the figures below their target."""
    first = r.workload.servers[0]
    if first not in r.values:
        return "-"
    below = []
    for other, target in peers(r.workload):
        x = ratios(r, other)
        # Judge what is printed: 2 digits.
        if target and x and round(statistics.median(x), 2) < target:
            below.append(other)
    if r.workload.mem and r.memory[first] >= r.workload.mem:
        below.append("memory")
    return "below: " + ", ".join(below) if below else "ok"


def number(x, unit=None):
    if x is None:
        return "-"
    return ("%.3f" if unit == "s" else "%.0f") % x


def ratio_cell(x, target):
    if not x:
        return "-"
    cell = "%.2f" % statistics.median(x)
    return cell + " (>= %g)" % target if target else cell


def ratio_titles(w):
    first, *others = w.servers
    return [first + "/" + other for other in others]


def table_of_medians(results):
    names = servers(results[0].workload)
    yield ["workload", "unit", *names, *ratio_titles(results[0].workload),
           "peak MiB " + "/".join(names), "targets"]
    for r in results:
        w = r.workload
        mem = "/".join(number(r.memory[s]) for s in names)
        if w.mem:
            mem += " (< %d)" % w.mem
        yield [w.name, w.measure.unit,
               *(number(statistics.median(r.values[s]), w.measure.unit)
                 for s in names),
               *(ratio_cell(ratios(r, other), target)
                 for other, target in peers(w)),
               mem, status(r)]


def table_of_spreads(results):
    names = servers(results[0].workload)

    def spread(x, unit):
        return number(min(x), unit) + " .. " + number(max(x), unit)

    def ratio_spread(x):
        return "%.2f .. %.2f" % (min(x), max(x)) if x else "-"

    yield ["spread (min .. max)", "unit", *names,
           *ratio_titles(results[0].workload)]
    for r in results:
        unit = r.workload.measure.unit
        yield [r.workload.name, unit,
               *(spread(r.values[s], unit) for s in names),
               *(ratio_spread(ratios(r, other))
                 for other in r.workload.servers[1:])]


def print_table(rows):
    rows = list(rows)
    widths = [max(len(c) for c in column) for column in zip(*rows)]
    if opts.markdown:
        rows.insert(1, ["-" * w for w in widths])
    for row in rows:
        cells = [c.ljust(w) for c, w in zip(row, widths)]
        print("| " + " | ".join(cells) + " |" if opts.markdown
              else "  ".join(cells).rstrip())
    print()


def first_line(*argv):
    return call(list(argv)).splitlines()[0]


def cpu_model():
    with open("/proc/cpuinfo") as f:
        m = re.search(r"^(?:model name|cpu model|Model)\s*: (.*)$", f.read(),
                      re.M)
    return m.group(1) if m else platform.machine()


def physical_memory():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def filesystem():
    return call(["df", "--output=fstype", opts.dir]).split()[-1]


def spell_out(s, writable):
    """The command of a server, without the machine's directories."""
    argv = SERVERS[s]("URI" if s in ON_SERVER else "IMG" + SUFFIXES[s],
                      "SOCK", writable)
    return " ".join([os.path.basename(argv[0])] + argv[1:])


def conditions(used):
    """What the reader of the numbers has to know."""
    yield "Linux %s, %d x %s, %d GiB of memory, images on %s" % (
        platform.release(), os.cpu_count(), cpu_model(),
        physical_memory() / GiB + 0.5, filesystem())
    versions = [first_line(opts.nbdkit, "--version"),
                first_line(opts.qemu_nbd, "--version"),
                first_line("fio", "--version"),
                # The first line is nbdinfo's own.
                call(["nbdinfo", "--version"]).splitlines()[-1]]
    if "qed" in used or "uri" in used:
        m = re.search(r"^qed_version=(.*)$",
                      call([opts.wrapper, "qed", "--dump-plugin"]), re.M)
        if m:
            versions.append("nbdkit-qed " + m.group(1))
    yield ", ".join(versions)
    yield ("full image %d MiB, sparse image %g GiB with a data cluster every "
           "%d MiB, %d KiB clusters, raw and QED of the same content" %
           (opts.size / MiB, opts.sparse_size / GiB, STRIDE / MiB,
            CLUSTER / KiB))
    yield ("reads: page cache warmed with the data of both files (not the "
           "holes); content of the servers compared")
    yield ("writes: each turn on an image of its own, synced before: \"in "
           "place\" a copy of the full image, \"fresh\" an empty one of "
           "%g GiB, \"overlay\" an empty one over the full raw image, which "
           "is in the page cache" % (opts.fresh_size / GiB))
    yield ("medians of %d alternating rounds of %g s (fresh and overlay: at "
           "most; overlay, random write 4k qd32: 8192 writes) after a "
           "discarded one; ratios are medians of those within a round, bigger "
           "is better" % (opts.rounds, opts.seconds))
    if any(s in used for s in ON_SERVER):
        yield ("%s: on a server like \"raw\" of IMG.qed and IMG.raw, whose "
               "socket is the URI; the memory is that of the one above" %
               " and ".join(ON_SERVER))
    for s in used:
        for what, writable in ("reads", False), ("writes", True):
            if s != "cow" or writable:
                yield "%s: %s, %s: %s" % (s, TITLES[s], what,
                                          spell_out(s, writable))
    yield ("load average before the start: %.2f (what else ran may have "
           "disturbed the figures)" % load_average)


def report(results):
    print()
    # A table for those with the same servers.
    tables = collections.defaultdict(list)
    for r in results:
        tables[r.workload.servers].append(r)
    for table in tables.values():
        print_table(table_of_medians(table))
        if opts.verbose:
            print_table(table_of_spreads(table))
    used = {s for r in results for s in servers(r.workload)}
    for line in conditions([s for s in SERVERS if s in used]):
        print("- " + line)


def progress(message):
    print("bench: " + message, file=sys.stderr, flush=True)


# ---------------------------------------------------------------------------
# Main


def size_argument(s):
    m = re.fullmatch(r"(\d+)([kMGT]?)", s)
    if not m or int(m.group(1)) == 0:
        raise argparse.ArgumentTypeError("not a size: " + s)
    n = int(m.group(1)) << (10 * " kMGT".index(m.group(2) or " "))
    if n % CLUSTER:
        raise argparse.ArgumentTypeError(
            "not a multiple of %d: %s" % (CLUSTER, s))
    return n


def servers_argument(s):
    names = s.split(",")
    for name in names:
        if name not in SERVERS:
            raise argparse.ArgumentTypeError(
                "no server %s; there are: %s" % (name, ", ".join(SERVERS)))
    return names


def parse_arguments():
    p = argparse.ArgumentParser(
        description="Benchmark nbdkit-qed beside qemu-nbd and nbdkit file.")
    p.add_argument("--wrapper", metavar="PROGRAM",
                   default=os.environ.get("NBDKIT_QED", "./nbdkit"),
                   help="nbdkit that knows the plugin qed: the nbdkit wrapper "
                   "of a build directory [$NBDKIT_QED, ./nbdkit]")
    p.add_argument("--nbdkit", metavar="PROGRAM", default="nbdkit",
                   help="nbdkit for the raw image [nbdkit]")
    p.add_argument("--qemu-nbd", metavar="PROGRAM", default="qemu-nbd")
    p.add_argument("--qed-img", metavar="PROGRAM", default="tools/qed-img",
                   help="[tools/qed-img]")
    p.add_argument("--servers", metavar="LIST", type=servers_argument,
                   default=list(SERVERS),
                   help="only these servers, of: %s" % ",".join(SERVERS))
    p.add_argument("--only", metavar="REGEX", type=re.compile, default="",
                   help="only the workloads whose name matches")
    p.add_argument("--list", action="store_true",
                   help="list the workloads, and do nothing")
    p.add_argument("--dir", metavar="DIR",
                   default=os.path.join(os.environ.get("TMPDIR", "."),
                                        "nbdkit-qed-bench"),
                   help="directory for the images, which are kept and used "
                   "again; e.g. in /dev/shm for tmpfs "
                   "[nbdkit-qed-bench in $TMPDIR or here]")
    p.add_argument("--size", type=size_argument, default=GiB,
                   help="of the full image [1G]")
    p.add_argument("--sparse-size", type=size_argument, metavar="SIZE",
                   default=TiB, help="of the sparse image [1T]")
    p.add_argument("--fresh-size", type=size_argument, metavar="SIZE",
                   default=16 * GiB, help="of the disk in a fresh image; the "
                   "larger, the more of the tables random writes touch [16G]")
    p.add_argument("--rounds", type=int, metavar="N", default=3,
                   help="rounds, not counting the discarded one [3]")
    p.add_argument("--seconds", type=float, metavar="S", default=1.5,
                   help="length of one measurement [1.5]")
    p.add_argument("--markdown", action="store_true",
                   help="print the table as Markdown")
    p.add_argument("-v", "--verbose", action="store_true",
                   help="also print the spread of the rounds")
    o = p.parse_args()
    if o.rounds < 1 or o.seconds < 1:
        p.error("--rounds and --seconds are at least 1")
    if o.fresh_size < 2 * GiB:
        p.error("--fresh-size is at least 2G")
    return o


def readers(workloads):
    """The servers whose content is compared for some workloads."""
    used = {s for w in workloads for s in servers(w)}
    if "cow" in used:           # it begins with what that has
        used.add("raw")
    return [s for s in SERVERS if s in used and s != "cow"]


def main():
    workloads = [w for w in WORKLOADS
                 if re.search(opts.only, w.name) and servers(w)]
    if opts.list:
        for w in workloads:
            print(w.name)
        return
    if not workloads:
        raise Failure("no workload matches; try --list")

    if {"qed", "uri"} & set(opts.servers) and not shutil.which(opts.wrapper):
        raise Failure("%s: not found; build the plugin, or use --wrapper "
                      "or --servers=qemu-nbd,raw" % opts.wrapper)
    if (any(isinstance(w.measure, Zero) for w in workloads)
            and not importlib.util.find_spec("nbd")):
        raise Failure("%s: no module nbd (libnbd)" % sys.executable)
    # Only the plain servers are of interest.
    for v in ("NBDKIT_VALGRIND", "NBDKIT_GDB"):
        os.environ.pop(v, None)
    os.makedirs(opts.dir, exist_ok=True)
    opts.dir = os.path.abspath(opts.dir)
    # Not below opts.dir: the path of a socket is limited to 107 bytes.
    with tempfile.TemporaryDirectory(prefix="qedbench", dir="/tmp") as sockdir:
        try:
            for kind in IMAGES:
                names = readers(w for w in workloads
                                if kind == BASES.get(w.image, w.image))
                if names:
                    make_image(kind)
                    compare_content(kind, names, sockdir)
            for kind in LAYERS:
                names = readers(w for w in workloads if kind == w.image)
                if names:
                    make_layers(kind)
                    compare_content(kind, names, sockdir)
            report([run_workload(w, sockdir) for w in workloads])
        except Failure:
            # If a server died that is more to the point.
            for s in Server.running:
                s.check()
            raise
        finally:
            Server.stop_all()


if __name__ == "__main__":
    opts = parse_arguments()
    load_average = os.getloadavg()[0]
    # Let the clean-up run.
    for sig in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, lambda signum, frame: sys.exit(128 + signum))
    try:
        main()
    except (Failure, OSError) as e:
        sys.exit("bench: error: %s" % e)
    except KeyboardInterrupt:
        sys.exit(130)
