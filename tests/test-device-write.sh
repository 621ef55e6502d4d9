#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# An image in a block device can be written to anywhere.  New clusters come from
# behind what is in use.  What the device held there before is never seen, also
# by QEMU, over several sessions and with pauses in which the image is marked
# as clean.

source ./functions.sh nbd qemu loop

garbage_device 24
"$PYTHON" - <<'END'
import os, random, time
import qedimg, qedtest

path = os.environ["dev"]
for cs, ts in qedtest.some(((4096, 1), (65536, 4), (65536, 16)), 1):
    r = random.Random(cs + ts)
    size = 8 << 20
    qedtest.qed_img("create", "-q", "-o", f"cluster_size={cs},table_size={ts}",
                    path, str(size))
    disk = qedtest.Disk(size)
    for session in qedtest.some(range(4), 2):
        with qedtest.Server("qed", path) as s:
            h = s.connect()
            qedtest.check_disk(h, disk)
            for i in range(60):
                n = min(int(2 ** r.uniform(0, 18)), 200000)
                qedtest.random_op(r, h, disk, r.randrange(size - n), n)
                if i == 30 and session == 1:
                    h.flush()
                    time.sleep(6)
                    assert not qedimg.References(path).need_check()
            h.flush()
            qedtest.check_disk(h, disk)
        qedtest.check_image(path, disk)
        qedtest.qed_img("check", path)
END
