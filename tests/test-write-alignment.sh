#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Writes of many lengths work at every alignment.  They are tested around the
# boundaries of sectors, clusters, L2 slices, L2 tables and the disk, in small
# and large geometries.

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import random
import qedimg, qedtest

path = qedtest.TMP + "/a.qed"
r = random.Random(3)
for cs, ts in qedtest.some(((4096, 1), (4096, 2), (4096, 16), (8192, 2),
                            (65536, 4), (65536, 16), (1 << 20, 1),
                            (1 << 22, 2)), 3):
    n = ts * cs // 8
    span = n * cs
    # Slightly more than two tables, or the largest disk of the geometry.
    size = min(2 * span + 3 * cs + 512, qedimg.max_size(cs, ts))
    qedimg.Image(size, cs, ts).save(path)
    disk = qedtest.Disk(size)
    borders = [0, 512, 4096, cs, 2 * cs, 5 * cs, 511 * cs, 512 * cs, span,
               span + cs, 2 * span, size - cs, size - 512, size]
    shifts = [0, 0, 1, -1, 511, 512, 513, -511, -512, -513, -cs // 2]
    lengths = [1, 2, 511, 512, 513, 1000, 4095, 4096, 4097, cs - 1, cs,
               cs + 1, 2 * cs, 3 * cs + 5]
    cases = {(max(0, b + s), min(length, 1 << 21)) for b in borders
             for s in shifts for length in lengths}
    cases = sorted(c for c in cases if sum(c) <= size)
    with qedtest.Server("qed", path) as s:
        h = s.connect()
        count = min(len(cases), 150 if cs <= 65536 else 60)
        for offset, length in qedtest.some(r.sample(cases, count), 40):
            b = r.randbytes(length)
            h.pwrite(b, offset)
            disk.write(b, offset)
            start, end = max(0, offset - 700), offset + length + 700
            qedtest.check_range(h, disk, start, min(end, size))
        qedtest.check_disk(h, disk)
    qedtest.check_image(path, disk)
END
