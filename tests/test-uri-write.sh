#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# An image on an NBD server can be written, by several clients: clusters are
# allocated in the room that the export has.  The file behind it is a sound
# image with the content of the disk, and is clean at the end.

source ./functions.sh nbd qemu libnbd filter:nozero,multi-conn

"$PYTHON" - <<'END'
import os, random
import nbd, qedimg, qedtest

os.chdir(qedtest.TMP)
MiB = 1 << 20
r = random.Random(5)
size = 8 * MiB
for cs, ts in qedtest.some(((65536, 4), (4096, 1)), 1):
    for args, option in ((), ()), (("--filter=nozero",), ()), \
                        (("--filter=multi-conn",), ("multi-conn-mode=disable",)):
        img = qedimg.Image(size, cs, ts)
        img.data(2)
        img.save("x.qed")
        disk = qedtest.Disk(size)
        model = qedimg.Model("x.qed")
        disk.write(model.read(0, size), 0)
        model.close()
        with open("x.qed", "ab") as f:
            f.write(b"garbage!" * (12 * MiB // 8))
        length = os.path.getsize("x.qed")
        with qedtest.Server(*args, "file", "x.qed", *option) as store:
            with qedtest.Server("qed", "uri=" + store.uri) as s:
                h = s.connect()
                assert not h.is_read_only() and h.can_multi_conn()
                for _ in range(60):
                    n = int(2 ** r.uniform(0, 18))
                    qedtest.random_op(r, h, disk, r.randrange(size - n), n)
                qedtest.check_disk(s.connect(), disk)
                qedtest.random_clients(s.uri, disk, 3, 3)
                h.flush()
                qedtest.check_disk(h, disk)
            with qedtest.Server("-r", "qed", "uri=" + store.uri) as s:
                qedtest.check_disk(s.connect(), disk)
        assert os.path.getsize("x.qed") == length
        # As a file the image would end with its last cluster.
        os.truncate("x.qed", qedimg.References("x.qed").used_end)
        qedtest.check_image("x.qed", disk, leaks=True)
END
