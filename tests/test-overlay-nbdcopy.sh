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
requires_program nbdcopy

# A sparse disk is copied into an overlay over many connections: its data and
# its zeros replace what is below, which stays as it was.  And overlays are
# copied out, with the holes that all layers have, as qemu-img does it.
"$PYTHON" - <<'END'
import os, random
import qedimg, qedtest
from qedtest import MiB

r = random.Random(16)
size = 24 * MiB + 512
source = qedtest.Disk(size)
for _ in range(40):
    n = int(2 ** r.uniform(9, 19))
    at = r.randrange(size - n)
    if r.random() < 0.7:
        at = at // 4096 * 4096
    source.write(r.randbytes(n), at)
raw = qedtest.TMP + "/source.raw"
source.save(raw)
def copy_out(o):
    out, converted = qedtest.TMP + "/out.raw", qedtest.TMP + "/converted.raw"
    with qedtest.Server("-r", "qed", o.path) as s:
        qedtest.run("nbdcopy", s.uri, out)
    qedtest.run("qemu-img", "convert", "-f", "qed", "-O", "raw", o.path,
                converted)
    qedtest.run("cmp", out, converted)
    used = [os.stat(path).st_blocks * 512 for path in (out, converted)]
    assert used[0] <= used[1] + MiB, used
    os.unlink(out)

for kind, cs in qedtest.some((("full", 65536), ("chain", 4096),
                              ("short", 65536)), 1):
    o = qedtest.Overlay(r, kind, size, cs, 2)
    for how in qedtest.some((("--connections=4", "--requests=64"),
                             ("--flush", "--synchronous")), 1):
        o.image(cs, 2).save(o.path)
        with qedtest.Server("qed", o.path) as s:
            # What is empty it zeroes, because the destination isn't.
            qedtest.run("nbdcopy", *how, raw, s.uri)
            qedtest.check_raw(s.connect(), raw)
        o.disk.write(source.read(0, size), 0)
        o.check()
        copy_out(o)

    # One that is written to here and there.
    o.image(cs, 2).save(o.path)
    with qedtest.Server("qed", o.path) as s:
        h = s.connect()
        for _ in range(20):
            n = int(2 ** r.uniform(0, 17))
            qedtest.random_op(r, h, o.disk, r.randrange(size - n), n)
    copy_out(o)
END
