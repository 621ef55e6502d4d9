#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Of many clients that connect first at the same time one makes the image
# writable and repairs it, once.

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import threading
import qedimg, qedtest

path = qedtest.TMP + "/c.qed"
cs, n = 65536, 16
for _ in qedtest.some(range(5), 2):
    img = qedimg.Image(64 << 20, cs, 4, features=qedimg.F_NEED_CHECK,
                       autoclear_features=1)
    img.data(0, b"0" * cs)
    img.entry(1, 1 << 50)
    img.alloc(3)
    img.save(path)
    disk = qedtest.Disk(64 << 20)
    disk.write(b"0" * cs, 0)
    start = threading.Barrier(n)
    failed = []

    def client(uri, i):
        try:
            start.wait()
            h = qedtest.connect(uri)
            assert h.pread(2 * cs, 0) == b"0" * cs + bytes(cs)
            h.pwrite(bytes([i + 1]) * 5000, 3 * cs + i * 5000)
            h.shutdown()
        except BaseException:
            failed.append(i)
            raise

    with qedtest.Server("-v", "qed", path) as s:
        threads = [threading.Thread(target=client, args=(s.uri, i))
                   for i in range(n)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert not failed, failed
        for i in range(n):
            disk.write(bytes([i + 1]) * 5000, 3 * cs + i * 5000)
        qedtest.check_disk(s.connect(), disk)
        assert s.log().count("not closed cleanly") == 1
    qedtest.check_image(path, disk)
END
