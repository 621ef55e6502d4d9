#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A fast zero that takes only an entry or a hole is done at once.  One that
# would copy from the backing file is refused as a whole.

source ./functions.sh nbd qemu punch-hole

"$PYTHON" - <<'END'
import os, random
import nbd, qedimg, qedtest
from qedtest import MiB

FAST, NO_HOLE = nbd.CMD_FLAG_FAST_ZERO, nbd.CMD_FLAG_NO_HOLE
cs = 65536
size = 16 * MiB
r = random.Random(4)
# The backing file has data up to 8 MiB, and a hole up to its end at 12 MiB.
# The disk has 16 MiB.
base = qedtest.Disk(12 * MiB)
base.write(r.randbytes(8 * MiB), 0)
base.save(qedtest.TMP + "/base.raw")
path = qedtest.TMP + "/overlay.qed"
for flags in (FAST, FAST | NO_HOLE):
    img = qedimg.Image(size, cs, 4, backing="base.raw",
                       features=qedimg.F_BACKING_FORMAT_NO_PROBE)
    img.save(path)
    disk = qedtest.Disk(size, base)
    with qedtest.Server("qed", path) as s:
        h = s.connect()
        assert h.can_fast_zero()

        def fast(n, offset):
            h.zero(n, offset, flags)
            disk.zero(n, offset)
            qedtest.check_disk(h, disk)

        def slow(n, offset):
            file_size = os.path.getsize(path)
            qedtest.expect_error("ENOTSUP", h.zero, n, offset, flags)
            assert os.path.getsize(path) == file_size
            qedtest.check_disk(h, disk)

        # Whole clusters.
        fast(cs, 0)
        fast(5 * cs, 3 * cs)
        # Parts of clusters that read as data.
        slow(1, 20 * cs)
        slow(cs - 1, 20 * cs + 1)
        slow(2 * cs, 21 * cs + 100)
        # The same with data or whole clusters before and after the range.
        for k in (30, 32, 34):
            h.pwrite(b"data" * 512, k * cs + 512)
            disk.write(b"data" * 512, k * cs + 512)
        for k in (28, 30, 32):
            slow(3 * cs + 512, k * cs)
            slow(3 * cs + 512, (k + 2) * cs - 512)
        # Zero clusters, and unallocated clusters that read as zeros.
        fast(100, 100)
        fast(cs, 3 * cs + 7)
        fast(1000, 9 * MiB + 5)
        fast(3 * cs, 14 * MiB + 5)
    qedtest.check_image(path, disk)

# The case in which the bug was found: 4 KiB clusters, the first of which has
# data.
os.unlink(path)
qedimg.Image(size, 4096, 1, backing="base.raw",
             features=qedimg.F_BACKING_FORMAT_NO_PROBE).save(path)
disk = qedtest.Disk(size, base)
with qedtest.Server("qed", path) as s:
    h = s.connect()
    h.pwrite(b"data" * 1024, 2058267 // 4096 * 4096)
    disk.write(b"data" * 1024, 2058267 // 4096 * 4096)
    qedtest.expect_error("ENOTSUP", h.zero, 7371, 2058267, FAST)
    qedtest.check_disk(h, disk)
    h.zero(7371, 2058267)
    disk.zero(7371, 2058267)
    qedtest.check_disk(h, disk)
qedtest.check_image(path, disk)
END
