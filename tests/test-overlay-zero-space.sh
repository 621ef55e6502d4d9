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
requires_punch_hole

# Zeroed or trimmed data of an overlay gives its space back to the host, and
# stays where it is: as data, so that what is below doesn't show.  A trim of
# what is unallocated leaves it so.
"$PYTHON" - <<'END'
import os, random
import nbd, qedimg, qedtest
from qedtest import MiB

def du():
    return os.stat(o.path).st_blocks * 512

for cs, ts in qedtest.some(((4096, 4), (65536, 4)), 1):
    r = random.Random(cs)
    o = qedtest.Overlay(r, "full", 16 * MiB, cs, ts)
    with qedtest.Server("qed", o.path) as s:
        h = s.connect()
        for free in (lambda n, at: h.trim(n, at),
                     lambda n, at: h.zero(n, at),
                     lambda n, at: h.zero(n, at, nbd.CMD_FLAG_FAST_ZERO)):
            b = r.randbytes(8 * MiB - 1000)
            h.pwrite(b, 3 * MiB + 500)
            o.disk.write(b, 3 * MiB + 500)
            h.flush()
            full = du()
            assert full >= 8 * MiB
            # All of it, while links wait: more than was written before.
            h.pwrite(b[:100], 12 * MiB + 7)
            o.disk.write(b[:100], 12 * MiB + 7)
            free(8 * MiB, 3 * MiB)
            o.disk.zero(8 * MiB, 3 * MiB)
            h.flush()
            assert du() <= full - 7 * MiB, (full, du())
            qedtest.check_disk(h, o.disk)
        h.trim(MiB, MiB)
        qedtest.check_disk(h, o.disk)
    o.check()
    model = qedimg.Model(o.path)
    for c in range(3 * MiB // cs, 11 * MiB // cs):
        assert model.lookup(c)[0] == qedimg.DATA, c
    for c in range(MiB // cs, 2 * MiB // cs):
        assert model.lookup(c)[0] == qedimg.UNALLOCATED, c
    model.close()
    assert os.path.getsize(o.path) <= 9 * MiB + 5 * ts * cs
END
