#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A rebase onto another backing file keeps the content of the disk.  The result
# equals that of qemu-img rebase.

source ./functions.sh nbd qemu nbdcopy

cd $d
"$PYTHON" - <<'END'
import random
r = random.Random(1)
def save(name, size, *ranges):
    with open(name, "wb") as f:
        for seed, start, end in ranges:
            f.seek(start)
            f.write(random.Random(seed).randbytes(end - start))
        f.truncate(size)
M = 1 << 20
save("a.raw", 8 * M, (1, 0, 3 * M), (2, 5 * M, 6 * M + 1000))
save("b.raw", 8 * M, (1, 0, M), (3, 2 * M, 2 * M + 5), (2, 5 * M, 6 * M))
save("short.raw", M + 700, (1, 0, M + 700))
save("long.raw", 30 * M, (4, 0, 20 * M))
END
qemu-img create -q -f qed -b a.raw -F raw a.qed
qemu-io -f qed -c 'write -P 3 2M 1M' -c 'write -z 4M 2M' a.qed
qemu-img create -q -f qed -o cluster_size=4k -b a.qed -F qed b.qed 7M
qemu-io -f qed -c 'write -P 3 1M 5k' b.qed
sha256sum *.raw [ab].qed >before

check ()                        # OLD NEW OPTIONS SIZE
{
    local format=${2#*.}
    if [ "$2" = none ]; then format=raw; fi
    rm -f x.qed qemu.qed want.raw got.raw
    qed-img create -q ${1:+-b $1 -F ${1#*.}} -o $3 x.qed $4
    qemu-io -f qed -c 'write -P 5 700k 100k' -c 'write -z 1500k 200k' x.qed
    qemu-img convert -f qed -O raw x.qed want.raw
    cp x.qed qemu.qed
    qed-img rebase -b "$2" ${2:+-F $format} x.qed
    qed-img info x.qed | grep '^backing file:' >name || :
    test "$(cat name)" = "${2:+backing file: $2}"
    qemu-img convert -f qed -O raw x.qed got.raw
    cmp want.raw got.raw
    nbdkit -r -U - qed x.qed --run 'nbdcopy "$uri" got.raw'
    cmp want.raw got.raw
    qed-img check x.qed
    qemu-img check -q x.qed
    if qemu-img rebase -b "$2" ${2:+-F $format} qemu.qed; then
        qemu-img compare -f qed -F qed x.qed qemu.qed
        # The file is no larger than QEMU's.
        test $(stat -c %s x.qed) -le $(stat -c %s qemu.qed)
    fi
    sha256sum -c --quiet before
}
check a.raw b.raw cluster_size=64k 3M
check b.qed a.qed cluster_size=64k 7M
check short.raw long.raw cluster_size=64k 10000k
for c in $(some long.raw:short.raw a.raw: :b.raw a.raw:b.qed); do
    check "${c%:*}" "${c#*:}" cluster_size=4k,table_size=2 3000k
done

# A file may be called "none", which the plugin takes as no backing file.
cp a.raw none
check b.raw none cluster_size=64k 3M

# Data that both backing files have is not copied.
qed-img create -q -b a.raw -F raw x.qed
cp a.raw same.raw
size=$(stat -c %s x.qed)
qed-img rebase -b same.raw -F raw x.qed
test $(stat -c %s x.qed) -eq $size

# Without -F, rebase detects the format and writes it into the header.
qed-img rebase -b a.qed x.qed 2>err
test ! -s err
test $(od -An -tu8 -j16 -N8 x.qed) -eq 1
qed-img rebase -b a.raw x.qed 2>err
grep 'x.qed: backing file: a.raw: .*taken as raw' err
test $(od -An -tu8 -j16 -N8 x.qed) -eq 5
qed-img rebase -q -b a.raw x.qed 2>err
test ! -s err

# A name is relative to the image, not to the current directory.
mkdir dir
qed-img create -q dir/x.qed 8M
qed-img rebase -b ../a.raw -F raw dir/x.qed
qed-img info dir/x.qed | grep '^backing file: ../a.raw '
cd dir
fails 1 'No such file' qed-img rebase -b a.raw -F raw ../dir/x.qed
qed-img rebase --backing-dir=$d -b ../b.raw -F raw ../dir/x.qed
