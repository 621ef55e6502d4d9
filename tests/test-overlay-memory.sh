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

# Links that wait for a commit, all over a disk of 1 TiB, take no more memory
# than cache-size allows: there is a commit when they are too many.  (I7)
"$PYTHON" - <<'END'
import os, random
import qedimg, qedtest
from qedtest import MiB

T = 1 << 40
path = qedtest.TMP + "/m.qed"
with open(qedtest.TMP + "/base.raw", "wb") as f:
    f.truncate(T)

def peak(size, cache):
    r = random.Random(6)
    qedimg.Image(T, backing="base.raw",
                 features=qedimg.F_BACKING_FORMAT_NO_PROBE).save(path)
    places = [r.randrange(size // 512) * 512 for _ in range(4000)]
    with qedtest.Server("qed", path, "cache-size=" + cache) as s:
        h = s.connect()
        for i, at in enumerate(places):
            h.pwrite(b"%07d|" % i * 64, at)
        used = s.memory("VmHWM")
        wrote = dict(zip(places, range(4000)))
        for at in r.sample(places, 300):
            assert h.pread(512, at) == b"%07d|" % wrote[at] * 64, at
    qedimg.References(path).check_clean()
    return used

base = peak(64 * MiB, "64k")
for cache, limit in (("64k", 3 * MiB), ("8M", 11 * MiB)):
    used = peak(T, cache) - base
    print(f"cache-size {cache}: {used / MiB:.1f} MiB more than the "
          f"{base / MiB:.1f} MiB for a small part of the disk")
    assert used < limit
END
