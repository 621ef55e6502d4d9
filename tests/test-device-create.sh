#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# qed-img create makes an image in a block device, whatever that holds, and
# touches nothing behind the header and the L1 table.  The disk may be larger
# than the device.  A device that is mounted, in use or too small is refused,
# and stays as it is.

source ./functions.sh nbd qemu loop mount

garbage_device 16
cp $d/device.raw $d/before.raw
ends 0 qed-img create $dev 1G
sync
end=$((65536 * 5))
# The L1 table, and the header cluster but the header.
cmp -n $((end - 64)) -i 64:0 $dev /dev/zero
cmp -i $end $dev $d/before.raw
qemu-img info -f qed $dev
ends 0 qed-img check $dev
on_disk $dev 'assert h.get_size() == 1 << 30
for i in range(0, 1 << 30, 1 << 25):
    assert h.pread(1 << 25, i) == bytes(1 << 25), i'

# Over an image that is there, with a name in its header.
truncate -s 1M $d/base.raw
qed-img create -q -b $d/base.raw -F raw -o cluster_size=4k $dev
start_nbdkit qed $dev backing-dir=$d
nbdsh -u "$uri" -c 'h.pwrite(b"x" * 100000, 0)'
stop_nbdkit
qed-img create -q -o cluster_size=4k,table_size=1 $dev 4M
qed-img info $dev | tee $d/info
absent backing $d/info
ends 0 qed-img check $dev
on_disk $dev 'assert h.pread(4 << 20, 0) == bytes(4 << 20)'

same ()
{
    sync
    cmp $d/device.raw $d/before.raw
}
sync
cp $d/device.raw $d/before.raw

# Too small: the needed and the present size.
fails 1 "^qed-img: $dev: has 16777216 bytes: .* need 20971520" \
      qed-img create -o cluster_size=4M,table_size=4 $dev 1G
same

# Open for writing, or for reading.
start_nbdkit qed $dev
nbdsh -u "$uri" -c 'h.pread(512, 0)'
fails 1 "^qed-img: $dev: " qed-img create $dev 1M
stop_nbdkit
start_nbdkit -r qed $dev
fails 1 "^qed-img: $dev: " qed-img create $dev 1M
stop_nbdkit
same

# Mounted.
if command -v mkfs.ext4; then
    mkfs.ext4 -q $dev
    mkdir $d/mnt
    mount $dev $d/mnt
    cleanup_fn rmdir $d/mnt
    fails 1 "^qed-img: $dev: open: Device or resource busy: .*mounted" \
          qed-img create $dev 1M
    umount $d/mnt
    qed-img create -q $dev 1M
    ends 0 qed-img check $dev
fi
