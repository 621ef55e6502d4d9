#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Bytes after the last whole cluster of the file are not part of the image.
# They do not get into new clusters that are written in part, nor into new
# tables.  Unreferenced clusters are not reused, either.  (I2)

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import qedimg, qedtest

path = qedtest.TMP + "/t.qed"
MiB = 1 << 20
for features in (0, qedimg.F_NEED_CHECK):
    for cs, ts in qedtest.some(((4096, 1), (65536, 4)), 1):
        for tail in (1, cs - 1):
            size = 64 * MiB
            img = qedimg.Image(size, cs, ts, features=features)
            for _ in range(3):
                lost = img.alloc()
                img.poke(lost * cs, b"lost" * (cs // 4))
            img.tail = b"t" * tail
            img.save(path)
            disk = qedtest.Disk(size)
            with qedtest.Server("qed", path) as s:
                h = s.connect()
                for offset in (5, 3 * cs + 700, 40 * MiB + 1000):
                    h.pwrite(b"x" * 10, offset)
                    disk.write(b"x" * 10, offset)
                qedtest.check_disk(h, disk)
            qedtest.check_image(path, disk, leaks=not features)
END
