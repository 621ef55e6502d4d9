#!/usr/bin/env python3
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

"""Measure copy-on-read and streaming beside what else keeps what it has read.

Notes on the design:

Slow base: nbdkit's delay filter answers each read of the base after 2 ms.  An
empty overlay on it is copied out twice: by nbdcopy with its 64 requests at a
time, which keep all CPUs busy, and with 4; and by random reads of fio.
The first reading shows what keeping costs, against an overlay that doesn't
keep.  The second one shows what it brings, against the same content as an image
without a base.  Peers: nbdkit's cow filter with cow-on-read, and QEMU's
copy-on-read driver on qcow2.

Streaming: the base is in the page cache.  The time is that from the start of
nbdkit to the message that streaming is complete.  Peers: qemu-img rebase to no
backing file, cp --sparse=always, and block-stream in qemu-storage-daemon.

Latency: random reads of a client on a complete part of the disk, by itself, and
while the rest is streamed.

All take turns in each round.  The output has medians and ratios.  Nothing here
fails because something is slow: the exit status is 0 unless a program fails.
"""

import argparse
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30


def run(*argv, **kwargs):
    p = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True,
                       text=True, timeout=900, **kwargs)
    if p.returncode:
        sys.exit("stream.py: error: %s: exit status %d\n%s" %
                 (" ".join(argv), p.returncode, p.stderr))
    return p.stdout


def seconds(*argv):
    start = time.monotonic()
    run(*argv)
    return time.monotonic() - start


class Server:
    """A server on a socket of its own, with its log in a file."""

    def __init__(self, *argv):
        self.dir = tempfile.TemporaryDirectory()
        self.socket = os.path.join(self.dir.name, "sock")
        self.uri = "nbd+unix:///?socket=" + self.socket
        self.log = os.path.join(self.dir.name, "log")
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [a.replace("SOCKET", self.socket) for a in argv],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "TMPDIR": opts.dir})
        self.wait(self.listens)

    def listens(self):
        with socket.socket(socket.AF_UNIX) as s:
            return s.connect_ex(self.socket) == 0

    def wait(self, condition):
        while not condition():
            if self.process.poll() is not None:
                with open(self.log) as f:
                    sys.exit("stream.py: error: server ended: " + f.read())
            time.sleep(0.005)

    def says(self, text):
        with open(self.log) as f:
            return text in f.read()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.process.terminate()
        self.process.wait()
        self.dir.cleanup()


def nbdkit(*args):
    return Server(opts.wrapper, "-f", "-U", "SOCKET", *args)


def qemu_nbd(*args):
    return Server("qemu-nbd", "-k", "SOCKET", "-t", "-e", "8", *args)


# ---------------------------------------------------------------------------
# Files.


def path(name):
    return os.path.join(opts.dir, name)


def make_base(name, size):
    """A raw file of random bytes, in the page cache."""
    if not os.path.exists(path(name)) or os.path.getsize(path(name)) != size:
        with open(path(name + ".new"), "wb") as f:
            rng = random.Random(0)
            for _ in range(size // MiB):
                f.write(rng.randbytes(MiB))
        os.rename(path(name + ".new"), path(name))
    with open(path(name), "rb") as f:
        while f.read(MiB):
            pass


def fresh(name, size, *args):
    """An empty image."""
    if os.path.exists(path(name)):
        os.unlink(path(name))
    run(*args, path(name), str(size))
    return path(name)


def overlay(base=None):
    return fresh("overlay.qed", opts.slow_size if base is None else
                 opts.size, opts.qed_img, "create", "-q", "-f", "qed",
                 *(("-b", path(base), "-F", "raw") if base else ()))


# ---------------------------------------------------------------------------
# A slow base.


def copy_out(uri):
    return seconds("nbdcopy", uri, "null:")


def copy_out_gently(uri):
    return seconds("nbdcopy", "--connections=1", "--requests=4", uri, "null:")


def fio(uri, size, *args):
    out = run("fio", "--name=x", "--thread", "--ioengine=nbd", "--uri=" + uri,
              "--rw=randread", "--bs=4k", "--output-format=json",
              "--size=%d" % size, *args)
    return json.loads(out[out.index("{"):])["jobs"][0]["read"]


def random_reads(uri):
    """Seconds for the same reads of all parts of the disk, 16 at a time."""
    return fio(uri, opts.slow_size, "--iodepth=16", "--randseed=1",
               "--io_size=%d" % (opts.slow_size // 16))["runtime"] / 1000


def slow_servers(base):
    """Functions that start a server on the slow base."""
    def qcow2():
        return fresh("overlay.qcow2", opts.slow_size, "qemu-img", "create",
                     "-q", "-f", "qcow2", "-b", base, "-F", "raw")
    return {
        "plain": lambda: nbdkit("qed", overlay(), "backing=" + base),
        "copy-on-read": lambda: nbdkit("qed", overlay(), "backing=" + base,
                                       "copy-on-read=true"),
        "local": lambda: nbdkit("qed", path("local.qed")),
        "cow": lambda: nbdkit("--filter=cow", "nbd", base,
                              "cow-on-read=true"),
        "qemu": lambda: qemu_nbd(
            "--image-opts", "driver=copy-on-read,file.driver=qcow2,"
            "file.file.filename=" + qcow2()),
    }


def measure_slow(how):
    results = {}
    with nbdkit("--filter=delay", "file", path("slow.raw"),
                "delay-read=2ms") as base:
        for turn in range(opts.rounds):
            for name, start in slow_servers(base.uri).items():
                with start() as s:
                    results.setdefault(name, []).append((how(s.uri),
                                                         how(s.uri)))
    first, second = ({n: statistics.median(x[i] for x in r)
                      for n, r in results.items()} for i in (0, 1))
    for name in results:
        print("  %-14s %8.2f s %8.2f s" % (name, first[name], second[name]))
    print("  first reading:  %.2f of the time without keeping (<= 1.15)" %
          (first["copy-on-read"] / first["plain"]))
    print("  second reading: %.2f of a local image's speed (>= 0.9)" %
          (second["local"] / second["copy-on-read"]), flush=True)


def bench_slow():
    make_base("slow.raw", opts.slow_size)
    run("qemu-img", "convert", "-f", "raw", "-O", "qed", path("slow.raw"),
        path("local.qed"))
    print("slow base, %d MiB, nbdcopy: first and second reading" %
          (opts.slow_size // MiB))
    measure_slow(copy_out)
    print("slow base, nbdcopy, 4 requests at a time")
    measure_slow(copy_out_gently)
    print("slow base, random reads of 4 KiB, 16 at a time")
    measure_slow(random_reads)


# ---------------------------------------------------------------------------
# Streaming.


def stream():
    image = overlay("base.raw")
    start = time.monotonic()
    with nbdkit("-v", "qed", image, "stream=true") as s:
        s.wait(lambda: s.says("streaming is complete"))
        return time.monotonic() - start


def rebase():
    return seconds("qemu-img", "rebase", "-f", "qed", "-F", "raw", "-b", "",
                   overlay("base.raw"))


def copy():
    target = path("copy.raw")
    if os.path.exists(target):
        os.unlink(target)
    r = seconds("cp", "--sparse=always", path("base.raw"), target)
    os.unlink(target)
    return r


def block_stream():
    """QEMU's job of that name, on qcow2."""
    image = fresh("overlay.qcow2", opts.size, "qemu-img", "create", "-q",
                  "-f", "qcow2", "-b", path("base.raw"), "-F", "raw")
    start = time.monotonic()
    p = subprocess.Popen(
        ["qemu-storage-daemon", "--chardev", "stdio,id=c", "--monitor", "c",
         "--blockdev", "file,node-name=f,filename=" + image,
         "--blockdev", "qcow2,node-name=q,file=f"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for command in ({"execute": "qmp_capabilities"},
                    {"execute": "block-stream",
                     "arguments": {"job-id": "j", "device": "q"}}):
        p.stdin.write(json.dumps(command) + "\n")
        p.stdin.flush()
    for line in p.stdout:
        event = json.loads(line)
        if event.get("event") == "BLOCK_JOB_COMPLETED":
            break
        if "error" in event:
            sys.exit("stream.py: error: block-stream: " + line)
    r = time.monotonic() - start
    p.stdin.write(json.dumps({"execute": "quit"}) + "\n")
    p.stdin.close()
    p.wait()
    return r


def bench_stream():
    ways = {"stream=true": stream, "qemu-img rebase": rebase,
            "cp --sparse": copy}
    if shutil.which("qemu-storage-daemon"):
        ways["block-stream"] = block_stream
    results = {name: [] for name in ways}
    print("streaming %d MiB from the page cache" % (opts.size // MiB))
    for turn in range(opts.rounds):
        for name, way in ways.items():
            results[name].append(way())
    median = {n: statistics.median(r) for n, r in results.items()}
    for name, r in median.items():
        print("  %-16s %8.2f s %8.0f MiB/s" %
              (name, r, opts.size / MiB / r))
    best = min(median["qemu-img rebase"], median["cp --sparse"])
    print("  ratio to the faster of rebase and cp: %.2f (>= 0.8)" %
          (best / median["stream=true"]), flush=True)


# ---------------------------------------------------------------------------
# Latency.


def p99(uri):
    """Microseconds; reads in the first 64 MiB, one at a time."""
    r = fio(uri, 64 * MiB, "--iodepth=1", "--time_based",
            "--runtime=%g" % opts.seconds)
    return r["clat_ns"]["percentile"]["99.000000"] / 1000


def bench_latency():
    idle, busy, left = [], [], []
    print("latency of a client's random reads of 4 KiB, p99")
    for turn in range(opts.rounds):
        image = overlay("base.raw")
        with nbdkit("qed", image, "copy-on-read=true") as s:
            run("nbdcopy", "--", s.uri, "null:") if opts.size <= 64 * MiB \
                else run(sys.executable, "-m", "nbd", "-u", s.uri, "-c",
                         "for i in range(64): h.pread(1 << 20, i << 20)")
            idle.append(p99(s.uri))
        with nbdkit("-v", "qed", image, "stream=true") as s:
            busy.append(p99(s.uri))
            left.append(not s.says("streaming is complete"))
    a, b = statistics.median(idle), statistics.median(busy)
    print("  idle %.0f us, streaming %.0f us: %.2f times (<= 2)%s" %
          (a, b, b / a, "" if all(left) else
           "; complete before the end: use a larger --size"), flush=True)


def parse_arguments():
    p = argparse.ArgumentParser(
        description="Benchmark copy-on-read and streaming.")
    p.add_argument("--wrapper", metavar="PROGRAM", default="./nbdkit",
                   help="nbdkit with the plugin [./nbdkit]")
    p.add_argument("--qed-img", metavar="PROGRAM", default="tools/qed-img")
    p.add_argument("--dir", metavar="DIR",
                   default=os.path.join(os.environ.get("TMPDIR", "."),
                                        "nbdkit-qed-bench"),
                   help="directory for the images [nbdkit-qed-bench in "
                   "$TMPDIR or here]")
    p.add_argument("--size", metavar="MIB", type=int, default=4096,
                   help="what is streamed, in MiB [4096]")
    p.add_argument("--slow-size", metavar="MIB", type=int, default=512,
                   help="the slow base, in MiB [512]")
    p.add_argument("--seconds", type=float, default=3,
                   help="for each measurement of latency [3]")
    p.add_argument("--rounds", type=int, metavar="N", default=3)
    p.add_argument("--only", choices=["slow", "stream", "latency"])
    o = p.parse_args()
    o.size *= MiB
    o.slow_size *= MiB
    return o


def main():
    os.makedirs(opts.dir, exist_ok=True)
    if opts.only in (None, "slow"):
        bench_slow()
    if opts.only != "slow":
        make_base("base.raw", opts.size)
    if opts.only in (None, "stream"):
        bench_stream()
    if opts.only in (None, "latency"):
        bench_latency()


if __name__ == "__main__":
    opts = parse_arguments()
    main()
