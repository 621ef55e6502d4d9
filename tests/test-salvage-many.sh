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
requires_program nbdcopy

# Of many damages with salvage=true 1000 are said one by one, then the sum of
# the others, and of all.
cd $d
"$PYTHON" - <<'END'
import qedimg
for n in 1000, 1001, 1500:
    img = qedimg.Image(3000 * 4096, 4096, 2)
    for i in range(n):
        img.entry(2 * i, 3)
        img.zero(2 * i + 1)
    img.entry(2 * n - 1, 3)     # the last one is longer
    img.save(f"{n}.qed")
END
for n in 1000 1001 1500; do
    nbdkit -U - qed $n.qed salvage=true --run 'nbdcopy "$uri" null:' 2>err
    grep -c 'offset 0[0-9a-fx]*, length 0x[0-9a-f]* of the disk read as zeros:' err |
        grep -x 1000
    tail -n +1001 err >rest
    cat rest
    more=$((n - 1000))
    if [ $more -gt 0 ]; then
        sed -n 1p rest | grep -F \
            "$d/$n.qed: $(((more + 1) * 4096)) bytes in $more more ranges read as zeros: qed-img map lists them"
        sed -i 1d rest
    fi
    grep -F \
        "$d/$n.qed: $(((n + 1) * 4096)) bytes in $n ranges read as zeros in all: qed-img check says more" \
        rest
    test "$(wc -l <rest)" = 1
    fails 1 "$(((n + 1) * 4096)) bytes can't be read in all" qed-img map $n.qed
done
