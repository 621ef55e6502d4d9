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

# SIGTERM, SIGINT, or the end of captive nbdkit's command: links that wait are
# committed, the image is clean and as long as it has to be.
"$PYTHON" - <<'END'
import os, random, signal, subprocess, sys
import qedtest
from qedtest import MiB

for kind, cs, sig in qedtest.some((("full", 65536, signal.SIGTERM),
                                   ("chain", 4096, signal.SIGTERM),
                                   ("short", 65536, signal.SIGINT)), 1):
    r = random.Random(kind)
    o = qedtest.Overlay(r, kind, 6 * MiB + 512, cs, 2)
    with qedtest.Server("qed", o.path) as s:
        h = s.connect()
        for _ in range(60):
            n = int(2 ** r.uniform(0, 16))
            qedtest.random_op(r, h, o.disk, r.randrange(o.disk.size - n), n)
        os.kill(s.pid(), sig)
        h.shutdown()
        assert s.process.wait(60) == 0, s.log()
    o.check()

# As captive nbdkit does it.
o = qedtest.Overlay(random.Random(3), "full", 3 * MiB)
client = (sys.executable + ' -m nbd -u "$uri" -c '
          + "'h.pwrite (b\"x\" * 99999, 7)'")
subprocess.run(["nbdkit", "-U", qedtest.TMP + "/captive", "qed", o.path,
                "--run", client], check=True)
o.disk.write(b"x" * 99999, 7)
o.check()
END
