#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# When the file reaches its size limit (ulimit -f, which also sends a signal)
# the client gets ENOSPC, and the server goes on.

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import random, resource
import nbd, qedimg, qedtest

path = qedtest.TMP + "/x.qed"
MiB = 1 << 20
r = random.Random(13)
for cs, ts in qedtest.some(((65536, 4), (4096, 2)), 1):
    qedimg.Image(1 << 30, cs, ts).save(path)
    disk = qedtest.Disk(1 << 30)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (70 * MiB - 5, before[1]))
    with qedtest.Server("qed", path) as s:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        h = s.connect()
        b = r.randbytes(MiB)
        for i in range(100):
            try:
                h.pwrite(b, i * MiB)
            except nbd.Error as e:
                assert e.errno == "ENOSPC", e
                break
            disk.write(b, i * MiB)
        # The writes fail only at the limit.
        assert 65 <= i < 70, i
        for k in range(i + 1, i + 50):
            qedtest.expect_error("ENOSPC", h.pwrite, b, k * MiB)
        for k in (i, i + 1, i + 49):
            got = h.pread(MiB, k * MiB)
            assert all(g in (0, x) for g, x in zip(got, b))
            disk.write(got, k * MiB)
        qedtest.check_disk(h, disk)
        # Writes that need no space still work.
        h.pwrite(b[5:], 3 * MiB)
        disk.write(b[5:], 3 * MiB)
        h.zero(5 * MiB, 7 * MiB + 1)
        disk.zero(5 * MiB, 7 * MiB + 1)
        h.flush()
        qedtest.check_disk(h, disk)
    qedtest.check_image(path, disk)

    with qedtest.Server("qed", path) as s:
        h = s.connect()
        h.pwrite(b, i * MiB)
        disk.write(b, i * MiB)
        h.pwrite(b, 500 * MiB)
        disk.write(b, 500 * MiB)
        qedtest.check_disk(h, disk)
    qedtest.check_image(path, disk)
END
