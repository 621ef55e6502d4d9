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

# Resizing and rebasing show progress on a terminal with -p, and else don't.
cd $d
"$PYTHON" - <<'END'
import re
import qedimg, qedtest

with open("old.raw", "wb") as f:
    f.write(b"old " * (4 << 18))
with open("new.raw", "wb") as f:
    f.write(b"new " * (4 << 18))

def build():
    img = qedimg.Image(64 << 20, 4096, 4)
    for c in range(0, 2000, 2):
        img.data(c, b"x")
    img.save("r.qed")
    qedtest.qed_img("rebase", "-u", "-b", "old.raw", "-F", "raw", "r.qed")

step = r"    \((\d+\.\d\d)/100%\)\r"
for verb, *args in (("resize", "--shrink", "r.qed", "2M"),
                    ("resize", "r.qed", "70M"),
                    ("rebase", "-b", "new.raw", "-F", "raw", "r.qed")):
    build()
    status, out = qedtest.on_terminal(verb, "-p", *args)
    assert status == 0, out
    m = re.match(f"((?:{step})+)\r\n", out)
    assert m, out
    steps = [float(s) for s in re.findall(step, m[1])]
    assert steps == sorted(steps) and steps[-1] == 100, steps
    build()
    assert "%)" not in qedtest.on_terminal(verb, *args)[1]
END
