#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# qed-img info prints the lines of qemu-img info, and the fields of the header
# that qemu-img leaves out.

source ./functions.sh nbd qemu

cd $d
truncate -s 1536k base.raw
qemu-img create -q -f qed plain.qed 10G
qemu-img create -q -f qed -o cluster_size=4k,table_size=8 small.qed 512
qemu-img create -q -f qed -b base.raw -F raw raw.qed
qemu-img create -q -f qed -b $d/plain.qed -F qed qed.qed 1234k
mkdir sub
qemu-img create -q -f qed -b ../plain.qed -F qed sub/up.qed
for f in plain.qed small.qed raw.qed qed.qed sub/up.qed ./sub/../plain.qed \
         $d/sub/up.qed; do
    qemu-img info $f >a
    qed-img info $f >b
    cat b
    sed '/^Format specific/,/^[^ ]/ { /^Format specific/d; /^ /d }' b |
        diff -u a -
done

# A header in which each field has an unusual value.
"$PYTHON" - <<'END'
import qedimg
img = qedimg.Image(1 << 20, 8192, 2, header_size=3, l1_at=7,
                   features=qedimg.F_NEED_CHECK, compat_features=0xc,
                   autoclear_features=1 << 63)
img.save("x.qed")
END
qed-img info x.qed >b
cat >a <<'END'
image: x.qed
file format: qed
virtual size: 1 MiB (1048576 bytes)
cluster_size: 8192
cleanly shut down: no
Format specific information:
    table size: 2
    header size: 3
    l1 offset: 57344
    features: 0x2 (need check)
    compat features: 0xc
    autoclear features: 0x8000000000000000
END
grep -v '^disk size: ' b | diff -u a -

# The bits of features have names.
"$PYTHON" - <<'END'
import qedimg
for bits in range(8):
    qedimg.Image(1 << 20, features=bits & ~1,
                 backing="base.raw" if bits & 1 else None).save(f"{bits}.qed")
END
while read -r bits names; do
    qed-img info $bits.qed | grep -x -F "    features: $names"
done <<'END'
0 0x0
1 0x1 (backing file)
2 0x2 (need check)
3 0x3 (backing file, need check)
4 0x4 (raw backing file)
5 0x5 (backing file, raw backing file)
6 0x6 (need check, raw backing file)
7 0x7 (backing file, need check, raw backing file)
END
