#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The extents of an overlay while it is written: data in any layer is data.  A
# hole in all layers, the part past the end of the backing file, and zeroed
# clusters are holes.  Links that are still to be committed count.

source ./functions.sh nbd qemu punch-hole

"$PYTHON" - <<'END'
import random
import qedimg, qedtest
from qedtest import MiB

BLOCK = 4096                    # of the host's filesystem

# Exactly the holes that are in the raw file; above it is a layer with a data
# cluster and a zero cluster.
def make_below(r, size):
    base = qedtest.Disk(size)
    path = qedtest.TMP + "/base.raw"
    with open(path, "wb") as f:
        f.truncate(size)
        for i in range(size // (2 * 65536)):
            n = r.randrange(1, 15) * BLOCK
            at = i * 2 * 65536 + r.randrange(16) * BLOCK
            b = qedimg.pattern(1, i, min(n, size - at))
            f.seek(at)
            f.write(b)
            base.write(b, at)
    img = qedimg.Image(size + 20 * BLOCK, 8192, 2, backing="base.raw",
                       features=qedimg.F_BACKING_FORMAT_NO_PROBE)
    disk = qedtest.Disk(size + 20 * BLOCK, base)
    for c in range(0, size // 8192, 9):
        img.data(c)
        disk.write(qedimg.pattern(0, c, 8192), c * 8192)
        img.zero(c + 4)
        disk.zero(8192, (c + 4) * 8192)
    img.save(qedtest.TMP + "/layer.qed")
    return disk

def check(h, disk, may_be_data, start, end, req_one=False):
    """MAY_BE_DATA: blocks in clusters with data, which may be zeros that take
    up space."""
    got = qedtest.extents(h, start, end, req_one)
    assert got[0].start == start and got[-1].end == end
    for e in got:
        for at in range(e.start // BLOCK * BLOCK, e.end, BLOCK):
            lo, hi = max(at, e.start), min(at + BLOCK, e.end)
            zero = not any(disk.read(lo, hi - lo))
            if e.flags:
                assert e.flags == 3 and zero, (e, at)
            else:
                assert not zero or at // BLOCK in may_be_data, (e, at)

for cs in qedtest.some((4096, 65536), 1):
    r = random.Random(cs)
    size = 3 * MiB + 512
    disk = qedtest.Disk(size, make_below(r, 2 * MiB))
    path = qedtest.TMP + "/overlay.qed"
    qedimg.Image(size, cs, 4, backing="layer.qed").save(path)
    may_be_data = set()
    borders = sorted({b + s for b in range(0, size, 7 * 8192)
                      for s in (-1, 0, 1, 4096)
                      if 0 <= b + s < size} | {size})
    with qedtest.Server("qed", path) as s:
        h = s.connect()

        def check_all():
            check(h, disk, may_be_data, 0, size)
            for start, end in zip(borders, borders[3:]):
                check(h, disk, may_be_data, start, end)
                check(h, disk, may_be_data, start, end, True)

        check_all()
        for i in range(60):
            n = min(int(2 ** r.uniform(0, 18)), size)
            at = r.randrange(size - n)
            if i % 4 == 3:
                h.zero(n, at)
                disk.zero(n, at)
            else:
                b = r.randbytes(n).replace(b"\0", b"\1")
                h.pwrite(b, at)
                disk.write(b, at)
            ends = at // cs * cs, min(size, -(-(at + n) // cs) * cs)
            # A cluster that is zeroed as a whole may have had data before.
            may_be_data.update(range(ends[0] // BLOCK, -(-ends[1] // BLOCK)))
            check(h, disk, may_be_data, max(0, ends[0] - cs),
                  min(size, ends[1] + cs))
            if i % 20 == 19:
                # With entries that are not written yet, and without.
                check_all()
                h.flush()
                check_all()

        # A write, a zero cluster and a trim, exactly.
        at = size // 2 // cs * cs
        h.zero(8 * cs, at)
        h.pwrite(b"x" * BLOCK, at + 3 * cs)
        for _ in range(2):
            assert qedtest.extents(h, at, at + 8 * cs) == [
                (at, at + 3 * cs, 3), (at + 3 * cs, at + 3 * cs + BLOCK, 0),
                (at + 3 * cs + BLOCK, at + 8 * cs, 3)]
            h.flush()
        h.trim(8 * cs, at)
        assert qedtest.extents(h, at, at + 8 * cs) == [(at, at + 8 * cs, 3)]
        disk.zero(8 * cs, at)
    qedtest.check_image(path, disk)

# Clusters far apart in a table that is otherwise a hole in the file: links that
# are pending there are found.
GiB = 1 << 30
size = 8 * GiB
with open(qedtest.TMP + "/base.raw", "wb") as f:
    f.truncate(size)
img = qedimg.Image(size, backing="base.raw",
                   features=qedimg.F_BACKING_FORMAT_NO_PROBE)
img.table(0)
img.table(2)
img.save(path)
with qedtest.Server("qed", path) as s:
    h = s.connect()
    places = []
    for at in (5 * MiB, 33 * MiB, 300 * MiB, GiB, 2 * GiB - 65536, 5 * GiB,
               3 * GiB, 700 * MiB, 4 * GiB):
        b = r.randbytes(BLOCK)
        h.pwrite(b, at)
        places = sorted([*places, at])
        got = [e for e in qedtest.extents(h) if e.flags == 0]
        assert got == [(p, p + BLOCK, 0) for p in places], (got, places)
        # A read that starts long before it.
        n = min(20 * MiB, at)
        assert bytes(h.pread(n + BLOCK, at - n))[n:] == b
    h.flush()
    got = [e for e in qedtest.extents(h) if e.flags == 0]
    assert got == [(p, p + BLOCK, 0) for p in places], (got, places)
qedimg.References(path).check_clean()
END
