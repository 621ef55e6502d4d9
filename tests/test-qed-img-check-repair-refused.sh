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

# With -r leaks nothing is done to an image that has corruptions: what looks
# like lost space may be what a damaged entry has pointed to.
"$PYTHON" - <<'END'
import json
import qedcheck, qedimg, qedtest

path = qedtest.TMP + "/r.qed"
img = qedimg.Image(10 << 20, features=qedimg.F_NEED_CHECK)
img.data(0)
img.entry(1, 1 << 40)
img.alloc(3)
img.save(path)
c = qedcheck.Check(path)
assert (c.corruptions, c.leaks) == (1, 3)
with open(path, "rb") as f:
    before = f.read()
for args in ([], ["--output=json"], ["-q"]):
    out, err, *_ = qedcheck.check(path, "-r", "leaks", *args, status=2)
    assert err.endswith(": see -r all\n") and "nothing was changed" in err, err
    assert err.count(f"qed-img: {path}: ") == 1, err
    if args == []:
        assert "1 errors were found" in out, out
        assert "3 leaked clusters" in out, out
        assert "repaired" not in out, out
    elif args == ["-q"]:
        assert out == "", out
    else:
        assert json.loads(out) == c.json(path), out
    with open(path, "rb") as f:
        assert f.read() == before
END
