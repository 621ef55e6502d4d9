#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Every verb of qed-img does on a block device what it does in a file, as far as
# the device has room, and says what it can't do.

source ./functions.sh nbd qemu loop

cd $d
# device FILE: set $dev to a loop device.
device ()
{
    if ! dev=$(losetup -f --show $d/$1); then
        skip "no loop device can be set up"
    fi
    cleanup_fn losetup -d $dev
}
head -c 20M /dev/urandom >x.img
head -c 3M /dev/urandom >base.raw
device x.img
all=--backing-dir=$d

# same: the disk in the device is that in a file.
same ()
{
    nbdcopy -- [ nbdkit -r qed local.qed backing-dir=$d ] want.raw
    nbdcopy -- [ nbdkit -r qed $dev backing-dir=$d ] got.raw
    cmp want.raw got.raw
    ends 0 qed-img check $dev
}
# both VERB ARGS...: in a file and in the device.
both ()
{
    ends 0 qed-img "$@" local.qed
    ends 0 qed-img "$@" $dev
    same
}

for i in local.qed $dev; do
    ends 0 qed-img create -b $d/base.raw -F raw $i 4M
done
same
ends 0 qed-img info $dev
grep -x "image: $dev" ends.out
grep -x 'disk size: 0 B' ends.out
qemu-img info $dev | grep -x 'disk size: 0 B'
fails 1 "is the file $d/base.raw, and an image in a device or an export has no directory .* add --backing-dir=$d" \
      qed-img map $dev
ends 0 qed-img map $all $dev
grep $d/base.raw ends.out

# write OFFSET: to both.
write ()
{
    for i in local.qed $dev; do
        start_nbdkit qed $(realpath $i) backing-dir=$d
        nbdsh -u "$uri" -c "h.pwrite (b'$1' * 5000, $1)"
        stop_nbdkit
    done
}
write 100000
for i in local.qed $dev; do
    ends 0 qed-img resize $all $i +1M
done
write 5000000
same
for i in local.qed $dev; do
    ends 0 qed-img resize --shrink $all $i 3M
done
same
both rebase $all -b ''
write 70000
both check -r all
both check -r leaks
qemu-img compare -f qed -F qed local.qed $dev

# No room for the copy of the whole base: the image is as it was, and in order.
head -c 30M /dev/urandom >large.raw
ends 0 qed-img create -b $d/large.raw -F raw $dev
fails 1 "$dev: no more clusters can be allocated: of the 20971520 bytes" \
      qed-img rebase $all -b '' $dev
ends 0 qed-img check $dev
nbdcopy -- [ nbdkit -r qed $dev backing-dir=$d ] got.raw
cmp large.raw got.raw

# A device as a backing file: commit writes there, if it is large enough.
head -c 3M /dev/urandom >b.img
device b.img
qed-img create -q -b $dev -F raw over.qed
qemu-io -f qed -c 'write -P 5 1M 100k' -c 'write -z 2M 64k' over.qed
qemu-img convert -f qed -O raw over.qed want.raw
fails 1 "is the file $dev, not beneath" qed-img commit over.qed
ends 0 qed-img commit --backing-dir=/dev over.qed
cmp $dev want.raw
qed-img resize --backing-dir=/dev over.qed +1M
qemu-io -f qed -c 'write -P 6 3M 64k' over.qed
fails 1 "$dev: .* is a device of 3145728 bytes: .* 4194304 of the image|$dev: is a device of 3145728 bytes" \
      qed-img commit --backing-dir=/dev over.qed
cmp -n 3145728 $dev want.raw

# Too small for an image, or in use.
truncate -s 100k small.img
device small.img
fails 1 "$dev: .*102400 bytes" qed-img create $dev 1M
