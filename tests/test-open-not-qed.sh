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

# Files which aren't QED images, or not even long enough to tell.
"$PYTHON" - <<'END'
import qedimg, qedtest

path = qedtest.TMP + "/x.qed"
img = qedimg.Image(1 << 20)
img.save(path)
good = open(path, "rb").read()

def refused(contents, regex):
    with open(path, "wb") as f:
        f.write(contents)
    qedtest.refused(regex, "qed", path)

# Cut inside the header.
for n in (0, 1, 3, 4, 8, 16, 63):
    refused(good[:n], f"{path}: header: the file has {n} bytes: .*not a QED")
# Each byte of the magic counts.
for i in range(4):
    bad = bytearray(good)
    bad[i] ^= 0x20
    refused(bad, f"{path}: header: magic {bad[:4].hex(' ')}: .*not a QED")
for start in (b"a text, say", b"QFI\xfa\0\0\0\3", b"\0" * 64, b"\xff" * 64, b"\0DEQ"):
    refused(start.ljust(65536, b"\0"),
            f"{path}: header: magic {start[:4].hex(' ')}: .*not a QED")
END
