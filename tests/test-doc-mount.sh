#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The README and the man page mount the filesystem in a disk, with and without
# partitions.  Their commands work without a pause between them.

source ./functions.sh nbd mke2fs sfdisk loop fuse nbdcopy

cd $d
ln -s "$abs_top_builddir/nbdkit" nbdkit
mkdir tree
seq 100000 >tree/numbers
mke2fs -q -t ext4 -d tree plain.raw 20M
truncate -s 24M partitioned.raw
echo 'start=2048, size=40960, type=83' | sfdisk -q partitioned.raw
dd if=plain.raw of=partitioned.raw bs=1M seek=1 conv=notrunc
for kind in plain partitioned; do
    qed-img create -q $kind.qed $(stat -c %s $kind.raw)
    nbdkit -U - qed $kind.qed --run "nbdcopy $kind.raw \"\$uri\""
done
mkdir try
if ! dev=$(losetup -f --show plain.raw) || ! mount -o ro $dev try; then
    if [ -n "$dev" ]; then losetup -d $dev; fi
    skip "nothing can be mounted"
fi
umount try
losetup -d $dev

cleanup_fn tidy
tidy ()
{
    # nbdfuse may still be starting.
    if [ -d disk ]; then wait_for 10 mountpoint -q disk || :; fi
    if mountpoint -q mnt; then umount mnt; fi
    if mountpoint -q disk; then fusermount3 -u disk; fi
}

# mounts KIND MOUNT UNMOUNT: run the commands twice, because the first run may
# leave something behind.
mounts ()
{
    ln -sf $1.qed disk.qed
    for i in 1 2; do
        timeout 60 bash -e -c "$2" </dev/null
        cmp tree/numbers mnt/numbers
        bash -e -c "$3"
        absent " $d/" /proc/self/mounts
        rmdir disk mnt
    done
}

block=$(doc_block README 'Mount the first partition')
mounts partitioned "$(sed '/^\.\.\.$/,$d' <<<"$block")" \
       "$(sed '1,/^\.\.\.$/d' <<<"$block")"
man=plugin/nbdkit-qed-plugin.pod
undo=$(doc_block $man 'when L<nbdfuse(1)> has written')
mounts partitioned "$(doc_block $man '=item Mount a filesystem')" "$undo"
mounts plain "mkdir disk mnt; $(doc_block $man 'On a disk without part')" \
       "$undo"
