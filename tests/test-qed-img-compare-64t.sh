#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# What both disks are known to have zeros in isn't read: two disks of 64 TiB are
# compared at once, and the one cluster in which they differ is found, in little
# memory.

source ./functions.sh qemu

cd $d
for i in a b; do
    qemu-img create -q -f qed $i.qed 64T
    qemu-io -f qed -c 'write -P 1 40T 64k' $i.qed >/dev/null
done
truncate -s 8T a.raw || skip "this filesystem has no files of 8T"
for s in '' -s; do
    ends 0 timeout 60 $QED_IMG compare $s a.qed b.qed
    grep -x 'Images are identical.' ends.out
done
qemu-io -f qed -c "write -P 2 $(((50 << 40) + 4096)) 512" b.qed >/dev/null
ends 1 timeout 60 $QED_IMG compare a.qed b.qed
grep -x "Content mismatch at offset $(((50 << 40) + 4096))!" ends.out
ends 1 timeout 60 $QED_IMG compare -s a.qed b.qed
grep -x "Strict mode: Offset $((50 << 40)) block status mismatch!" ends.out
ends 1 timeout 60 $QED_IMG compare a.raw b.qed
grep -x "Warning: Image size mismatch!" ends.out
grep -x "Content mismatch at offset $((40 << 40))!" ends.out
