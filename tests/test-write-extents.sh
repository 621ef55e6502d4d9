#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Extents follow the writes.  Data is never reported as zeros, even where a
# cluster had a hole before.  Unwritten and trimmed ranges are holes.

source ./functions.sh nbd punch-hole

"$PYTHON" - <<'END'
import random
import qedimg, qedtest

path = qedtest.TMP + "/e.qed"
MiB = 1 << 20
for cs, ts in qedtest.some(((1 << 20, 2), (65536, 4), (4096, 1)), 1):
    r = random.Random(cs)
    size = 16 * MiB
    qedimg.Image(size, cs, ts).save(path)
    disk = qedtest.Disk(size)

    def check(start, end):
        for e in qedtest.extents(h, start, end):
            zero = not any(disk.read(e.start, e.end - e.start))
            if e.flags & qedtest.ZERO_FLAG:
                assert zero, e
                assert e.flags & qedtest.HOLE_FLAG, e

    with qedtest.Server("qed", path) as s:
        h = s.connect()
        for i in range(len(qedtest.some(range(250), 60))):
            n = int(2 ** r.uniform(9, 19))
            offset = r.randrange(size - n)
            # Sometimes ask before the write, so that a cache may keep the old
            # answer.
            if i % 3:
                check(max(0, offset - 70000), min(size, offset + n + 70000))
            qedtest.random_op(r, h, disk, offset, n)
            check(max(0, offset - 70000), min(size, offset + n + 70000))
            if i % 50 == 0:
                check(0, size)

        # The extents are exact to a block of the host's filesystem.
        h.trim(size, 0)
        disk.zero(size, 0)
        assert qedtest.extents(h) == [(0, size, 3)]
        h.pwrite(b"x" * 65536, 3 * MiB)
        assert qedtest.extents(h) == [
            (0, 3 * MiB, 3), (3 * MiB, 3 * MiB + 65536, 0),
            (3 * MiB + 65536, size, 3)]
        h.trim(65536, 3 * MiB)
        assert qedtest.extents(h) == [(0, size, 3)]
END
