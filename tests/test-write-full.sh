#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# When the host's filesystem is full writes fail with ENOSPC, and existing data
# stays.  Further attempts cost next to nothing, and with room again writes
# succeed.

source ./functions.sh nbd qemu mount

small_filesystem $d/small 3M
"$PYTHON" - <<'END'
import os, random
import qedimg, qedtest

path = qedtest.TMP + "/small/x.qed"
ballast = qedtest.TMP + "/small/ballast"
MiB = 1 << 20
r = random.Random(12)
for cs, ts in qedtest.some(((4096, 1), (65536, 4), (1 << 20, 2)), 1):
    size = min(8 << 30, qedimg.max_size(cs, ts))
    qedimg.Image(size, cs, ts).save(path)
    disk = qedtest.Disk(size)
    with open(ballast, "wb") as f:
        f.write(bytes(MiB))

    def write(n, offset):
        return qedtest.write_if_room(h, disk, r.randbytes(n), offset)

    with qedtest.Server("qed", path) as s:
        h = s.connect()
        for i in range(1000):
            if not write(40960, i * 2 * MiB % size // 512 * 512):
                break
        else:
            raise AssertionError("not full")
        assert i > 10
        qedtest.check_disk(h, disk)
        length = os.path.getsize(path)
        # New clusters, new tables, both; a cluster that has a part.
        for k in range(200):
            assert not write(40960, (i + k % 50) * 2 * MiB)
            if k % 40 == 0:
                h.pwrite(b"in place", i // 2 * 2 * MiB)
                disk.write(b"in place", i // 2 * 2 * MiB)
                h.flush()
        assert os.path.getsize(path) <= length + 64 * MiB
        qedtest.check_disk(h, disk)

        os.unlink(ballast)
        assert write(MiB // 2, 1 * MiB + 5)
        assert write(40960, (i + 3) * 2 * MiB)
        h.flush()
        qedtest.check_disk(h, disk)
        # Trimming makes room, too.
        while write(16384, r.randrange(i) * 2 * MiB + MiB + 65536):
            pass
        for k in range(10):
            h.trim(40960, k * 2 * MiB)
            disk.zero(40960, k * 2 * MiB)
        assert write(16384, (i + 7) * 2 * MiB)
        qedtest.check_disk(h, disk)
    # A failed write may leak the clusters it has written, but only once.
    assert qedimg.References(path).leaks <= 5 * (40960 // cs + 1)
    qedtest.check_image(path, disk, leaks=True)
    os.unlink(path)
END
