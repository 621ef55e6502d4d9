#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# nbdcopy copies a filesystem into an image.  It is sound there and has its
# files.

source ./functions.sh nbd filter:ext2 mke2fs e2fsck nbdcopy
source "$testsdir/make-tree.sh"

make_tree $d/tree
mke2fs -q -t ext4 -b 1024 -d $d/tree $d/fs.raw 60M
for options in $(some cluster_size=64k,table_size=4 cluster_size=4k \
                      cluster_size=2M,table_size=1); do
    qed-img create -o $options $d/fs.qed 60M
    nbdkit -U - qed $d/fs.qed --run "nbdcopy $d/fs.raw \"\$uri\""
    nbdkit -U - qed $d/fs.qed --run "nbdcopy \"\$uri\" $d/copy.raw"
    cmp $d/fs.raw $d/copy.raw
    e2fsck -fn $d/copy.raw
    nbdkit -r -U - --filter=ext2 qed $d/fs.qed ext2file=/hello \
           --run "nbdcopy \"\$uri\" $d/file"
    cmp $d/tree/hello $d/file
    # There are holes in it.
    test $(stat -c %b $d/fs.qed) -le $((60 * 2048 / 2))
    rm $d/fs.qed $d/copy.raw $d/file
done
