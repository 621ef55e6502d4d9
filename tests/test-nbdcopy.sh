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
requires_program nbdcopy

# Copies, as fast as the tools can: of an image filled in at random by QEMU,
# with nbdcopy's many connections and by qemu-img, from nbdkit to nbdkit.
qemu-img create -q -f qed -o cluster_size=16k,table_size=2 $d/x.qed 400M
"$PYTHON" - <<'END' >$d/commands
import random
r = random.Random(9)
for i in range(400):
    offset = int(r.randrange(400 << 20)) // 512 * 512
    n = min(int(2 ** r.uniform(9, 20)) // 512 * 512, (400 << 20) - offset)
    print(r.choice(("write -P %d" % (i % 255 + 1), "write -z")), offset, n)
print("quit")
END
qemu-io -f qed $d/x.qed <$d/commands >/dev/null
qemu-img convert -f qed -O raw $d/x.qed $d/want.raw

start_nbdkit qed $d/x.qed cache-size=64k
nbdcopy --connections=4 --requests=64 "$uri" $d/got.raw
cmp $d/want.raw $d/got.raw
rm $d/got.raw
qemu-img convert -m 8 -f raw -O raw "$uri" $d/got.raw
cmp $d/want.raw $d/got.raw
rm $d/got.raw
from=$uri
truncate -s 400M $d/got.raw
nbdkit -U - file $d/got.raw --run "nbdcopy --destination-is-zero '$from' \"\$uri\""
cmp $d/want.raw $d/got.raw
