#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A trim, or a zero request that allows trimming, gives space back to the host
# at once.  A zero request with NO_HOLE does not.  Repetition does not make the
# file grow.

source ./functions.sh nbd qemu punch-hole

"$PYTHON" - <<'END'
import os, random
import nbd, qedimg, qedtest

path = qedtest.TMP + "/s.qed"
MiB = 1 << 20
r = random.Random(7)

def du():
    return os.stat(path).st_blocks * 512

for cs, ts in qedtest.some(((4096, 4), (65536, 4)), 1):
    qedimg.Image(32 * MiB, cs, ts).save(path)
    disk = qedtest.Disk(32 * MiB)
    size = None
    with qedtest.Server("qed", path) as s:
        h = s.connect()

        def fill():
            b = r.randbytes(16 * MiB)
            h.pwrite(b, 5 * MiB)
            disk.write(b, 5 * MiB)
            h.flush()

        fill()
        full = du()
        assert full >= 16 * MiB, full
        for free in (lambda: h.trim(16 * MiB, 5 * MiB),
                     lambda: h.zero(16 * MiB, 5 * MiB),
                     lambda: h.zero(16 * MiB, 5 * MiB, nbd.CMD_FLAG_FUA),
                     lambda: h.zero(16 * MiB, 5 * MiB,
                                    nbd.CMD_FLAG_FAST_ZERO)):
            free()
            disk.zero(16 * MiB, 5 * MiB)
            h.flush()
            assert du() <= full - 15 * MiB, (full, du())
            qedtest.check_disk(h, disk)
            fill()
            assert abs(du() - full) <= MiB, (full, du())

        # An unaligned trim frees at least the whole blocks in it.
        h.trim(8 * MiB - 1000, 6 * MiB + 500)
        disk.zero(8 * MiB - 1000, 6 * MiB + 500)
        h.flush()
        assert du() <= full - 7 * MiB, (full, du())
        qedtest.check_disk(h, disk)
        fill()

        h.zero(16 * MiB, 5 * MiB, nbd.CMD_FLAG_NO_HOLE)
        disk.zero(16 * MiB, 5 * MiB)
        h.flush()
        assert abs(du() - full) <= MiB, (full, du())
        qedtest.check_disk(h, disk)

        for _ in range(5):
            fill()
            h.zero(16 * MiB, 5 * MiB)
            h.trim(16 * MiB, 5 * MiB)
        fill()
        assert abs(du() - full) <= MiB, (full, du())
    qedtest.check_image(path, disk)
    assert os.path.getsize(path) <= 17 * MiB + 5 * ts * cs
END
