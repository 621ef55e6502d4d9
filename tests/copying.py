# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

"""Backing files of every kind for copy-on-read= and stream=, and what has
become of the image above."""

import contextlib
import json
import os
import random
import re
import signal

import qedimg
import qedtest
from qedimg import UNALLOCATED
from qedtest import HOLE_FLAG, TMP, MiB

COMPLETE = "streaming is complete"


def save_sparse(disk, path, block=4096):
    """Write a raw file in which each block of zeros is a hole."""
    with open(path, "wb") as f:
        f.truncate(disk.size)
        for pos in range(0, disk.size, block):
            b = disk.read(pos, min(block, disk.size - pos))
            if b.strip(b"\0"):
                os.pwrite(f.fileno(), b, pos)


class Base:
    """A backing file of one of KINDS, or "slow", a server that takes 20 ms for
    each read, as a context.  SIZE is in bytes.

    DISK is its content: data and holes at random, or data only if FULL.  ARGS
    are the plugin's arguments, with which NAME can be in a header.
    """

    KINDS = ("raw", "chain", "nbd", "qcow2")

    def __init__(self, r, kind, size, full=False):
        self.kind, self.args = kind, ["backing-dir=" + TMP]
        self.disk = qedtest.Disk(size)
        self.raw = False
        self.stack = contextlib.ExitStack()
        if full:
            self.disk.write(r.randbytes(size), 0)
        for _ in range(16):
            n = int(2 ** r.uniform(9, 18))
            self.disk.write(r.randbytes(n), r.randrange(size - n))
        self.disk.write(b"the end", size - 7)
        self.name = TMP + "/base.raw"
        self.files = [self.name]
        save_sparse(self.disk, self.name)
        getattr(self, "_" + kind)(r)

    def _raw(self, _):
        self.raw = True

    def _chain(self, r):
        for size, cs in ((self.disk.size * 3 // 4 // 512 * 512, 8192),
                         (self.disk.size, 16384)):
            path = TMP + f"/layer-{cs}.qed"
            disk = qedtest.Disk(size, self.disk)
            qedtest.save_layer(r, path, disk, os.path.basename(self.name),
                               len(self.files) == 1, cs, 2)
            self.disk, self.name = disk, path
            self.files.append(path)

    def _qcow2(self, _):
        self.name = TMP + "/base.qcow2"
        qedtest.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2",
                    self.files[0], self.name)
        self.files.append(self.name)
        self.args.append("backing-format=qcow2")

    def _slow(self, r):
        self._nbd(r, "--filter=delay", "rdelay=20ms")

    def _nbd(self, _, *args):
        self.log = TMP + "/base.txt"
        if os.path.exists(self.log):
            os.unlink(self.log)
        self.server = s = self.stack.enter_context(qedtest.Server(
            "--filter=log", "file", self.name, "logfile=" + self.log, *args))
        self.name = s.uri
        self.args.append("backing-uri=true")

    def hang(self, hangs):
        """Let the NBD server hang, or go on."""
        os.kill(self.server.pid(), signal.SIGSTOP if hangs else signal.SIGCONT)

    def reads(self):
        """The reads that the NBD server has got: (offset, count)."""
        with open(self.log) as f:
            return [(int(m[1], 16), int(m[2], 16)) for m in
                    re.finditer(r" Read .*offset=0x(\w+) count=0x(\w+)",
                                f.read())]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stack.__exit__(*exc)

    def delete(self):
        """Delete all of it.  The NBD server ends, for which it waits until it
        has no client any more."""
        self.stack.close()
        for path in self.files:
            os.unlink(path)

    def overlay(self, path, size, cs, ts=2):
        """Make an empty image of SIZE bytes with clusters of CS bytes.
        Returns its disk."""
        img = qedimg.Image(size, cs, ts, backing=self.name)
        if self.raw:
            img.header["features"] |= qedimg.F_BACKING_FORMAT_NO_PROBE
        img.save(path)
        return qedtest.Disk(size, self.disk)


def flat(disk):
    """A copy of a Disk that has nothing below."""
    result = qedtest.Disk(disk.size)
    for pos in range(0, disk.size, disk.PAGE):
        b = disk.read(pos, min(disk.PAGE, disk.size - pos))
        if b.strip(b"\0"):
            result.write(b, pos)
    return result


def garbage(size):
    """The arguments for a raw backing file of SIZE bytes of garbage."""
    path = TMP + "/garbage.raw"
    with open(path, "wb") as f:
        f.write(random.Random(size).randbytes(size))
    return ["backing=" + path, "backing-format=raw"]


def unallocated(path):
    """Bytes of the disk that the image does not have, as runs."""
    model = qedimg.Model(path)
    runs = [(r.start, r.end) for r in model.runs() if r.kind == UNALLOCATED]
    model.close()
    return runs


def has_backing(path):
    """Does the header name a backing file?"""
    out, _ = qedtest.qed_img("info", "--output=json", path)
    return "backing-filename" in json.loads(out)


def holes_stay(before, after, disk):
    """Of two results of qedtest.extents: blocks of 4 KiB that were in a hole
    are in one, and what is in one reads as zeros."""
    holes = [e for e in after if e.flags & HOLE_FLAG]
    for e in before:
        if e.flags & HOLE_FLAG:
            start, end = -(-e.start // 4096) * 4096, e.end // 4096 * 4096
            assert start >= end or any(o.start <= start and end <= o.end
                                       for o in holes), e
    for e in holes:
        for pos in range(e.start, e.end, MiB):
            n = min(MiB, e.end - pos)
            assert not disk.read(pos, n).strip(b"\0"), e


def wait_complete(s, seconds=120):
    """Wait until the server, which was started with -v, has streamed all."""
    qedtest.wait_until(lambda: COMPLETE in s.log()
                       or s.process.poll() is not None, seconds)
    assert COMPLETE in s.log(), s.log()


def check_complete(path, disk):
    """An image that no process has open stands alone, and has the disk's
    content."""
    assert not has_backing(path)
    qedtest.check_image(path, flat(disk), leaks=True)
