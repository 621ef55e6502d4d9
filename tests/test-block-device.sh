#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# An image may be in a block device.  Where that is read-only the export is, too,
# as root may open the device for writing all the same.

source ./functions.sh nbd loop

"$PYTHON" - <<'END'
import qedimg, qedtest
img = qedimg.Image(40 << 20, 4096, 2)
for c in (0, 1, 5, 2000):
    img.data(c)
img.zero(2)
img.entry(3, 1 << 30)
img.save(qedtest.TMP + "/x.qed")
END
truncate -s 1M $d/x.qed
if ! dev=$(losetup -f --show -r $d/x.qed); then
    skip "no loop device can be set up"
fi
export dev
cleanup_fn losetup -d $dev
"$PYTHON" - <<'END'
import os, qedtest
dev = os.environ["dev"]
qedtest.serve_and_check(dev)
with qedtest.Server("qed", dev) as s:
    assert s.connect().is_read_only()
END
fails 1 "^qed-img: $dev: the device is read-only$" qed-img check -r all $dev
