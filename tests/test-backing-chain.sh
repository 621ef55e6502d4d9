#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A chain may have as many layers as the limit allows, and is refused with one
# more, also if backing= adds that one.

source ./functions.sh nbd qemu nbdcopy nbdinfo

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
