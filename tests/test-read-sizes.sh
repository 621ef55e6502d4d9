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
requires_qemu

# Disks of all sorts of sizes, written at both ends by QEMU: all that QEMU
# reads, nbdkit does.
for size in 512 1024 65024 65536 66048 1234944 2147483136 2147484160 64T; do
    f=$d/$size.qed
    qemu-img create -q -f qed $f $size
    bytes=$(qemu-img info --output=json $f |
            "$PYTHON" -c 'import json, sys
print (json.load (sys.stdin)["virtual-size"])')
    qemu-io -f qed -c "write -P 1 $((bytes - 512)) 512" \
            -c "write -P 2 0 512" $f
    start_nbdkit -r qed $f
    test "$(nbdinfo --size "$uri")" = $bytes
    export f uri
    "$PYTHON" - <<'END'
import os
import qedimg, qedtest
h = qedtest.connect(os.environ["uri"])
model = qedimg.Model(os.environ["f"])
qedtest.check_all(h, model)
size = h.get_size()
assert h.pread(512, 0) == bytearray(b"\2" * 512)
if size > 512:
    assert h.pread(512, size - 512) == bytearray(b"\1" * 512)

# Nothing beyond the end.
for offset, n in ((size, 1), (size - 1, 2), (size - 512, 1024),
                  (size + (1 << 40), 512), ((1 << 63) - 512, 512)):
    qedtest.expect_error("EINVAL", h.pread, n, offset)
    qedtest.expect_error("EINVAL", h.cache, n, offset)
END
    # All of it: fast, because both sides tell where nothing is.
    qemu-img compare -f qed -F raw $f "$uri"
    stop_nbdkit
    rm $f
done
