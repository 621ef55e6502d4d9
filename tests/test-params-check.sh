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

# check=never: an image marked NEED_CHECK isn't opened for writing, even if
# it's sound; one that isn't marked is.
"$PYTHON" - <<'END'
import qedimg, qedtest

path = qedtest.TMP + "/c.qed"
def image(features=qedimg.F_NEED_CHECK):
    img = qedimg.Image(1 << 20, features=features)
    img.data(0)
    img.save(path)
    with open(path, "rb") as f:
        return f.read()

def contents():
    with open(path, "rb") as f:
        return f.read()

before = image()
with qedtest.Server("qed", path, "check=never") as s:
    for _ in range(2):
        qedtest.connection_refused(s, f"{path}: .*check")
assert contents() == before
with qedtest.Server("-r", "qed", path, "check=never") as s:
    h = s.connect()
    assert h.pread(100, 0) == before[-65536:][:100]
assert contents() == before

for args in ((), ("check=auto",)):
    image()
    with qedtest.Server("qed", path, *args) as s:
        s.connect().pwrite(b"x", 0)
    qedimg.References(path).check_clean()
image(features=0)
with qedtest.Server("qed", path, "check=never") as s:
    s.connect().pwrite(b"x" * 65536, 65536)
qedimg.References(path).check_clean()
END
for v in '' maybe true always; do
    refused 'check=' qed $d/c.qed check="$v"
done
