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

# An overlay that was not closed cleanly is checked and repaired when it's
# opened for writing, with the backing file beneath it, which may be in use by
# others; what was in order keeps its content, and an entry that can't be
# followed shows what is below.
"$PYTHON" - <<'END'
import random
import qedimg, qedtest
from qedtest import MiB

cs = 65536
for kind in qedtest.some(("full", "short", "chain"), 1):
    r = random.Random(kind)
    o = qedtest.Overlay(r, kind, 8 * MiB, cs)
    disk = o.disk
    img = o.image(cs, 4)
    img.header["features"] |= qedimg.F_NEED_CHECK
    for c in range(5, 60, 5):
        b = r.randbytes(cs)
        img.data(c, b)
        disk.write(b, c * cs)
    for c in range(6, 60, 5):
        img.zero(c)
        disk.zero(cs, c * cs)
    # Clusters that nothing points to, and some that nothing can; and the rest
    # of a cluster at the end.
    img.alloc(7)
    img.entry(62, 1 << 40)
    img.entry(63, (img.end + 20) * cs)
    img.tail = b"tail" * 99
    img.save(o.path)
    with qedtest.Server("qed", o.path) as s:
        h = s.connect()
        qedtest.check_disk(h, disk)
        for c in range(4, 70):
            b = r.randbytes(r.randrange(1, cs))
            at = c * cs + r.randrange(cs)
            h.pwrite(b, at)
            disk.write(b, at)
        qedtest.check_disk(h, disk)
        s.kill()
    # Some of the links of these are lost.
    with qedtest.Server("qed", o.path) as s:
        h = s.connect()
        disk.write(h.pread(disk.size, 0), 0)
        for c in range(4, 70):
            b = r.randbytes(100)
            h.pwrite(b, c * cs + 9)
            disk.write(b, c * cs + 9)
        h.flush()
        s.kill()
    # QEMU repairs it, too.
    qedtest.run("qemu-io", "-f", "qed", "-c", f"write -P 9 {90 * cs} 512",
                o.path)
    disk.write(b"\x09" * 512, 90 * cs)
    with qedtest.Server("qed", o.path) as s:
        qedtest.check_disk(s.connect(), disk)
    o.check(leaks=True)

# One that may not be checked is refused for writing.
img = o.image(cs, 4)
img.header["features"] |= qedimg.F_NEED_CHECK
img.save(o.path)
with qedtest.Server("qed", o.path, "check=never") as s:
    qedtest.connection_refused(s, "NEED_CHECK|not closed cleanly")
with qedtest.Server("-r", "qed", o.path, "check=never") as s:
    qedtest.check_disk(s.connect(), o.disk)
END
