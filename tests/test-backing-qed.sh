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

# A QED image as the backing file: of another geometry; shorter and longer; and
# one that is marked NEED_CHECK, which is read as it is.
write ()
{
    local image=$1 n=$2
    shift 2
    "$PYTHON" - "$@" <<'END' >$d/commands
import random, sys
seed, size = map(int, sys.argv[1:])
r = random.Random(seed)
for i in range(60):
    offset = r.randrange(size) // 512 * 512
    n = min(int(2 ** r.uniform(9, 18)) // 512 * 512, size - offset)
    print(r.choice((f"write -P {1 + r.randrange(255)}", "write -z")), offset, n)
print("quit")
END
    qemu-io -f qed $image <$d/commands >/dev/null
}

seed=0
for sizes in $(some 4M/4M 4M/3M 3M/4M 4M/512 512/4M); do
    for geometry in $(some 4k,table_size=2/64k 64k/4k,table_size=8 1M/1M); do
        rm -f $d/*.qed
        qemu-img create -q -f qed -o cluster_size=${geometry#*/} \
                 $d/base.qed ${sizes#*/}
        write $d/base.qed 60 $((++seed)) \
              $(qed-img info $d/base.qed | sed -n 's/^virtual.*(\(.*\) by.*/\1/p')
        qemu-img create -q -f qed -o cluster_size=${geometry%/*} \
                 -b base.qed -F qed $d/x.qed ${sizes%/*}
        same_as_qemu $d/x.qed
        write $d/x.qed 20 $((++seed)) \
              $(qed-img info $d/x.qed | sed -n 's/^virtual.*(\(.*\) by.*/\1/p')
        same_as_qemu $d/x.qed
    done
done

mv $d/got.raw $d/want.raw
"$PYTHON" - <<'END'
import qedtest
with open(qedtest.TMP + "/base.qed", "r+b") as f:
    f.seek(16)
    features = f.read(1)[0]
    f.seek(16)
    f.write(bytes([features | 2]))
END
state_of $d/base.qed $d/x.qed >$d/before
nbdkit -r -U - qed $d/x.qed --run 'nbdcopy "$uri" "$d/got.raw"'
cmp $d/want.raw $d/got.raw
nbdkit -U - qed $d/x.qed --run 'nbdcopy "$uri" "$d/got.raw"'
cmp $d/want.raw $d/got.raw
state_of $d/base.qed >$d/after
diff -u <(grep base $d/before) $d/after
