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

# Zero and trim of what reads as zeros anyway change nothing in the image.
"$PYTHON" - <<'END'
import os
import nbd, qedimg, qedtest

path = qedtest.TMP + "/u.qed"
img = qedimg.Image(10 << 30, 65536, 4)
img.data(3)
for c in range(5, 9):
    img.zero(c)
img.save(path)
before = open(path, "rb").read()
with qedtest.Server("qed", path) as s:
    h = s.connect()
    for flags in (0, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FAST_ZERO,
                  nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO):
        h.zero(3 * 65536, 0, flags)
        h.zero(100, 70000, flags)
        h.zero(100 << 20, 4 * 65536 + 5, flags)
        h.zero((4 << 30) - 1, 1 << 31, flags | nbd.CMD_FLAG_FUA)
    h.trim(3 * 65536, 0)
    h.trim((4 << 30) - 1, 4 * 65536)
    h.flush()
    assert open(path, "rb").read() == before
assert open(path, "rb").read() == before
END
