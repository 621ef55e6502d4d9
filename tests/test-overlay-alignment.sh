#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Writes to an overlay at every alignment and of many lengths.  The bytes
# beside them read as the backing file does, before and after the commit of the
# links, whatever kind of file it is.  The backing file does not change.

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import itertools, random
import qedtest
from qedtest import MiB

for kind, (cs, ts, size) in qedtest.some(itertools.product(
        qedtest.Overlay.KINDS, ((4096, 1, MiB), (65536, 4, 6 * MiB),
                                (1 << 20, 2, 12 * MiB))), 3):
    print(kind, cs)
    r = random.Random(f"{kind} {cs}")
    o = qedtest.Overlay(r, kind, size + 512, cs, ts)
    disk = o.disk
    with qedtest.Server("qed", o.path) as s:
        h = s.connect()
        qedtest.check_disk(h, disk)

        def write(offset, n):
            n = min(n, disk.size - offset)
            b = r.randbytes(n)
            h.pwrite(b, offset)
            disk.write(b, offset)
            if r.random() < 0.3:
                h.flush()
            qedtest.check_range(h, disk, max(0, offset - cs),
                                min(offset + n + cs, disk.size))

        # At the ends of the backing file and of the disk.
        for end in min(disk.below.size, disk.size), disk.size:
            for before, n in (1, 1), (513, 512), (cs, 1), (700, 1400):
                write(end - before, n)
        # All alignments and lengths, in any order, from the start to the
        # end: each finds clusters that are still unallocated.
        cases = list(itertools.product(
            (0, 1, -1, 511, 512, 513, -511, -513, cs // 2, cs // 2 - 7),
            (1, 2, 511, 512, 513, 4096, cs - 1, cs, cs + 1, 2 * cs)))
        r.shuffle(cases)
        pos = cs
        for shift, n in cases:
            offset = pos + shift
            if offset + n > disk.size:
                break
            write(offset, n)
            pos = -(-(offset + n) // cs) * cs + r.choice((0, cs))
        qedtest.check_disk(h, disk)
    o.check()
END
