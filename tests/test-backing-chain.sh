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

# Chains of 5 layers, and of as many as are allowed; with one more it is
# refused, and so it is if backing= makes that one.
make_chain ()
{
    local i below=base.raw format=raw
    rm -f $d/*.qed
    "$PYTHON" - <<'END'
import random, qedtest
with open(qedtest.TMP + "/base.raw", "wb") as f:
    f.write(random.Random(5).randbytes(1 << 20))
END
    for ((i = 2; i <= $1; i++)); do
        qemu-img create -q -u -f qed -o cluster_size=4k,table_size=2 \
                 -b $below -F $format $d/$i.qed $((1024 + i))k
        qemu-io -f qed -c "write -P $i ${i}7k 3k" -c "write -z 8${i}k 5k" \
                $d/$i.qed >/dev/null
        below=$i.qed format=qed
    done
}

make_chain 5
same_as_qemu $d/5.qed
same_as_qemu $d/5.qed cache-size=64K

make_chain 65
same_as_qemu $d/64.qed
same_as_qemu $d/64.qed cache-size=64K
refused "$d/2.qed: backing file: .*base.raw: would be layer 65 .* at most 64" \
        qed $d/65.qed
nbdkit -r -U - qed $d/65.qed backing=$d/63.qed --run 'nbdinfo --size "$uri"'
refused "$d/2.qed: backing file: .*base.raw: would be layer 65" \
        qed $d/65.qed backing=$d/64.qed
