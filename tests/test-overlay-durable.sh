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

# A server that is killed has lost nothing that was flushed or written with
# FUA; and after some time nothing at all, because links are committed in the
# background.  (I3, I5)
"$PYTHON" - <<'END'
import random
import nbd, qedimg, qedtest
from qedtest import MiB

def linked(path, clusters):
    model = qedimg.Model(path)
    kinds = {model.lookup(c)[0] for c in clusters}
    model.close()
    return kinds == {qedimg.DATA}

cs = 65536
for kind in qedtest.some(("full", "short", "chain"), 1):
    r = random.Random(kind)
    o = qedtest.Overlay(r, kind, 8 * MiB, cs)
    path, disk = o.path, o.disk

    def write(h, n, offset, flags=0):
        b = r.randbytes(n)
        h.pwrite(b, offset, flags)
        disk.write(b, offset)

    # By flush, of this connection and of another.
    with qedtest.Server("qed", path) as s:
        h = s.connect()
        write(h, 1000, 7)
        write(h, 3 * cs, 3 * cs + 1)
        s.connect().flush()
        s.kill()
    with qedtest.Server("-r", "qed", path) as s:
        qedtest.check_disk(s.connect(), disk)

    # By FUA: what it wrote, into one cluster and into some.
    for n in (512, 3 * cs):
        with qedtest.Server("qed", path) as s:
            h = s.connect()
            qedtest.check_disk(h, disk)
            write(h, n, 2 * MiB + n // cs * MiB + 99, nbd.CMD_FLAG_FUA)
            s.kill()
        with qedtest.Server("-r", "qed", path) as s:
            qedtest.check_disk(s.connect(), disk)
    with qedtest.Server("qed", path) as s:
        h = s.connect()
        h.zero(1000, 4 * MiB + 5, nbd.CMD_FLAG_FUA)
        disk.zero(1000, 4 * MiB + 5)
        s.kill()
    with qedtest.Server("-r", "qed", path) as s:
        qedtest.check_disk(s.connect(), disk)

    o.check_below()

# By time.  It's a second, but the machine may be busy.  Meanwhile clusters are
# allocated, or it would be done because the image is marked as clean.
cs = 4096
o = qedtest.Overlay(r, "full", 8 * MiB, cs, 1)
path, disk = o.path, o.disk
clusters = iter(range(2000))
with qedtest.Server("qed", path) as s:
    h = s.connect()

    def write_until_linked(c):
        def write_one():
            write(h, 100, next(clusters) * cs + 7)
            return linked(path, [c])
        qedtest.wait_until(write_one, 60)

    write_until_linked(0)
    # And again, for the last link so far.
    write_until_linked(next(clusters) - 1)
    write_until_linked(next(clusters) - 1)
    s.kill()
refs = qedimg.References(path)
refs.check_consistent()
assert refs.need_check()
with qedtest.Server("qed", path) as s:
    h = s.connect()
    for c in range(next(clusters)):
        got = bytes(h.pread(cs, c * cs))
        # Of the last ones the links may be lost.
        assert got in (disk.read(c * cs, cs), disk.below.read(c * cs, cs)), c
        if linked(path, [c]):
            qedtest.check_bytes(got, disk.read(c * cs, cs), c * cs)
        disk.write(got, c * cs)
    qedtest.check_disk(h, disk)
o.check(leaks=True)
END
