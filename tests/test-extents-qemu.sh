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

# The same map as QEMU's of an image that it has written at random.
qemu-img create -q -f qed -o cluster_size=4k,table_size=2 $d/q.qed 3G
"$PYTHON" - <<'END' >$d/commands
import random
r = random.Random(3)
for _ in range(300):
    offset = int(2 ** r.uniform(9, 31.5)) // 512 * 512
    n = int(2 ** r.uniform(9, 16)) // 512 * 512
    print(r.choice(("write -P 3", "write -P 4", "write -z")), offset, n)
print("quit")
END
qemu-io -f qed $d/q.qed <$d/commands >/dev/null
start_nbdkit qed $d/q.qed
qemu-img map --output=json -f qed $d/q.qed >$d/qemu.json
qemu-img map --output=json -f raw "$uri" >$d/nbdkit.json
"$PYTHON" - <<'END'
import json, qedtest
def load(name):
    result = []
    for e in json.load(open(f"{qedtest.TMP}/{name}.json")):
        if result and result[-1][2] == e["zero"]:
            result[-1][1] += e["length"]
        else:
            result.append([e["start"], e["length"], e["zero"]])
    return result
assert len(load("qemu")) > 100
assert load("qemu") == load("nbdkit")
END
