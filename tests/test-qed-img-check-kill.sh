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

# Killed at any moment of a repair: the disk has the content that it had, and
# the next repair puts all in order.
"$PYTHON" - <<'END'
import os, shlex, shutil, signal, subprocess, time
import qedcheck, qedimg, qedtest

start, path = (qedtest.TMP + "/" + name for name in ("start.qed", "r.qed"))
img = qedimg.Image(256 << 20, 65536, 1)
n = img.n
for c in range(200):
    if c % 3 == 0:
        img.alloc(c % 4)
    img.data(c)
for c in range(200, 260):
    img.entry(c, img.entries[img.table(0) * 65536 + 8 * (c - 200)])
img.data(n + 5)
img.save(start)

def command():
    return [*shlex.split(os.environ["QED_IMG"]), "check", "-q", "-r", "all",
            path]

before = qedcheck.content(start)
assert qedcheck.expect(start).status() == 2

# How long does it take?
shutil.copy(start, path)
t = time.monotonic()
subprocess.run(command(), check=True)
t = time.monotonic() - t
assert qedcheck.content(path) == before
qedcheck.expect_clean(path)

killed = 0
for k in qedtest.some(range(12)):
    shutil.copy(start, path)
    p = subprocess.Popen(command())
    time.sleep(t * k / 12)
    # A second time in what the first one has left.
    for again in range(2):
        p.kill()
        killed += p.wait() == -signal.SIGKILL
        assert qedcheck.content(path) == before, k
        if again == 0:
            p = subprocess.Popen(command())
            time.sleep(t / 3)
    qedcheck.check(path, "-r", "all")
    assert qedcheck.content(path) == before, k
    qedcheck.expect_clean(path)
print("killed", killed)
assert killed > 0
END
