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

# Overlays that are written over something else than their header names.  With
# nothing below them: unallocated clusters are zeros, and so is what surrounds
# what is written into one.
"$PYTHON" - <<'END'
import random
import qedimg, qedtest
from qedtest import MiB

cs = 65536

def writes(r, path, disk, *args):
    with qedtest.Server("qed", path, *args) as s:
        h = s.connect()
        qedtest.check_disk(h, disk)
        for _ in range(40):
            n = int(2 ** r.uniform(0, 17))
            qedtest.random_op(r, h, disk, r.randrange(disk.size // 2 - n), n)
        qedtest.check_disk(h, disk)
    # As it is in the image, with the same below it.
    qedtest.check_image(path, disk, qemu=False)
    qedtest.qemu_check(path)
    with qedtest.Server("-r", "qed", path, *args) as s:
        qedtest.check_disk(s.connect(), disk)

def check_untouched(h, disk, below):
    """Where nothing was written."""
    start, n = disk.size // 2, disk.size // 2 - 5 * cs
    want = qedimg.read_below(below, start, n)
    qedtest.check_bytes(h.pread(n, start), want, start)

r = random.Random(5)
size = 8 * MiB
other = qedtest.Disk(7 * MiB)
other.write(r.randbytes(other.size), 0)
other.save(qedtest.TMP + "/other.raw")
state = open(qedtest.TMP + "/other.raw", "rb").read()
for kind in qedtest.some(("full", "chain"), 1):
    # backing=none and backing=FILE instead of what the header names.
    o = qedtest.Overlay(r, kind, size, cs)
    for below, name in ((None, "none"), (other, qedtest.TMP + "/other.raw")):
        o.image(cs, 4).save(o.path)
        disk = qedtest.Disk(size, below)
        writes(r, o.path, disk, "backing=" + name)
        # And what it is again with the header's.  What was zeroed stays so.
        with qedtest.Server("qed", o.path, "backing=" + name) as s:
            s.connect().zero(3 * cs, size - 5 * cs)
        model = qedimg.Model(o.path)
        assert all(model.lookup(size // cs - 5 + i)[0] == qedimg.ZERO
                   for i in range(3))
        model.close()
        with qedtest.Server("qed", o.path) as s:
            check_untouched(s.connect(), disk, o.disk.below)
        o.check_below()

# A header that names none.
for below, name in ((other, qedtest.TMP + "/other.raw"), (None, "none")):
    qedimg.Image(size, cs, 4).save(o.path)
    disk = qedtest.Disk(size, below)
    writes(r, o.path, disk, "backing=" + name)
    with qedtest.Server("qed", o.path) as s:
        check_untouched(s.connect(), disk, None)
assert open(qedtest.TMP + "/other.raw", "rb").read() == state
END
