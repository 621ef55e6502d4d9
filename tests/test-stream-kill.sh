#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A server that streams, while a client writes, is killed again and again.  What
# was flushed is there, and of the rest each sector is old or new.  The next
# server goes on where this one was, until the image is complete.  Then the
# backing file is deleted, and the content is right for QEMU too.  (I3, I6)

source ./functions.sh nbd qemu libnbd filter:log

"$PYTHON" - <<'END'
import os, random, time
import copying, faulty, qedimg, qedtest
from faulty import SECTOR
from qedtest import MiB

path = qedtest.TMP + "/x.qed"

def left():
    return sum(end - start for start, end in copying.unallocated(path))

def write(r, h, sectors, seconds):
    """Write at random, and leave some requests in flight."""
    flying = r.randrange(4)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        n = r.randrange(1, 60) * SECTOR
        offset = r.randrange((sectors.size - n) // SECTOR) * SECTOR
        b = r.randbytes(n)
        sectors.begin(b, offset)
        h.pwrite(b, offset)
        sectors.end(b, offset)
        if r.random() < 0.2:
            h.flush()
            sectors.flushed()
        time.sleep(r.random() / 50)
    for i in range(flying):
        b = r.randbytes(64 * SECTOR)
        offset = i * MiB + r.randrange(1000) * SECTOR
        sectors.begin(b, offset)
        h.aio_pwrite(b, offset)
    h.poll(0)

def content():
    """The whole disk, served as it is."""
    with qedtest.Server("-r", "qed", path, *base.args) as s:
        h = s.connect()
        return bytes(h.pread(h.get_size(), 0))

for kind, cs in qedtest.some((("raw", 4096), ("nbd", 65536), ("chain", 65536),
                              ("qcow2", 4096), ("raw", 1 << 20)), 1):
    r = random.Random(f"{kind} {cs}")
    size = 4 * MiB + 4096
    with copying.Base(r, kind, size, full=True) as base:
        disk = base.overlay(path, 5 * MiB + SECTOR, cs)
        now = disk.read(0, disk.size)
        rounds, last = 0, left()
        while copying.has_backing(path):
            sectors = faulty.Sectors(disk.size, now)
            with qedtest.Server("-v", "qed", path, "stream=true",
                                "stream-rate=2M", *base.args) as s:
                # In the end the thread has the time that it needs.
                write(r, s.connect(), sectors, r.random() / 2 + rounds / 12)
                s.kill()
            rounds += 1
            refs = qedimg.References(path)
            refs.check_consistent()
            qedtest.qemu_check(path)
            with qedtest.Server("-r", "qed", path, *base.args) as s:
                sectors.check(s.connect(), True)
            now = content()
            # What was kept stays.
            assert left() <= last
            last = left()
            assert rounds < 60
        print(kind, cs, rounds, "times")
        assert rounds > 1
        base.delete()
    disk = qedtest.Disk(len(now))
    disk.write(now, 0)
    with qedtest.Server("-v", "qed", path, "stream=true") as s:
        copying.wait_complete(s)
        qedtest.check_disk(s.connect(), disk)
    copying.check_complete(path, disk)

# Killed as soon as the header names no backing file.
def header_names_none():
    with open(path, "rb") as f:
        return not f.read(17)[16] & qedimg.F_BACKING_FILE

for cs in qedtest.some((4096, 65536, 65536, 1 << 20), 1):
    r = random.Random(cs)
    with copying.Base(r, "raw", 4 * MiB, full=True) as base:
        disk = base.overlay(path, 5 * MiB, cs)
        with qedtest.Server("qed", path, "stream=true", *base.args) as s:
            deadline = time.monotonic() + 60
            while not header_names_none():
                assert time.monotonic() < deadline
            s.kill()
        base.delete()
    qedimg.References(path).check_consistent()
    with qedtest.Server("qed", path) as s:
        qedtest.check_disk(s.connect(), disk)
    copying.check_complete(path, disk)
END
