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

# Where qemu-img 7.2 is wrong.  That it is shows that this is worth a test; a
# later one may be right.
"$PYTHON" - <<'END'
import json, subprocess
import qedcheck, qedimg, qedtest

path = qedtest.TMP + "/r.qed"

def clean():
    out, err, *_ = qedcheck.check(path)
    assert out.startswith("No errors were found on the image.\n"), out
    qedcheck.expect(path)

# A table of one cluster can be created but not opened.
img = qedimg.Image(1 << 30, 4096, 1)
for c in range(0, 5000, 7):
    img.data(c, b"x")
img.save(path)
clean()

# Geometries that it refuses.
for cs, ts in ((4 << 20, 4), (64 << 20, 1), (64 << 20, 16)):
    img = qedimg.Image(1 << 40, cs, ts)
    for c in (0, 1, 17):
        img.data(c, b"x")
    img.save(path)
    clean()
    img.entry(5, 7 * cs + 512)
    img.alloc(2)
    img.save(path)
    c = qedcheck.expect(path)
    assert (c.corruptions, c.leaks) == (1, 2)

# It takes about one cluster of 4095 for a leak.
img = qedimg.Image(1 << 30, 4096, 16)
for i in range(4):
    img.table(i)
for c in range(9000):
    img.data(c, b"")
img.save(path)
clean()

# A cluster inside a table, or of a table, is no leak, and an entry that may
# not be followed isn't allocated.
img = qedimg.Image(1 << 30)
img.data(0)
img.entry(4, img.table(0) * 65536)
img.entry(5, img.l1_at * 65536)
img.entry(6, 0x10000)
img.save(path)
c = qedcheck.expect(path)
assert (c.corruptions, c.leaks, c.allocated) == (3, 0, 1)
END
