#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A commit that fails because the base's filesystem is full leaks nothing in
# the base, however often it is repeated.  The disk keeps its content.

source ./functions.sh nbd mount

small_filesystem $d/small 5M
"$PYTHON" - <<'END'
import os, random, subprocess
import qedimg, qedtest

os.chdir(qedtest.TMP)
MiB = 1 << 20
r = random.Random(5)
base = "small/base.qed"
for cs, ts in (65536, 4), (4096, 1), (MiB, 1):
    qedimg.Image(16 * MiB, cs, ts).save(base)
    disk = qedtest.Disk(16 * MiB)
    with qedtest.Server("qed", base) as s:
        h = s.connect()
        data = r.randbytes(MiB // 2)
        h.pwrite(data, 0)
        disk.write(data, 0)
    qedimg.Image(16 * MiB, 65536, 4, backing=base).save("x.qed")
    with qedtest.Server("qed", "x.qed") as s:
        h = s.connect()
        data = r.randbytes(9 * MiB)
        h.pwrite(data, MiB + 12345)
        disk.write(data, MiB + 12345)
    lengths = []
    for i in range(4):
        p = subprocess.run(["qed-img", "commit", "x.qed"],
                           capture_output=True, text=True)
        assert p.returncode == 1 and "No space left on device" in p.stderr, p
        lengths.append(os.path.getsize(base))
        for path in base, "x.qed":
            qedtest.run("qed-img", "check", path)
            assert qedimg.References(path).leaks == 0
        with open(base, "rb") as f:
            assert f.read(17)[16] == 0 # clean
    assert lengths[1:] == lengths[:1] * 3, lengths
    with qedtest.Server("-r", "qed", "x.qed") as s:
        qedtest.check_disk(s.connect(), disk)
    os.unlink(base)
END
