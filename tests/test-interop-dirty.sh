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
requires_qemu

# What a killed nbdkit leaves, QEMU opens, repairs and writes; and the other
# way round.
"$PYTHON" - <<'END'
import os, subprocess
import qedimg, qedtest

path = qedtest.TMP + "/d.qed"
MiB = 1 << 20
for cs, ts in qedtest.some(((65536, 4), (4096, 2)), 1):
    size = 20 * MiB
    qedimg.Image(size, cs, ts).save(path)
    disk = qedtest.Disk(size)
    for i in range(2):
        with qedtest.Server("qed", path) as s:
            h = s.connect()
            qedtest.check_disk(h, disk)
            for offset, n in ((i * MiB + 5, 300000), (7 * MiB * i, 512),
                              (i * MiB + 200000, 3)):
                b = os.urandom(n)
                h.pwrite(b, offset)
                disk.write(b, offset)
            s.kill()
        assert qedimg.References(path).need_check()
        # QEMU checks it when it opens it.
        at = (10 + i) * MiB + 512
        p = subprocess.run(["qemu-io", "-f", "qed", "-c",
                            f"write -P 7 {at} 70144", "-c", "flush",
                            "-c", "sigraise 9", path],
                           stdout=subprocess.PIPE)
        assert p.returncode != 0 and b"fail" not in p.stdout, p
        disk.write(b"\x07" * 70144, at)
        refs = qedimg.References(path)
        refs.check_consistent()
        assert refs.need_check()
    with qedtest.Server("qed", path) as s:
        qedtest.check_disk(s.connect(), disk)
    qedtest.check_image(path, disk, leaks=True)
END
