#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Writes of up to 64 MiB, the most that nbdkit accepts, cross tens of L2
# tables.  They go to unallocated clusters, to allocated ones, and to both.

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import random
import qedimg, qedtest

MiB = 1 << 20
path = qedtest.TMP + "/l.qed"
r = random.Random(4)
block = r.randbytes(64 * MiB)
for cs, ts in qedtest.some(((4096, 1), (65536, 4)), 1):
    size = 160 * MiB
    qedimg.Image(size, cs, ts).save(path)
    disk = qedtest.Disk(size)
    with qedtest.Server("qed", path) as s:
        h = s.connect()
        for offset, length in ((1234567, 64 * MiB), (40 * MiB + 1, 64 * MiB),
                               (5, 64 * MiB - 1), (32 * MiB, 32 * MiB),
                               (size - 17 * MiB - 3, 17 * MiB + 3)):
            # Each write has different bytes.
            b = memoryview(block)[offset % 4093:]
            b = bytes(b[:length]) + block[:max(0, length - len(b))]
            h.pwrite(b, offset)
            disk.write(b, offset)
            qedtest.check_range(h, disk, max(0, offset - 5000),
                                min(size, offset + length + 5000))
        qedtest.check_disk(h, disk)
    qedtest.check_image(path, disk)
END
