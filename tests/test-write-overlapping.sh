#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Concurrent requests that overlap, to unallocated, zero and data clusters:
# each sector is as some order of them makes it, and the bytes beside them
# stay.  (I8)

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import itertools, random
import qedimg, qedtest

path = qedtest.TMP + "/o.qed"
r = random.Random(15)
for cs, ts in qedtest.some(((4096, 1), (65536, 4)), 1):
    size = 16 << 20
    img = qedimg.Image(size, cs, ts)
    for c in range(0, size // cs, 3):
        img.zero(c)
    img.save(path)
    disk = qedtest.Disk(size)
    with qedtest.Server("qed", path) as s:
        handles = [s.connect() for _ in range(4)]
        pos = 0
        for _ in range(len(qedtest.some(range(60), 20))):
            base = pos + r.choice((0, 1, 700, cs - 512, cs // 2))
            span = r.choice((512, 1000, 4096, cs, 2 * cs + 100))
            pos = (base + span) // cs * cs + r.choice((0, cs, 2 * cs))
            if base + span + 5000 > size:
                break
            ops = []
            for h in handles:
                start = base + r.randrange(span)
                n = r.randrange(1, base + span - start + 1)
                # None means a zero request.
                b = r.randbytes(n) if r.random() < 0.8 else None
                ops.append((h, start, n, b))
            cookies = [h.aio_zero(n, start) if b is None
                       else h.aio_pwrite(b, start)
                       for h, start, n, b in ops]
            for (h, *_), cookie in zip(ops, cookies):
                while not h.aio_command_completed(cookie):
                    h.poll(-1)

            first, last = base // 512 * 512, -(-(base + span) // 512) * 512
            got = bytes(handles[0].pread(last - first, first))
            for sector in range(first, last, 512):
                old = disk.read(sector, 512)
                possible = set()
                for order in itertools.permutations(ops):
                    new = bytearray(old)
                    for _, start, n, b in order:
                        lo = max(start, sector)
                        hi = min(start + n, sector + 512)
                        if lo < hi:
                            new[lo - sector:hi - sector] = (
                                bytes(hi - lo) if b is None
                                else b[lo - start:hi - start])
                    possible.add(bytes(new))
                assert got[sector - first:][:512] in possible, sector
            disk.write(got, first)
            qedtest.check_range(handles[1], disk, max(0, first - cs),
                                min(size, last + cs))
        qedtest.check_disk(handles[2], disk)
    qedtest.check_image(path, disk)
END
