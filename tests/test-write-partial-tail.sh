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

# Bytes after the last whole cluster of the file aren't part of the image, and
# don't get into new clusters, of which only a part is written, nor into new
# tables.  What nobody refers to isn't used again either.  (I2)
"$PYTHON" - <<'END'
import qedimg, qedtest

path = qedtest.TMP + "/t.qed"
MiB = 1 << 20
for features in (0, qedimg.F_NEED_CHECK):
    for cs, ts in qedtest.some(((4096, 1), (65536, 4)), 1):
        for tail in (1, cs - 1):
            size = 64 * MiB
            img = qedimg.Image(size, cs, ts, features=features)
            for _ in range(3):
                lost = img.alloc()
                img.poke(lost * cs, b"lost" * (cs // 4))
            img.tail = b"t" * tail
            img.save(path)
            disk = qedtest.Disk(size)
            with qedtest.Server("qed", path) as s:
                h = s.connect()
                for offset in (5, 3 * cs + 700, 40 * MiB + 1000):
                    h.pwrite(b"x" * 10, offset)
                    disk.write(b"x" * 10, offset)
                qedtest.check_disk(h, disk)
            qedtest.check_image(path, disk, leaks=not features)
END
