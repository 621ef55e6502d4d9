#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A block device works as the backing file, and as the image.

source ./functions.sh nbd loop nbdcopy

head -c 1M /dev/urandom >$d/base.raw
if ! base=$(losetup -f --show -r $d/base.raw); then
    skip "no loop device can be set up"
fi
cleanup_fn losetup -d $base
export base

image ()
{
    name=$1 "$PYTHON" - <<'END'
import os
import qedimg, qedtest
qedimg.Image(1 << 20, backing=os.environ["name"]).save(qedtest.TMP + "/x.qed")
END
}
same ()
{
    nbdkit -r -U - qed "$@" --run 'nbdcopy "$uri" "$d/got.raw"'
    cmp $d/base.raw $d/got.raw
}

image $base
refused "$d/x.qed: backing file: $base: .*backing-dir=/dev" qed $d/x.qed
same $d/x.qed backing-dir=/dev
same $d/x.qed backing=$base
# A symbolic link in the directory to the device is refused.
ln -s $base $d/link
image link
refused "$d/x.qed: backing file: $d/link: is the file $base, not" qed $d/x.qed
# A device node in the directory is allowed.
if mknod $d/node b $(stat -L -c '0x%t 0x%T' $base) && head -c 1 $d/node; then
    image node
    same $d/x.qed
fi >/dev/null

# An image in a device has no directory: it may not name its neighbours.
image $(basename $base)
truncate -s 2M $d/x.qed
dev=$(losetup -f --show -r $d/x.qed)
cleanup_fn losetup -d $dev
refused "$dev: backing file: $base: .*device.*backing-dir=/dev" qed $dev
same $dev backing-dir=/dev
same $dev backing=$base

# Two nodes of one device are the same file.
if mknod $d/self b $(stat -L -c '0x%t 0x%T' $dev) && head -c 1 $d/self; then
    refused "$dev: backing file: $d/self: is the file $dev again" \
            qed $dev backing=$d/self
fi >/dev/null
