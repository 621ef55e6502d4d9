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

# The name of an image leads through a symbolic link, which somebody turns to
# another directory, again and again: what is there doesn't become the image's
# by that.
"$PYTHON" - <<'END'
import os, subprocess, threading
import qedimg, qedtest
os.chdir(qedtest.TMP)
os.mkdir("own")
os.mkdir("other")
with open("other/secret", "wb") as f:
    f.write(b"PRIVATE")
qedimg.Image(512, backing=qedtest.TMP + "/other/secret").save("own/x.qed")
os.symlink("own", "link")
stop = threading.Event()

def swap():
    while not stop.is_set():
        for target in "other", "own":
            os.symlink(target, "new")
            os.rename("new", "link")

def read(i):
    return subprocess.run(["nbdkit", "-r", "-U", f"{qedtest.TMP}/sock{i}",
                           "qed", "link/x.qed", "--run", 'nbdcopy "$uri" -'],
                          timeout=60, stdin=subprocess.DEVNULL,
                          capture_output=True)

p = read("")
assert p.returncode != 0 and b"backing-dir=" in p.stderr, p
swapper = threading.Thread(target=swap)
swapper.start()
try:
    for i in qedtest.some(range(100), 5):
        p = read(i)
        assert p.returncode != 0 and not p.stdout, p
finally:
    stop.set()
    swapper.join()
END
