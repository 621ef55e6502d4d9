#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Writes work at offsets of the disk and of the file beyond 32 bits.

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import os, random
import qedimg, qedtest

path = qedtest.TMP + "/b.qed"
r = random.Random(5)
for cs, ts, size in ((65536, 4, (3 << 40) + 512),
                     (65536, 16, qedimg.max_size(65536, 16)),
                     # Tables of 1 GiB: the file is soon larger than 4 GiB.
                     (1 << 26, 16, qedimg.MAX_SIZE)):
    qedimg.Image(size, cs, ts).save(path)
    disk = qedtest.Disk(size)
    places = [1 << k for k in (31, 32, 33, 40, 41, 48, 50, 62, 63)] + [size]
    places = [p for p in places if p <= size]
    r.shuffle(places)
    if cs == 1 << 26:
        places = places[:5]
    with qedtest.Server("qed", path) as s:
        h = s.connect()
        for p in places:
            for offset, n in ((p - 1, 2), (p - 70000, 69000), (p - 5, 5),
                              (p, 4096), (p - 100, 3 * 65536)):
                if offset + n <= size:
                    b = r.randbytes(n)
                    h.pwrite(b, offset)
                    disk.write(b, offset)
            if p + 65536 <= size:
                h.zero(65000, p + 100)
                disk.zero(65000, p + 100)
        qedtest.check_disk(h, disk)
        # The longest requests that NBD allows.
        if size > 1 << 33:
            h.trim((1 << 32) - 1, size - (1 << 33) + 1)
            h.zero((1 << 32) - 1, (1 << 31) + 1)
            disk.zero((1 << 32) - 1, (1 << 31) + 1)
            qedtest.check_range(h, disk, (1 << 31) - 65536, (1 << 31) + 65536)
            end = (1 << 31) + (1 << 32)
            qedtest.check_range(h, disk, end - 65536, end + 65536)
        if cs == 1 << 26:
            assert os.path.getsize(path) > 1 << 32
    with qedtest.Server("-r", "qed", path) as s:
        qedtest.check_disk(s.connect(), disk)
    qedtest.check_image(path, disk)
    os.unlink(path)
END
