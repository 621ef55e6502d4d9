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

# 64 TiB, with data at the ends and in the middle, are mapped completely and
# fast; most of the time goes by in requests, which can't be larger than
# 4 GiB.
"$PYTHON" - <<'END'
import os, time
import qedimg, qedtest
from qedtest import Extent

path = qedtest.TMP + "/64t.qed"
T = 1 << 40
G = 1 << 30
img = qedimg.Image(64 * T)
full = b"\1" * 65536
for offset in (0, 2 * G - 65536, 2 * G, 32 * T + 65536, 64 * T - 65536):
    img.data(offset // 65536, full)
img.save(path)
with qedtest.Server("qed", path) as s:
    h = s.connect()
    t = time.monotonic()
    got = qedtest.extents(h)
    t = time.monotonic() - t
    print("mapped in %.2f s" % t)
    pos = 0
    want = []
    for a, b in ((0, 65536), (2 * G - 65536, 2 * G + 65536),
                 (32 * T + 65536, 32 * T + 131072),
                 (64 * T - 65536, 64 * T)):
        if a > pos:
            want.append(Extent(pos, a, 3))
        want.append(Extent(a, b, 0))
        pos = b
    assert got == want, got
    assert t < 10 or "NBDKIT_VALGRIND" in os.environ, t
    # An answer may be longer than the question.
    e = qedtest.block_status(h, 1 * T, 512)
    assert len(e) == 1 and e[0].flags == 3, e
END
start_nbdkit qed $d/64t.qed
nbdinfo --map --totals "$uri" | tee $d/totals
# 5 data clusters of 64 TiB.
grep -E '^ *327680 .*data' $d/totals
