#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A disk in normal use: through nbdfuse and a loop device it gets a filesystem,
# which is mounted, filled, partly emptied, trimmed and filled again.  In the
# end all files are right.

source ./functions.sh nbd qemu mke2fs e2fsck loop fuse
source "$testsdir/make-tree.sh"

make_tree $d/tree
qed-img create $d/x.qed 200M
mkdir $d/mnt

serve ()
{
    start_nbdkit qed $d/x.qed
    start_nbdfuse $d/fuse/disk
    cleanup_fn tidy
}

unserve ()
{
    stop_nbdfuse
    stop_nbdkit
}

# Whatever is left when something goes wrong: before nbdfuse is stopped.
tidy ()
{
    if mountpoint -q $d/mnt; then umount $d/mnt; fi
    if [ -n "$dev" ]; then losetup -d $dev; fi
}

serve
mke2fs -q -t ext4 -E lazy_itable_init=0 $d/fuse/disk
e2fsck -fn $d/fuse/disk
if ! dev=$(losetup -f --show $d/fuse/disk); then
    skip "no loop device can be set up"
fi
mount -t ext4 $dev $d/mnt
cp -a $d/tree $d/mnt/one
cp -a $d/tree $d/mnt/two
sync -f $d/mnt
rm -r $d/mnt/one
fstrim $d/mnt || :
cp -a $d/tree $d/mnt/three
umount $d/mnt
losetup -d $dev
dev=
unserve

"$PYTHON" -c '
import qedimg, sys
qedimg.References (sys.argv[1]).check_clean ()' $d/x.qed
qemu-img check -f qed $d/x.qed || test $? -eq 3

serve
e2fsck -fn $d/fuse/disk
dev=$(losetup -f --show $d/fuse/disk)
mount -t ext4 -o ro $dev $d/mnt
diff -r --no-dereference $d/tree $d/mnt/two
diff -r --no-dereference $d/tree $d/mnt/three
test ! -e $d/mnt/one
umount $d/mnt
losetup -d $dev
dev=
unserve
