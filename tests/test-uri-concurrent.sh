#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Four connections with 16 requests in flight each do writes, zeros, trims,
# reads and flushes in any mix, on an image in an export that begins with it
# and goes on with garbage.  The servers of the export take single bytes, or
# whole blocks only, over several connections or one.  Each answer, and in the
# end each byte, is as in the model, and QEMU reads the same.  When the export
# is full, writes in place go on.

source ./functions.sh nbd qemu libnbd filter:blocksize-policy,multi-conn

"$PYTHON" - <<'END'
import os
import nbd
import faulty, qedimg, qedtest

path = qedtest.TMP + "/device"
blocks = ["--filter=blocksize-policy", "file", path,
          "blocksize-error-policy=error", "blocksize-minimum=4096"]
backends = [["file", path], blocks,
            ["--filter=multi-conn", "file", path, "multi-conn-mode=disable"]]
size = 24 << 20

def check(disk):
    """What the model and QEMU read in the export."""
    refs = qedimg.References(path)
    refs.check_consistent()
    assert not refs.need_check()
    model = qedimg.Model(path)
    for start, end in disk.ranges():
        for offset in range(start, end, 1 << 20):
            n = min(1 << 20, end - offset)
            qedtest.check_bytes(model.read(offset, n), disk.read(offset, n),
                                offset)
    model.close()
    qedtest.qemu_check(path)
    raw = qedtest.TMP + "/raw"
    qedtest.run("qemu-img", "convert", "-f", "qed", "-O", "raw", path, raw)
    with open(raw, "rb") as f:
        qedtest.check_bytes(f.read(), disk.read(0, size), 0)

for i, backend in enumerate(qedtest.some(backends, 1)):
    cs, ts = ((4096, 2), (65536, 4), (1 << 20, 2))[i]
    faulty.device(path, 56 << 20, size, cs, ts)
    disk = qedtest.Disk(size)
    with qedtest.Server(*backend) as below:
        for round in range(2):
            with qedtest.Server("qed", "uri=" + below.uri,
                                "cache-size=64k") as s:
                n = len(qedtest.some(range(300), 60))
                qedtest.random_clients(s.uri, disk, f"{cs} {round}", n)
                qedtest.check_disk(s.connect(), disk)
    check(disk)

# No room for all of the disk.
faulty.device(path, 12 << 20, size, 65536, 2)
disk = qedtest.Disk(size)
with qedtest.Server("file", path) as below, \
     qedtest.Server("qed", "uri=" + below.uri) as s:
    h = s.connect()
    full = 0
    for offset in range(0, size, 1 << 16):
        full += not qedtest.write_if_room(h, disk, b"1" * 50000, offset)
    assert full > 100, full
    for offset in range(0, 4 << 20, 1 << 16):
        h.pwrite(b"2" * 777, offset + 333)
        disk.write(b"2" * 777, offset + 333)
    h.flush()
    qedtest.check_disk(h, disk)
    assert "no more clusters can be allocated" in s.log()
check(disk)
END
