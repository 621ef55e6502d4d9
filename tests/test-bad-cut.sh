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

# A file cut at any length: refused if header and L1 table aren't complete,
# else all that is still there reads right and the rest gives EIO.
"$PYTHON" - <<'END'
import os, re
import qedimg, qedtest

path = qedtest.TMP + "/c.qed"
CS = 4096
img = qedimg.Image(4 * 1024 * CS, CS, 2, header_size=2)
for c in (0, 1, 1024, 2, 1025, 2048, 3):
    img.data(c)
img.zero(4)
img.save(path)
whole = img.end * CS
l1_end = (img.l1_at + 2) * CS

lengths = {64, 65, 512, CS - 1, CS + 1, whole + 1, whole + CS}
for c in range(1, img.end + 1):
    lengths |= {c * CS - 512, c * CS - 1, c * CS}
    if c % 4 == 0:
        lengths |= {c * CS + 1, c * CS + 2048}
for length in qedtest.some(sorted(lengths), 15):
    print("cut at", length)
    img.length = length
    img.save(path)
    if length < l1_end:
        qedtest.refused(re.escape(f"{path}: header: l1_table_offset 8192: "
                                  "the L1 table of 8192 bytes must lie "
                                  f"inside the file of {length} bytes"),
                        "qed", path)
    else:
        qedtest.serve_and_check(path)
END
