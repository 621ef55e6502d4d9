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

# Somebody replaces a backing file, again and again, by a link to one that may
# not be read: either it is refused, or what is read is what may be.
"$PYTHON" - <<'END'
import os, subprocess, threading
import qedimg, qedtest
os.chdir(qedtest.TMP)
os.mkdir("imgs")
for path, content in ("imgs/inside", b"inside"), ("secret", b"PRIVATE"):
    with open(path, "wb") as f:
        f.write(content)
qedimg.Image(512, backing="base").save("imgs/x.qed")
os.symlink("inside", "imgs/base")
stop = threading.Event()

def swap():
    while not stop.is_set():
        for target in "../secret", "inside":
            os.symlink(target, "imgs/new")
            os.rename("imgs/new", "imgs/base")

swapper = threading.Thread(target=swap)
swapper.start()
try:
    for i in qedtest.some(range(60), 5):
        p = subprocess.run(["nbdkit", "-r", "-U", f"{qedtest.TMP}/sock{i}",
                            "qed", "imgs/x.qed", ("lock=true", "lock=false")[i % 2],
                            "--run", 'nbdcopy "$uri" -'], timeout=60,
                           stdin=subprocess.DEVNULL, capture_output=True)
        if p.returncode == 0:
            assert p.stdout.startswith(b"inside"), p
        else:
            assert b"imgs/x.qed: backing file: " in p.stderr, p
            assert not p.stdout, p
finally:
    stop.set()
    swapper.join()
END
