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

# A file that someone without respect for locks cuts while it is written: the
# next flush, allocation beyond, or the end of nbdkit says so, and the image isn't
# made as long as it was again, and called clean, as if nothing were lost.
"$PYTHON" - <<'END'
import os
import qedimg, qedtest

path = qedtest.TMP + "/c.qed"
cs = 65536
for how in "in place", "regrow", "flush", "fua", "extend", "close":
    img = qedimg.Image(1 << 30)
    for c in range(6):
        img.data(c)
    img.save(path)
    with qedtest.Server("qed", path) as s:
        h = s.connect()
        if how not in ("in place", "regrow"):
            h.pwrite(b"new" * 1000, 9 * cs)
            h.flush()
            length = os.path.getsize(path) # grown ahead
        else:
            length = os.path.getsize(path)
        # Clusters 4 and 5, and what was written, are gone.
        cut = (img.end - 2) * cs
        os.truncate(path, cut)
        h.pwrite(b"old", 0)
        if how == "regrow":
            # The last cluster, which would make it as long as it was.
            qedtest.expect_error("EIO", h.pwrite, b"x", 5 * cs + 1)
        elif how == "extend":
            # By more than there was ahead.
            for i in range(1100):
                try:
                    h.pwrite(b"x", (16 + i) * cs)
                except qedtest.nbd.Error as e:
                    assert e.errno == "EIO", e
                    break
            else:
                raise AssertionError("it was extended")
        elif how == "fua":
            qedtest.expect_error("EIO", h.pwrite, b"old", 0,
                                 qedtest.nbd.CMD_FLAG_FUA)
        elif how != "close":
            qedtest.expect_error("EIO", h.flush)
        if how != "close":
            # It is an error that stays.
            qedtest.expect_error("EIO", h.pwrite, b"x", 0)
            qedtest.expect_error("EIO", h.flush)
            assert h.pread(3, 0) == b"old"
    log = s.log()
    if how != "extend":
        assert (f"{path}: the file has been cut short while in use: it has "
                f"{cut} bytes, and should have {length}") in log, log
        assert os.path.getsize(path) == cut
    assert "cut short while in use" in log
    with open(path, "rb") as f:
        assert f.read(17)[16] == (0 if how in ("in place", "regrow") else 2)
    check = qedtest.subprocess.run(["qed-img", "check", path],
                                   capture_output=True, text=True)
    assert check.returncode == 2, check
END
