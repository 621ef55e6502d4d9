#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Zeroing gigabytes over a larger backing file writes only entries in tables.
# The content is right around the ends and where the backing file has data.

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import os, random
import nbd, qedimg, qedtest
from qedtest import MiB

GiB = 1 << 30
r = random.Random(23)
size = 12 * GiB + 512
base = qedtest.Disk(size + MiB)
places = [0, GiB - 5000, 3 * GiB + 7, 5 * GiB - 70000, 7 * GiB, 8 * GiB,
          10 * GiB, size - 100000]
for at in places:
    base.write(r.randbytes(150000), at)
base.save(qedtest.TMP + "/base.raw")
path = qedtest.TMP + "/overlay.qed"
for cs, ts in qedtest.some(((65536, 4), (4096, 16)), 1):
    img = qedimg.Image(size, cs, ts, backing="base.raw",
                       features=qedimg.F_BACKING_FORMAT_NO_PROBE)
    img.save(path)
    before = os.path.getsize(path)
    start, end = GiB + 1000, 9 * GiB - 70000

    def want(offset, n):
        b = bytearray(base.read(offset, n))
        lo, hi = max(start, offset), min(end, offset + n)
        if lo < hi:
            b[lo - offset:hi - offset] = bytes(hi - lo)
        return bytes(b)

    def check(h):
        for at in [*places, start, end - 10000, *(r.randrange(size) for _ in
                                                  range(30))]:
            at = max(0, at - 50000)
            n = min(250000, size - at)
            qedtest.check_bytes(h.pread(n, at), want(at, n), at)

    with qedtest.Server("qed", path) as s:
        h = s.connect()
        pos = start
        while pos < end:
            # The longest request that ends at a cluster boundary.
            n = min(end - pos, (1 << 32) - cs - pos % cs)
            h.zero(n, pos, r.choice((0, nbd.CMD_FLAG_NO_HOLE)))
            pos += n
        check(h)
        got = qedtest.extents(h, start // cs * cs + cs, end // cs * cs)
        assert [e.flags for e in got] == [3], got
        # Write into the middle.
        h.pwrite(b"x" * 1000, 5 * GiB)
        assert h.pread(3000, 5 * GiB - 1000) == \
            bytes(1000) + b"x" * 1000 + bytes(1000)
        h.zero(1000, 5 * GiB)
        check(h)
    with qedtest.Server("-r", "qed", path) as s:
        check(s.connect())
    refs = qedimg.References(path)
    refs.check_clean()
    qedtest.qemu_check(path)
    model = qedimg.Model(path)
    for c in (start // cs + 1, end // cs - 1, 3 * GiB // cs):
        assert model.lookup(c)[0] == qedimg.ZERO, c
    model.close()
    # The file grows by the tables and a few clusters.
    tables = -(-size // (ts * cs // 8 * cs)) * ts * cs
    assert os.path.getsize(path) <= before + tables + 8 * cs
END
