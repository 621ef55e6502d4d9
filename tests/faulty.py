# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

"""An image on an NBD export whose server goes wrong: the servers, and the
content that each sector may have then."""

import os
import subprocess

import nbd
import qedimg
import qedtest

SECTOR = 512
GARBAGE = b"old content of the device here! " * 16
SERVER = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                      "volatile-server.py")


class Volatile:
    """The server volatile-server.py with KEY=VALUE arguments, as a context.
    It may end by itself."""

    def __init__(self, path, **options):
        self.sock = qedtest.TMP + "/volatile.sock"
        self.uri = "nbd+unix:///?socket=" + self.sock
        self.path = path
        self.args = ["file=" + path] + [f"{k.replace('_', '-')}={v}"
                                        for k, v in options.items()]

    def __enter__(self):
        if self.has_gone_wrong():
            os.unlink(self.path + ".wrong")
        self.restarted = False
        self.start(self.args)
        return self

    def start(self, args):
        pid = qedtest.TMP + "/volatile.pid"
        for name in (self.sock, pid):
            if os.path.exists(name):
                os.unlink(name)
        self.process = subprocess.Popen(
            ["nbdkit", "-f", "-U", self.sock, "-P", pid, "python", SERVER,
             *args], stderr=subprocess.DEVNULL,
            env={**os.environ, "NBDKIT_VALGRIND": ""})
        qedtest.wait_until(lambda: os.path.exists(pid)
                           and os.path.getsize(pid) > 0)

    def has_gone_wrong(self):
        """Was the request made that goes wrong?"""
        return os.path.exists(self.path + ".wrong")

    def restart(self):
        """Start it again; nothing goes wrong any more."""
        self.restarted = True
        self.start([a for a in self.args if not a.startswith("at=")])

    def has_died(self):
        return self.process.poll() is not None

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def device(path, size, *args, **kwargs):
    """Write a file of SIZE bytes that begins with an empty image, made with
    the other arguments of qedimg.Image, and is full of garbage behind it."""
    img = qedimg.Image(*args, **kwargs)
    img.save(path)
    start = os.path.getsize(path)
    with open(path, "r+b") as f:
        f.seek(start)
        f.write(GARBAGE * ((size - start) // len(GARBAGE)))


class Sectors:
    """What each sector of the disk may read as: after a crash, and now.  BELOW
    is the content of a backing file."""

    def __init__(self, size, below=b""):
        below += bytes(size - len(below))
        self.size = size
        self.now = [{below[i:i + SECTOR]} for i in range(0, size, SECTOR)]
        self.later = [set(s) for s in self.now]

    def begin(self, b, offset):
        """A write of B at OFFSET, in whole sectors, has begun, and may have
        any part of its effect from now on."""
        for i in range(0, len(b), SECTOR):
            n = (offset + i) // SECTOR
            self.now[n].add(b[i:i + SECTOR])
            self.later[n].add(b[i:i + SECTOR])

    def end(self, b, offset):
        """It has succeeded."""
        for i in range(0, len(b), SECTOR):
            self.now[(offset + i) // SECTOR] = {b[i:i + SECTOR]}

    def flushed(self):
        """All that has succeeded is durable."""
        self.later = [set(s) for s in self.now]

    def check(self, h, crashed):
        """Each sector is as it may be."""
        allowed = self.later if crashed else self.now
        got = h.pread(self.size, 0)
        for n, s in enumerate(allowed):
            b = bytes(got[n * SECTOR:(n + 1) * SECTOR])
            assert b in s, (n, b[:32], [x[:32] for x in s])


def work(h, sectors, r, count):
    """COUNT random requests, after each of which SECTORS is up to date.
    Returns how many failed."""
    failed = 0
    for _ in range(count):
        n = r.randrange(1, 40) * SECTOR
        offset = r.randrange((sectors.size - n) // SECTOR) * SECTOR
        kind = r.choice(("write", "write", "write", "zero", "flush", "fua"))
        b = bytes(n) if kind == "zero" else r.randbytes(SECTOR) * (n // SECTOR)
        try:
            if kind == "flush":
                h.flush()
                sectors.flushed()
                continue
            sectors.begin(b, offset)
            if kind == "zero":
                h.zero(n, offset)
            else:
                h.pwrite(b, offset, nbd.CMD_FLAG_FUA if kind == "fua" else 0)
            sectors.end(b, offset)
            if kind == "fua":
                for i in range(offset // SECTOR, (offset + n) // SECTOR):
                    sectors.later[i] = set(sectors.now[i])
        except nbd.Error:
            failed += 1
    return failed
