#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# qed-img create writes the same header as qemu-img create with the same
# options, and a file of the same length.

source ./functions.sh qemu

same ()
{
    rm -f $d/a.qed $d/b.qed
    qemu-img create -f qed "${@/FILE/$d/a.qed}" >$d/a.out
    qed-img create -f qed "${@/FILE/$d/b.qed}" >$d/b.out
    cmp $d/a.qed $d/b.qed
    # The output is the same, too.
    sed 's/a\.qed/b.qed/' $d/a.out | diff -u - $d/b.out
    # With -q there is no output.
    rm $d/b.qed
    qed-img create -q "${@/FILE/$d/b.qed}" >$d/b.out 2>&1
    test ! -s $d/b.out
    cmp $d/a.qed $d/b.qed
}

for size in $(some 0 1 511 512 513 1000 65536 65537 1048575 4k 4K 1M 1m 1G \
                   1.5G 0.5k 1.1k 1T 64T 100b 1.999M); do
    same FILE $size
done
for o in $(some cluster_size=4096 cluster_size=4k cluster_size=64K \
                cluster_size=1M table_size=2 table_size=16 \
                cluster_size=4k,table_size=1 \
                table_size=8,cluster_size=128k); do
    same -o $o FILE 10M
    same FILE -o $o 3M
done
same -o cluster_size=8k -o table_size=2 FILE 10M
# Options that change nothing in the image.  qemu-img prints them, so only the
# files are compared.
qed-img create -q $d/b.qed 3M
for o in preallocation=off nocow=off nocow=off,preallocation=off; do
    qemu-img create -q -f qed -o $o $d/a.qed 3M
    cmp $d/a.qed $d/b.qed
    qed-img create -q -o $o $d/a.qed 3M
    cmp $d/a.qed $d/b.qed
    rm $d/a.qed
done
for help in help '?' 'size=1M,?'; do
    qed-img create -o "$help" | grep -x '  table_size=N .*'
done
same -o size=12M FILE
same -o size=12M,cluster_size=16k FILE
