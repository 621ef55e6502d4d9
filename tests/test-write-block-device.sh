#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# An image that fills its block device, and was made as a file.  Allocated
# clusters can be written.  Other writes give ENOSPC, and leak nothing.

source ./functions.sh nbd qemu loop

"$PYTHON" - <<'END'
import qedimg, qedtest
img = qedimg.Image(40 << 20, 65536, 4)
for c in (0, 1, 5, 200):
    img.data(c)
img.zero(2)
img.save(qedtest.TMP + "/x.qed")
END
if ! dev=$(losetup -f --show $d/x.qed); then
    skip "no loop device can be set up"
fi
export dev
cleanup_fn losetup -d $dev
"$PYTHON" - <<'END'
import os
import nbd, qedimg, qedtest

path = os.environ["dev"]
cs = 65536
model = qedimg.Model(path)
disk = qedtest.Disk(model.size)
for c in (0, 1, 5, 200):
    disk.write(model.read(c * cs, cs), c * cs)
model.close()
with qedtest.Server("qed", path) as s:
    h = s.connect()
    assert not h.is_read_only()
    for offset, b in ((5, b"x" * 100000), (200 * cs + 4097, b"y" * 511)):
        h.pwrite(b, offset)
        disk.write(b, offset)
    h.zero(cs, cs // 2)
    disk.zero(cs, cs // 2)
    h.zero(1000, 5 * cs + 1, nbd.CMD_FLAG_NO_HOLE)
    disk.zero(1000, 5 * cs + 1)
    h.trim(3 * cs, 6 * cs)
    for offset in (2 * cs, 3 * cs, 100 * cs + 5):
        qedtest.expect_error("ENOSPC", h.pwrite, b"z" * 512, offset)
    h.flush()
    qedtest.check_disk(h, disk)
qedtest.check_image(path, disk)
END
