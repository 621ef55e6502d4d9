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

# With -p there is progress on a terminal, and only there.
"$PYTHON" - <<'END'
import re
import qedimg, qedtest

path = qedtest.TMP + "/r.qed"

def build():
    img = qedimg.Image(64 << 20, 4096, 4)
    for c in range(0, 2000, 2):
        img.data(c, b"x")
        if c % 70 == 0:
            img.alloc()
    img.save(path)

step = r"    \((\d+\.\d\d)/100%\)\r"
for args, status in (([], 3), (["--output=json"], 3),
                     (["-r", "leaks"], 0), (["-r", "all"], 0)):
    build()
    got, out = qedtest.on_terminal("check", "-p", *args, path)
    assert got == status, (got, out)
    # The terminal makes "\r\n" of a newline.
    m = re.match(f"((?:{step})+)\r\n", out)
    assert m, out
    steps = [float(s) for s in re.findall(step, m[1])]
    assert steps == sorted(steps) and steps[-1] == 100, steps
    assert "%)\r" not in out[m.end():], out
    if "--output=json" in args:
        assert out[m.end():].startswith("{\r\n"), out

    build()
    assert "%)" not in qedtest.on_terminal("check", *args, path)[1]
    build()
    out, err = qedtest.qed_img("check", "-p", *args, path, status=status)
    assert "%)" not in out + err, out + err
    build()
    assert qedtest.on_terminal("check", "-p", "-q", *args, path) == (status, "")
END
