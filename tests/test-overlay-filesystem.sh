#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Two processes, one after the other, change a filesystem in a raw file through
# an overlay.  It is sound, has the old files and the new ones, and the raw
# file does not change.

source ./functions.sh nbd qemu mke2fs e2fsck debugfs nbdcopy fuse
source "$testsdir/make-tree.sh"

make_tree $d/tree
mke2fs -q -t ext4 -b 1024 -d $d/tree $d/base.raw 40M
state_of $d/base.raw >$d/before
qed-img create -b base.raw -F raw $d/x.qed
head -c 3000000 /dev/urandom >$d/new

change ()
{
    start_nbdkit qed $d/x.qed
    start_nbdfuse $d/fuse/disk
    "$@"
    stop_nbdfuse
    stop_nbdkit
    "$PYTHON" -c '
import qedimg, sys
qedimg.References (sys.argv[1]).check_clean ()' $d/x.qed
    qemu-img check -f qed $d/x.qed || test $? -eq 3
    state_of $d/base.raw >$d/after
    cmp $d/before $d/after
}

populate ()
{
    printf '%s\n' 'mkdir new' "write $d/new new/one" "write $d/new new/two" \
           'rm hello' 'rm new/two' "write $d/new new/three" |
        debugfs -w -f - $d/fuse/disk
    e2fsck -fn $d/fuse/disk
}

look ()
{
    e2fsck -fn $d/fuse/disk
    for f in one three; do
        debugfs -R "dump new/$f $d/got" $d/fuse/disk
        cmp $d/new $d/got
    done
}

change populate
change look
nbdkit -r -U - qed $d/x.qed --run "nbdcopy \"\$uri\" $d/copy.raw"
e2fsck -fn $d/copy.raw
debugfs -R "rdump / $d" $d/copy.raw
debugfs -R "dump sparse $d/got" $d/copy.raw
cmp $d/tree/sparse $d/got
debugfs -R "dump new/one $d/got" $d/copy.raw
cmp $d/new $d/got
qemu-img compare -f raw -F qed $d/copy.raw $d/x.qed
