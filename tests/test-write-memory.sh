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
skip_if_instrumented "the size of memory"

# A disk of 1 TiB that is written all over takes little more memory than
# cache-size.  (I7)
"$PYTHON" - <<'END'
import random
import qedimg, qedtest
from qedtest import MiB

T = 1 << 40
path = qedtest.TMP + "/m.qed"

def peak(size, *args):
    r = random.Random(6)
    qedimg.Image(T).save(path)
    with qedtest.Server("qed", path, *args) as s:
        h = s.connect()
        for i in range(5000):
            h.pwrite(b"%07d|" % i * 64, r.randrange(size // 512) * 512)
        used = s.memory("VmHWM")
    qedimg.References(path).check_clean()
    return used

base = peak(64 * MiB, "cache-size=1M")
for cache in (1, 8):
    used = peak(T, f"cache-size={cache}M") - base
    print(f"cache-size {cache} MiB: {used / MiB:.1f} MiB more than the "
          f"{base / MiB:.1f} MiB for a small part of the disk")
    assert used < (cache + 3) * MiB
END
