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

# A file that someone without respect for locks cuts while it is served:
# what is gone gives EIO and isn't called zeros; what remains can be read.
"$PYTHON" - <<'END'
import os
import qedimg, qedtest

path = qedtest.TMP + "/c.qed"
img = qedimg.Image(1 << 30)
for c in range(6):
    img.data(c)
img.save(path)
model = qedimg.Model(path)
want = model.read(0, 6 * 65536)
with qedtest.Server("qed", path) as s:
    h = s.connect()
    h.pread(512, 0)
    # Cluster 3 is cut in the middle, 4 and 5 are gone.
    os.truncate(path, (img.end - 3) * 65536 + 32768)
    assert h.pread(3 * 65536, 0) == want[:3 * 65536]
    assert h.pread(32768, 3 * 65536) == want[3 * 65536:][:32768]
    qedtest.expect_error("EIO", h.pread, 1, 3 * 65536 + 32768)
    qedtest.expect_error("EIO", h.pread, 65536, 3 * 65536)
    qedtest.expect_error("EIO", h.pread, 512, 5 * 65536)
    for e in qedtest.extents(h, 0, 6 * 65536):
        assert not e.flags & qedtest.ZERO_FLAG, e
    assert path in s.log(), s.log()
END
