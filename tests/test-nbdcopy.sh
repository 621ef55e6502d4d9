#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# nbdcopy, with its many connections, and qemu-img copy an image that QEMU has
# filled at random, also from nbdkit to nbdkit.  The copies are identical.

source ./functions.sh nbd qemu nbdcopy

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
