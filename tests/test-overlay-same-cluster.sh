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

# Writers of one unallocated cluster that come at the same time: one of them
# brings its content from below, once, and everything that all wrote is there.
# (I8)
"$PYTHON" - <<'END'
import random
import qedtest
from qedtest import MiB

for kind, cs in qedtest.some((("full", 65536), ("chain", 65536),
                              ("short", 4096)), 1):
    r = random.Random(kind)
    o = qedtest.Overlay(r, kind, 64 * cs, cs, 4)
    with qedtest.Server("qed", o.path) as s:
        handles = [s.connect() for _ in range(4)]
        for c in range(60):
            # Every 16th of the cluster, and the borders to the next.
            step = cs // 16
            pieces = [c * cs + i * step + 100 for i in range(17)]
            r.shuffle(pieces)
            cookies = []
            for i, at in enumerate(pieces):
                b = r.randbytes(r.randrange(1, step))
                h = handles[i % 4]
                cookies.append((h, h.aio_pwrite(b, at)))
                o.disk.write(b, at)
            for h, cookie in cookies:
                while not h.aio_command_completed(cookie):
                    h.poll(-1)
        qedtest.check_disk(handles[0], o.disk)
    o.check()
END
