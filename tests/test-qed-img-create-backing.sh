#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# An image with a backing file has the same bytes as one that qemu-img creates.

source ./functions.sh qemu

cd $d
truncate -s 3M base.raw
truncate -s 12345 odd.raw
qemu-img create -q -f qed base.qed 5M
mkdir sub
qemu-img create -q -f qed sub/base.qed 6M

same ()
{
    rm -f a.qed b.qed
    qemu-img create -q -f qed "${@/FILE/a.qed}"
    qed-img create -q "${@/FILE/b.qed}"
    cmp a.qed b.qed
}
same -b base.raw -F raw FILE
same -b base.raw -F raw FILE 1M
same -b base.raw -F raw FILE 10M
same -b odd.raw -F raw FILE
same -b base.qed -F qed FILE
same -b base.qed -F qed FILE 7M
same -b "$d/base.qed" -F qed FILE
same -b sub/base.qed -F qed FILE
same -o backing_file=base.raw,backing_fmt=raw FILE
same -o backing_file=base.qed,backing_fmt=qed,cluster_size=4k FILE 1M
same -b base.qed -F raw FILE        # a QED image as raw data

# The name is relative to the new image, not to the current directory.
qemu-img create -q -f qed -b base.qed -F qed sub/a.qed
qed-img create -q -b base.qed -F qed sub/b.qed
cmp sub/a.qed sub/b.qed
qed-img info --output=json sub/b.qed | grep '"virtual-size": 6291456'
cd sub
qed-img create -q -b ../base.raw -F raw $d/sub/c.qed
test "$(qed-img info c.qed | grep '^backing file:')" = \
     "backing file: ../base.raw"
cd ..

# Without -F the format is found out: QED or, with a note, raw.
qed-img create -b base.qed c.qed 2>err
test ! -s err
qed-img create -b base.raw d.qed 2>err
grep 'base.raw: .*taken as raw' err
qemu-img create -q -f qed -b base.qed -F qed a.qed
cmp a.qed c.qed
qemu-img create -q -f qed -b base.raw -F raw a.qed
cmp a.qed d.qed

# A raw file that starts like an image of another format is refused.
qemu-img create -q -f qcow2 x.qcow2 1M
fails 1 'qed-img: .*x.qcow2: has the magic of format qcow2' \
      qed-img create -b x.qcow2 e.qed
test ! -e e.qed
qed-img create -q -b x.qcow2 -F raw e.qed

# A name that fills the header cluster to its last byte, one that needs a second
# cluster, and the longest.
for n in 2012 2013 2043; do
    name=$(printf './%.0s' $(seq $n))base.raw
    if [ $n = 2043 ]; then name=/$d/${name:$((${#d} + 2))}; fi
    test ${#name} -eq $((n * 2 + 8))
    qed-img create -q -o cluster_size=4k,table_size=2 -b $name -F raw f.qed
    qed-img info f.qed >info
    grep -F -x "backing file: $name" info || grep -F "backing file: $name (" info
    if [ $n = 2012 ]; then size=1; else size=2; fi
    grep -x "    header size: $size" info
    qemu-img compare -f qed -F raw f.qed base.raw
done
