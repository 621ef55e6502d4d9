#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The extents of an image that QEMU has written at random are those that QEMU
# reports.

source ./functions.sh nbd qemu

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
