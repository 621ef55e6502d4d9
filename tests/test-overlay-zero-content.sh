#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Zeros and trims at random: the bytes beside them keep the backing file's
# content, and zeroed data never shows it again.  Whole unallocated clusters
# become zero clusters.

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import random
import nbd, qedimg, qedtest

flags = {"zero": 0, "no_hole": nbd.CMD_FLAG_NO_HOLE,
         "fua": nbd.CMD_FLAG_FUA, "trim": 0, "trim+fua": nbd.CMD_FLAG_FUA}
for kind, (cs, ts) in qedtest.some(((k, g) for k in qedtest.Overlay.KINDS
                                    for g in ((4096, 1), (65536, 4))), 2):
    print(kind, cs)
    r = random.Random(f"{kind} {cs}")
    size = 96 * cs + 512
    o = qedtest.Overlay(r, kind, size, cs, ts)
    disk = o.disk
    img = o.image(cs, ts)
    # Unallocated, zero and data, in every order.
    for c in range(97):
        n = min(cs, size - c * cs)
        what = r.choice("uuzd")
        if what == "d":
            b = r.randbytes(n)
            img.data(c, b)
            disk.write(b, c * cs)
        elif what == "z":
            img.zero(c)
            disk.zero(n, c * cs)
    img.save(o.path)
    model = qedimg.Model(o.path)
    unallocated = {c for c in range(97)
                   if model.lookup(c)[0] == qedimg.UNALLOCATED}
    model.close()
    zeroed = set()
    with qedtest.Server("qed", o.path) as s:
        h = s.connect()
        qedtest.check_disk(h, disk)
        for i in range(60):
            what = r.choice(list(flags))
            n = r.choice((1, 511, 512, 4096, cs - 1, cs, cs + 1, 2 * cs,
                          3 * cs))
            offset = r.randrange(97) * cs + r.choice((0, 0, 1, 511, 512, -5,
                                                      cs // 2))
            offset = min(max(0, offset), size - n)
            old = disk.read(offset, n)
            if what.startswith("trim"):
                h.trim(n, offset, flags[what])
                got = h.pread(n, offset)
                assert all(g in (0, x) for g, x in zip(got, old))
                disk.write(got, offset)
            else:
                h.zero(n, offset, flags[what])
                disk.zero(n, offset)
                whole = range(-(-offset // cs), (offset + n) // cs)
                zeroed |= unallocated.intersection(whole)
                unallocated -= set(range(offset // cs,
                                         -(-(offset + n) // cs)))
            qedtest.check_range(h, disk, max(0, offset - cs),
                                min(size, offset + n + cs))
            if i % 6 == 0:
                b = r.randbytes(n)
                h.pwrite(b, offset)
                disk.write(b, offset)
                touched = set(range(offset // cs, -(-(offset + n) // cs)))
                unallocated -= touched
                zeroed -= touched
            elif i % 6 == 3:
                h.flush()
        qedtest.check_disk(h, disk)
    o.check()
    model = qedimg.Model(o.path)
    kinds = {c: model.lookup(c)[0] for c in range(97)}
    model.close()
    for c in unallocated:
        assert kinds[c] == qedimg.UNALLOCATED, c
    # Zeroing a part of a zero cluster leaves it a zero cluster.
    for c in zeroed:
        assert kinds[c] == qedimg.ZERO, c
END
