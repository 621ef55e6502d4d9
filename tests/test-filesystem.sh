#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A real disk image: qemu-img converts a filesystem with files, and nbdcopy
# copies it out.  The copy is identical, has the holes, and is a sound
# filesystem.  nbdkit's ext2 filter finds the files.

source ./functions.sh nbd qemu filter:ext2 mke2fs e2fsck nbdcopy
source "$testsdir/make-tree.sh"

make_tree $d/tree
mke2fs -q -t ext4 -b 1024 -d $d/tree $d/fs.raw 60M
e2fsck -fn $d/fs.raw

for options in cluster_size=4k,table_size=2 cluster_size=64k,table_size=4 \
               cluster_size=1M,table_size=2; do
    qemu-img convert -f raw -O qed -o $options $d/fs.raw $d/fs.qed
    state_of $d/fs.qed >$d/before
    nbdkit -U - qed $d/fs.qed --run "nbdcopy \"\$uri\" $d/copy.raw"
    cmp $d/fs.raw $d/copy.raw
    e2fsck -fn $d/copy.raw
    # The copy is sparse: it is not much larger than the data.
    test $(stat -c %b $d/copy.raw) -le \
         $(($(stat -c %b $d/fs.qed) + 2048))
    qemu-img compare -f raw -F qed $d/copy.raw $d/fs.qed

    for f in hello link sub/hard sparse 'sub/deep/er' empty; do
        if [ -f "$d/tree/$f" ] && [ ! -L "$d/tree/$f" ]; then
            nbdkit -r -U - --filter=ext2 qed $d/fs.qed ext2file="/$f" \
                   --run "nbdcopy \"\$uri\" $d/file"
            cmp "$d/tree/$f" $d/file
            rm $d/file
        fi
    done
    state_of $d/fs.qed >$d/after
    cmp $d/before $d/after
    rm $d/copy.raw $d/fs.qed
done
