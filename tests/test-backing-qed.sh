#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A QED backing file may have another geometry, be shorter or longer, or be
# marked NEED_CHECK: then it is read as it is.

source ./functions.sh nbd qemu nbdcopy

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
