#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Zeroed ranges read as zeros and the bytes beside them as before, in
# unallocated, zero and data clusters, for each kind of request, at any
# alignment.  Trimmed ranges have zeros or the old data.

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import itertools, random
import nbd, qedimg, qedtest

path = qedtest.TMP + "/z.qed"
r = random.Random(6)
flags = {"zero": 0, "no_hole": nbd.CMD_FLAG_NO_HOLE,
         "fast": nbd.CMD_FLAG_FAST_ZERO, "fua": nbd.CMD_FLAG_FUA,
         "no_hole+fast": nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO,
         "trim": 0, "trim+fua": nbd.CMD_FLAG_FUA}
for cs, ts in qedtest.some(((4096, 1), (65536, 4)), 1):
    # Repeated runs of data, zero clusters and unallocated clusters, in every
    # order, also at the end of the first L2 table.
    kinds = [k for p in itertools.permutations("dz0") for k in p]
    n = ts * cs // 8
    size = (n + 40) * cs + 512
    img = qedimg.Image(size, cs, ts, seed=cs)
    first = [*range(40), *range(n - 18, n + 40)]
    for i, c in enumerate(first):
        kind = kinds[i // 2 % len(kinds)]
        if kind == "d":
            img.data(c)
        elif kind == "z":
            img.zero(c)
    img.save(path)
    disk = qedtest.Disk(size)
    model = qedimg.Model(path)
    for run in model.runs():
        if run.kind == qedimg.DATA:
            disk.write(model.read(run.start, run.end - run.start), run.start)
    model.close()

    with qedtest.Server("qed", path) as s:
        h = s.connect()
        qedtest.check_disk(h, disk)
        lengths = (1, 511, 512, 4096, cs - 1, cs, cs + 1, 2 * cs, 5 * cs)
        for i in range(len(qedtest.some(range(200), 40))):
            kind = r.choice(list(flags))
            length = r.choice(lengths)
            offset = r.choice(first) * cs + r.choice((0, 0, 1, 511, 512, -5,
                                                      cs // 2, 4096 - 512))
            offset = min(max(0, offset), size - length)
            start, end = max(0, offset - 5000), offset + length + 5000
            end = min(end, size)
            old = disk.read(offset, length)
            if kind.startswith("trim"):
                h.trim(length, offset, flags[kind])
                got = h.pread(length, offset)
                assert all(g in (0, o) for g, o in zip(got, old))
                disk.write(got, offset)
            else:
                try:
                    h.zero(length, offset, flags[kind])
                    disk.zero(length, offset)
                except nbd.Error as e:
                    # A request that failed may have zeroed some of the
                    # sectors.
                    assert "fast" in kind and e.errno in ("ENOTSUP",
                                                          "EOPNOTSUPP"), e
                    got = h.pread(length, offset)
                    assert all(g in (0, o) for g, o in zip(got, old))
                    disk.write(got, offset)
            qedtest.check_range(h, disk, start, end)
            if i % 5 == 0:
                # Write data for the next requests.
                b = r.randbytes(length)
                h.pwrite(b, offset)
                disk.write(b, offset)
        # Zeroing the whole disk must not allocate clusters.
        h.zero(size, 0)
        disk.zero(size, 0)
        qedtest.check_disk(h, disk)
    qedtest.check_image(path, disk)
END
