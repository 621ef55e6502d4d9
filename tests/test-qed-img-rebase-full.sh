#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A rebase that fails because the filesystem is full leaks nothing, however
# often it is repeated.  The image is no longer than its clusters and clean.
# The disk keeps its content.

source ./functions.sh nbd mount

small_filesystem $d/small 6M
"$PYTHON" - <<'END'
import json, os, random, subprocess
import qedimg, qedtest

os.chdir(qedtest.TMP)
MiB = 1 << 20
r = random.Random(3)
base = qedtest.Disk(12 * MiB)
base.write(r.randbytes(12 * MiB), 0)
base.save("base.raw")
for cs, ts in (65536, 4), (4096, 1), (MiB, 1):
    path = "small/x.qed"
    qedimg.Image(12 * MiB, cs, ts, backing=qedtest.TMP + "/base.raw",
                 features=qedimg.F_BACKING_FORMAT_NO_PROBE).save(path)
    disk = qedtest.Disk(12 * MiB, base)
    with qedtest.Server("qed", path, f"backing-dir={qedtest.TMP}") as s:
        h = s.connect()
        data = r.randbytes(4 * MiB)
        h.pwrite(data, MiB + cs // 2)
        disk.write(data, MiB + cs // 2)
    lengths = []
    for i in range(4):
        p = subprocess.run(["qed-img", "rebase", "-b", "",
                            "--backing-dir=" + qedtest.TMP, path],
                           capture_output=True, text=True)
        assert p.returncode == 1 and "No space left on device" in p.stderr, p
        lengths.append(os.path.getsize(path))
        check = subprocess.run(["qed-img", "check", "--output=json", path],
                               capture_output=True, text=True)
        assert check.returncode == 0, check
        assert "leaks" not in json.loads(check.stdout), check.stdout
        assert qedimg.References(path).leaks == 0
        # The header has no other feature bits, so the image is clean.
        with open(path, "rb") as f:
            assert f.read(17)[16] == 1 | qedimg.F_BACKING_FORMAT_NO_PROBE
    # The next attempt does not copy the same clusters again.
    assert lengths[1:] == lengths[:1] * 3, lengths
    with qedtest.Server("-r", "qed", path, f"backing-dir={qedtest.TMP}") as s:
        qedtest.check_disk(s.connect(), disk)
    os.unlink(path)
END
