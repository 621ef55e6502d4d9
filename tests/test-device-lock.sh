#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# An image in a block device is locked as one in a file.  QEMU and other
# servers are refused while it is open for writing, and so are we while QEMU has
# it open.  Afterwards it is free.

source ./functions.sh nbd qemu loop

cd $d
truncate -s 32M disk
if ! dev=$(losetup -f --show disk); then
    skip "no loop device can be set up"
fi
cleanup_fn losetup -d $dev
qed-img create -q -f qed $dev 16M

# The lock for writing comes with the first connection that may write.
start_nbdkit qed $dev
nbdsh -u "$uri" -c 'h.pwrite(b"content", 100)' -c 'h.flush()'
fails 1 'lock' qemu-img info -f qed $dev
fails 1 'lock' qemu-io -f qed -c 'read 0 512' $dev
refused "$dev: .*another process has the image open" qed $dev
refused "$dev: .*another process has the image open" -r qed $dev
fails 1 "$dev: .*another process has the image open" qed-img resize $dev 20M
qemu-img info -U -f qed $dev
stop_nbdkit

# The other way round.
start_qemu_nbd -f qed $dev
refused "$dev: .*another process has the image open" qed $dev
refused "$dev: .*another process has the image open" -r qed $dev
stop_qemu_nbd
start_nbdkit qed $dev
nbdsh -u "$uri" -c 'assert h.pread(7, 100) == b"content"'
