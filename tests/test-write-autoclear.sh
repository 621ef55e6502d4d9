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

# Unknown autoclear bits are cleared when the first client comes that may
# write, whether it does or not.  Everything else in the header clusters is
# kept.  With -r nothing changes.
"$PYTHON" - <<'END'
import qedimg, qedtest

path = qedtest.TMP + "/a.qed"
ALL = (1 << 64) - 1

def contents():
    with open(path, "rb") as f:
        return f.read()

for autoclear, compat in ((1, 0), (ALL, ALL), (1 << 63, 5)):
    img = qedimg.Image(1 << 20, 4096, 1, header_size=3,
                       autoclear_features=autoclear, compat_features=compat)
    img.data(0)
    img.poke(64, b"somebody's extension" * 500)
    img.save(path)
    before = contents()
    with qedtest.Server("-r", "qed", path) as s:
        s.connect().pread(4096, 0)
    assert contents() == before
    cleared = before[:32] + bytes(8) + before[40:]
    with qedtest.Server("qed", path) as s:
        assert contents() == before
        h = s.connect()
        assert contents() == cleared
        h.pread(4096, 0)
    assert contents() == cleared

    with qedtest.Server("qed", path) as s:
        s.connect().pwrite(b"x" * 4096, 8192)
    after = contents()
    assert after[:3 * 4096] == cleared[:3 * 4096]
    qedimg.References(path).check_clean()
END
