#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A server is killed again and again with requests in flight.  Flushed data is
# there.  A cluster that was allocated since is there as a whole, with the
# bytes around the write, or reads as the backing file does.  Zeroed clusters
# and in-place writes are there.  Nothing else is lost, and the next server
# repairs the image and goes on.  (I3, I6)

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import random, time
import nbd, qedimg, qedtest
from qedtest import MiB

def sector_pieces(offset, n):
    while n > 0:
        length = min(n, 512 - offset % 512)
        yield offset, length
        offset += length
        n -= length

def settle(h, disk, safe, flying, cs):
    """What became of a cluster: all or nothing of what came since safe; in
    requests that weren't answered each sector is old or new."""
    new = disk.copy()
    for b, offset in flying:
        new.write(b, offset)
    lost = 0
    for at in range(0, disk.size, cs):
        n = min(cs, disk.size - at)
        got = bytes(h.pread(n, at))
        if got == safe.read(at, n):
            lost += got != disk.read(at, n)
        else:
            for pos, length in sector_pieces(at, n):
                assert got[pos - at:][:length] in (
                    disk.read(pos, length), new.read(pos, length)), pos
        disk.write(got, at)
    return lost

lost = marked = 0
for kind, cs in qedtest.some((("full", 4096), ("full", 65536),
                              ("short", 65536), ("chain", 65536),
                              ("odd", 4096)), 1):
    r = random.Random(f"{kind} {cs}")
    size = 8 * MiB + 512
    o = qedtest.Overlay(r, kind, size, cs, 1)
    disk = o.disk
    for _ in qedtest.some(range(5), 3):
        safe = disk.copy()
        with qedtest.Server("qed", o.path) as s:
            h = s.connect()
            for _ in range(r.randrange(25)):
                n = int(2 ** r.uniform(0, 17))
                offset = r.randrange(size - n)
                what = qedtest.random_op(r, h, disk, offset, n)
                if what == "fua":
                    safe.write(disk.read(offset, n), offset)
                    # FUA makes the rest of the cluster durable, too.
                    for at in range(offset // cs * cs, offset + n, cs):
                        length = min(cs, size - at)
                        safe.write(disk.read(at, length), at)
                if r.random() < 0.1:
                    h.flush()
                    safe = disk.copy()
            # Each of these in a part of the disk of its own.
            flying = []
            for i in range(8):
                n = int(2 ** r.uniform(9, 17))
                offset = i * MiB + r.randrange(MiB - n)
                b = r.randbytes(n)
                h.aio_pwrite(b, offset)
                flying.append((b, offset))
            if r.random() < 0.5:
                h.aio_flush()
            for _ in range(r.randrange(12)):
                h.poll(0)
            time.sleep(r.random() / 100)
            s.kill()
        refs = qedimg.References(o.path)
        refs.check_consistent()
        marked += refs.need_check()
        qedtest.qemu_check(o.path)
        # Without a repair, as with -r.
        with qedtest.Server("-r", "qed", o.path) as s:
            lost += settle(s.connect(), disk, safe, flying, cs)
        o.check_below()
    with qedtest.Server("qed", o.path) as s:
        qedtest.check_disk(s.connect(), disk)
    o.check(leaks=True)
print(lost, "clusters were not committed yet")
assert marked
END
