#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The verbs that take a cache mode in qemu-img take the same modes, which
# change nothing.  Other modes are errors, and so is preallocation.

source ./functions.sh nbd qemu

cd $d
qemu-img create -q -f qed base.qed 1M
qemu-img create -q -f qed -b base.qed -F qed x.qed
qemu-io -f qed -c 'write -P 7 64k 64k' x.qed >/dev/null

for img in qemu-img qed-img; do
    for m in none off writeback writethrough directsync unsafe; do
        $img check -q -f qed -T $m x.qed
        $img rebase -q -f qed -t $m -T $m -b base.qed -F qed x.qed
        $img commit -q -f qed -d -t $m x.qed
    done
    for m in '' x on None writeback,unsafe; do
        state_of x.qed base.qed >before
        for o in 'check -T' 'rebase -b base.qed -F qed -t' \
                 'rebase -b base.qed -F qed -T' 'commit -t'; do
            re=$img:
            if [ $img = qed-img ]; then
                re="^qed-img: ${o%% *}: -${o##*-}: cache mode '$m': must be \
none, off, writeback, writethrough, directsync or unsafe"
            fi
            fails 1 "$re" $img $o "$m" x.qed
        done
        state_of x.qed base.qed | cmp - before
    done
done
qemu-io -f qed -c 'read -P 7 64k 64k' base.qed | grep -v 'Pattern verif'

for img in qemu-img qed-img; do
    $img resize -q -f qed --preallocation=off x.qed +1M
done
qed-img info x.qed | grep -x 'virtual size: 3 MiB (3145728 bytes)'
state_of x.qed >before
for p in metadata falloc full '' Off; do
    fails 1 qemu-img: qemu-img resize -f qed --preallocation=$p x.qed +1M
    fails 1 "^qed-img: resize: --preallocation: '$p': must be off: a QED image \
allocates clusters only when they are written" \
          qed-img resize --preallocation=$p x.qed +1M
done
state_of x.qed | cmp - before
