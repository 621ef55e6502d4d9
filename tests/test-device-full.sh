#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# When a block device is full writes that need new clusters fail with ENOSPC and
# change nothing.  Those to allocated clusters go on, as do zero and trim.  The
# image stays in order.  In a larger device there is room again.

source ./functions.sh nbd qemu loop

garbage_device 8
"$PYTHON" - <<'END'
import os, random
import qedimg, qedtest

path = os.environ["dev"]
MiB = 1 << 20
r = random.Random(9)
qedtest.qed_img("create", "-q", path, "1G")
disk = qedtest.Disk(1 << 30)

with qedtest.Server("qed", path) as s:
    h = s.connect()

    def write(n, offset):
        return qedtest.write_if_room(h, disk, r.randbytes(n), offset)

    for i in range(1000):
        if not write(40960, i * MiB + 5):
            break
    else:
        raise AssertionError("not full")
    # All but the header, the L1 table, and an L2 table.
    assert i == 8 * MiB // 65536 - 9, i
    assert "no more clusters can be allocated" in s.log(), s.log()
    for k in range(200):
        assert not write(65536, r.randrange(i, 1000) * MiB)
        qedtest.random_op(r, h, disk, r.randrange(i) * MiB + 100, 50000)
        if k % 20 == 0:
            h.flush()
    qedtest.check_disk(h, disk)
qedtest.check_image(path, disk)
out, _ = qedtest.qed_img("check", path)
assert "No errors" in out, out

with qedtest.Server("qed", path) as s:
    h = s.connect()
    qedtest.check_disk(h, disk)
    qedtest.expect_error("ENOSPC", h.pwrite, b"x", 900 * MiB)
    h.pwrite(b"in place", 0)
    disk.write(b"in place", 0)

with open(qedtest.TMP + "/device.raw", "ab") as f:
    f.write(r.randbytes(MiB))
qedtest.run("losetup", "-c", path)
with qedtest.Server("qed", path) as s:
    h = s.connect()
    h.pwrite(b"there is room", 900 * MiB + 70)
    disk.write(b"there is room", 900 * MiB + 70)
    qedtest.check_disk(h, disk)
qedtest.check_image(path, disk)
END
