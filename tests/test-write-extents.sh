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
requires_punch_hole

# What extents say follows what is written: never is data called zeros, not
# where there was a hole in a cluster before; what wasn't written, and what
# was trimmed, is a hole.
"$PYTHON" - <<'END'
import random
import qedimg, qedtest

path = qedtest.TMP + "/e.qed"
MiB = 1 << 20
for cs, ts in qedtest.some(((1 << 20, 2), (65536, 4), (4096, 1)), 1):
    r = random.Random(cs)
    size = 16 * MiB
    qedimg.Image(size, cs, ts).save(path)
    disk = qedtest.Disk(size)

    def check(start, end):
        for e in qedtest.extents(h, start, end):
            zero = not any(disk.read(e.start, e.end - e.start))
            if e.flags & qedtest.ZERO_FLAG:
                assert zero, e
                assert e.flags & qedtest.HOLE_FLAG, e

    with qedtest.Server("qed", path) as s:
        h = s.connect()
        for i in range(len(qedtest.some(range(250), 60))):
            n = int(2 ** r.uniform(9, 19))
            offset = r.randrange(size - n)
            # Sometimes, so that it may be remembered.
            if i % 3:
                check(max(0, offset - 70000), min(size, offset + n + 70000))
            qedtest.random_op(r, h, disk, offset, n)
            check(max(0, offset - 70000), min(size, offset + n + 70000))
            if i % 50 == 0:
                check(0, size)

        # In blocks of the host's filesystem it's exact.
        h.trim(size, 0)
        disk.zero(size, 0)
        assert qedtest.extents(h) == [(0, size, 3)]
        h.pwrite(b"x" * 65536, 3 * MiB)
        assert qedtest.extents(h) == [
            (0, 3 * MiB, 3), (3 * MiB, 3 * MiB + 65536, 0),
            (3 * MiB + 65536, size, 3)]
        h.trim(65536, 3 * MiB)
        assert qedtest.extents(h) == [(0, size, 3)]
END
