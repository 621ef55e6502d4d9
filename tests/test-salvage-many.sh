#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Of many damages with salvage=true the first 1000 are reported one by one.
# The sums of the others and of all follow.

source ./functions.sh nbd nbdcopy

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
        "$d/$n.qed: $(((n + 1) * 4096)) bytes in $n ranges read as zeros in total: see qed-img check" \
        rest
    test "$(wc -l <rest)" = 1
    fails 1 "$(((n + 1) * 4096)) bytes in total can't be read" qed-img map $n.qed
done
