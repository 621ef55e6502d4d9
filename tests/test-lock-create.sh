#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# qed-img create does not replace an image that nbdkit or QEMU has open, for
# reading or for writing.  The image does not change, and no other file is
# left.

source ./functions.sh nbd qemu nbdinfo

qemu-img create -q -f qed $d/x.qed 10M
qemu-io -f qed -c 'write -P 9 0 64k' $d/x.qed
mkdir $d/dir
mv $d/x.qed $d/dir
state_of $d/dir/* >$d/before

held ()
{
    fails 1 "qed-img: $d/dir/x.qed: .*another process has the image open" \
          qed-img create $d/dir/x.qed 1M
    state_of $d/dir/* >$d/after
    cmp $d/before $d/after
    test "$(ls -A $d/dir)" = x.qed
}

start_nbdkit qed $d/dir/x.qed
held
stop_nbdkit
start_qemu_nbd -r -f qed $d/dir/x.qed
held
stop_qemu_nbd
start_qemu_nbd -f qed $d/dir/x.qed
held
stop_qemu_nbd
qed-img create $d/dir/x.qed 1M
test "$(ls -A $d/dir)" = x.qed
nbdkit -U - qed $d/dir/x.qed --run 'test $(nbdinfo --size "$uri") = 1048576'
