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

# Many requests at the same time on an overlay, which share clusters, L2 slices
# and commits: each answer and in the end each byte is as in the model.  (I1,
# I3, I8)
"$PYTHON" - <<'END'
import random
import qedtest
from qedtest import MiB

for kind, (cs, ts) in qedtest.some((("full", (4096, 1)), ("short", (65536, 4)),
                                    ("chain", (65536, 4)),
                                    ("full", (1 << 20, 2))), 1):
    print(kind, cs)
    o = qedtest.Overlay(random.Random(cs), kind, 12 * MiB, cs, ts)
    for round in qedtest.some(range(2), 1):
        with qedtest.Server("qed", o.path, "cache-size=64k") as s:
            n = len(qedtest.some(range(400), 100))
            qedtest.random_clients(s.uri, o.disk, f"{cs} {round}", n)
            qedtest.check_disk(s.connect(), o.disk)
        o.check()
END
