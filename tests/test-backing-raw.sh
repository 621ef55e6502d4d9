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

# A raw backing file, of the image's length, shorter, longer, of a length that
# is no multiple of a sector, and empty.
"$PYTHON" - <<'END'
import random
import qedtest
open(qedtest.TMP + "/random", "wb").write(random.Random(1).randbytes(3 << 20))
END
for length in $(some 2M 1M 3M 1234567 1000 1 0); do
    for cluster_size in 4k 64k 1M; do
        cp $d/random $d/base.raw
        truncate -s $length $d/base.raw
        rm -f $d/x.qed
        qemu-img create -q -f qed -b base.raw -F raw \
                 -o cluster_size=$cluster_size $d/x.qed 2M
        same_as_qemu $d/x.qed
        # Data, zeros that hide the backing file, and parts of clusters,
        # before, at and behind its end.
        qemu-io -f qed -c 'write -P 1 64k 64k' -c 'write -z 128k 1M' \
                -c 'write -P 2 1230k 5k' -c 'write -z 1600k 128k' \
                $d/x.qed >/dev/null
        same_as_qemu $d/x.qed
    done
done
