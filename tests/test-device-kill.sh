#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A server that is killed while it writes to an image in a block device loses no
# acknowledged write.  Each sector of a request in flight is old or new, and the
# next server goes on in the right place: nothing of the device's old content is
# ever seen.  (I2, I3, I6)

source ./functions.sh nbd qemu loop

garbage_device 48
"$PYTHON" - <<'END'
import os, random, time
import qedimg, qedtest

path = os.environ["dev"]
MiB = 1 << 20
for cs, ts in qedtest.some(((4096, 1), (65536, 4)), 1):
    r = random.Random(cs)
    size = 24 * MiB
    qedtest.qed_img("create", "-q", "-o", f"cluster_size={cs},table_size={ts}",
                    path, str(size))
    disk = qedtest.Disk(size)
    kills = 0
    for _ in qedtest.some(range(6), 3):
        with qedtest.Server("qed", path) as s:
            h = s.connect()
            qedtest.check_disk(h, disk)
            for _ in range(r.randrange(60)):
                n = min(int(2 ** r.uniform(0, 18)), 200000)
                qedtest.random_op(r, h, disk, r.randrange(size - n), n)
            # Each of these in a part of the disk of its own.
            flying = []
            for i in range(12):
                n = int(2 ** r.uniform(9, 18))
                offset = i * 2 * MiB + r.randrange(2 * MiB - n)
                b = r.randbytes(n)
                h.aio_pwrite(b, offset)
                flying.append((b, offset))
            for _ in range(r.randrange(12)):
                h.poll(0)
            time.sleep(r.random() / 100)
            s.kill()
        refs = qedimg.References(path)
        refs.check_consistent()
        kills += refs.need_check()
        qedtest.qemu_check(path)
        with qedtest.Server("-r", "qed", path) as s:
            h = s.connect()
            for b, offset in flying:
                got = h.pread(len(b), offset)
                old = disk.read(offset, len(b))
                pos = 0
                while pos < len(b):
                    end = min(len(b), pos + 512 - (offset + pos) % 512)
                    assert got[pos:end] in (old[pos:end], b[pos:end])
                    pos = end
                disk.write(got, offset)
            qedtest.check_disk(h, disk)
    assert kills
    with qedtest.Server("qed", path) as s:
        h = s.connect()
        qedtest.check_disk(h, disk)
        h.pwrite(b"x", 5)
        disk.write(b"x", 5)
    qedtest.check_image(path, disk, leaks=True)
END
