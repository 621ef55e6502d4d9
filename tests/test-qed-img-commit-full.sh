#!/usr/bin/env bash
# nbdkit-qed
# Copyright (C) 2026 nbdkit-qed authors
#
# Redistribution and use in source and binary forms, with or without
# modification, are permitted provided that the following conditions are
# met:
#
# * Redistributions of source code must retain the above copyright
# notice, this list of conditions and the following disclaimer.
#
# * Redistributions in binary form must reproduce the above copyright
# notice, this list of conditions and the following disclaimer in the
# documentation and/or other materials provided with the distribution.
#
# * Neither the name of nbdkit-qed nor the names of its contributors may be
# used to endorse or promote products derived from this software without
# specific prior written permission.
#
# THIS SOFTWARE IS PROVIDED BY THE AUTHORS AND CONTRIBUTORS ''AS IS'' AND
# ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO,
# THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A
# PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE AUTHORS OR
# CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
# SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT
# LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF
# USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND
# ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY,
# OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT
# OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF
# SUCH DAMAGE.
source ./functions.sh
set -e
set -x
requires_nbd

# A commit that fails because the base's filesystem is full leaks nothing in the
# base, however often, and the disk stays the same.
if [ "$(id -u)" -ne 0 ]; then
    skip "only root can mount"
fi
mkdir $d/small
if ! mount -t tmpfs -o size=5M none $d/small; then
    skip "no tmpfs can be mounted here"
fi
cleanup_fn umount $d/small
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
