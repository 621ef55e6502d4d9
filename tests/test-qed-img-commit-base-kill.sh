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

# Killed at any moment of a commit -b, the disk reads as before, and committing
# again comes to the same end.
cd $d
"$PYTHON" - <<'END'
import os
import random
import shlex
import shutil
import signal
import subprocess
import time
import qedimg, qedtest

MiB = 1 << 20
def make(path, seed, size, cs, backing):
    img = qedimg.Image(size, cs, backing=backing, seed=seed)
    for c in range(size // cs):
        if c % 4 == len(seed) % 4:
            img.data(c)
        elif c % 7 == len(seed) % 7:
            img.zero(c)
    img.save(path)

make("base.copy", "base", 20 * MiB, 65536, None)
make("m.qed", "middle", 30 * MiB, 4096, "base.qed")
make("x.qed", "overlay", 40 * MiB, 4096, "m.qed")

def read():
    below = qedimg.Model("base.qed")
    m = qedimg.Model("m.qed", below)
    x = qedimg.Model("x.qed", m)
    b = x.read(0, x.size)
    for i in x, m, below:
        i.close()
    return b

def read_base():
    base = qedimg.Model("base.qed")
    b = base.read(0, base.size)
    base.close()
    return b

shutil.copy("base.copy", "base.qed")
want = read()
above = [open(f, "rb").read() for f in ("m.qed", "x.qed")]
begin = time.monotonic()
qedtest.qed_img("commit", "-b", "base.qed", "x.qed")
seconds = time.monotonic() - begin
assert read() == want
assert read_base() == want

command = [*shlex.split(os.environ["QED_IMG"]), "commit", "-q", "-b",
           "base.qed", "x.qed"]
killed = 0
for i in qedtest.some(range(8), 2):
    shutil.copy("base.copy", "base.qed")
    p = subprocess.Popen(command)
    time.sleep(random.random() * seconds)
    p.kill()
    killed += p.wait() == -signal.SIGKILL
    assert read() == want, i
    qedtest.qed_img("commit", "-b", "base.qed", "x.qed")
    assert read() == want, i
    assert read_base() == want, i
    assert [open(f, "rb").read() for f in ("m.qed", "x.qed")] == above
    qedimg.References("base.qed").check_clean(leaks=True)
print(killed, "were killed")
END
