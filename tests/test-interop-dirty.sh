#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# QEMU opens, repairs and writes an image that a killed nbdkit left, and nbdkit
# does the same for QEMU.

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import os, subprocess
import qedimg, qedtest

path = qedtest.TMP + "/d.qed"
MiB = 1 << 20
for cs, ts in qedtest.some(((65536, 4), (4096, 2)), 1):
    size = 20 * MiB
    qedimg.Image(size, cs, ts).save(path)
    disk = qedtest.Disk(size)
    for i in range(2):
        with qedtest.Server("qed", path) as s:
            h = s.connect()
            qedtest.check_disk(h, disk)
            for offset, n in ((i * MiB + 5, 300000), (7 * MiB * i, 512),
                              (i * MiB + 200000, 3)):
                b = os.urandom(n)
                h.pwrite(b, offset)
                disk.write(b, offset)
            s.kill()
        assert qedimg.References(path).need_check()
        # QEMU checks the image when it opens it.
        at = (10 + i) * MiB + 512
        p = subprocess.run(["qemu-io", "-f", "qed", "-c",
                            f"write -P 7 {at} 70144", "-c", "flush",
                            "-c", "sigraise 9", path],
                           stdout=subprocess.PIPE)
        assert p.returncode != 0 and b"fail" not in p.stdout, p
        disk.write(b"\x07" * 70144, at)
        refs = qedimg.References(path)
        refs.check_consistent()
        assert refs.need_check()
    with qedtest.Server("qed", path) as s:
        qedtest.check_disk(s.connect(), disk)
    qedtest.check_image(path, disk, leaks=True)
END
