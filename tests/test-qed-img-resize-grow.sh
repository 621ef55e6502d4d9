#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# resize to a larger size makes the same image as qemu-img resize.  The new
# space reads as zeros.

source ./functions.sh nbd qemu nbdinfo

cd $d
for o in cluster_size=64k cluster_size=4k,table_size=2 \
         $(some cluster_size=1M,table_size=16); do
    qemu-img create -q -f qed -o $o x.qed 10000k
    qemu-io -f qed -c 'write -P 1 0 100k' -c 'write -P 2 9999k 1k' \
            -c 'write -z 5M 1M' x.qed
    for size in 10000.5k 20M +1M 1.5G; do
        cp x.qed qemu.qed
        cp x.qed ours.qed
        qemu-img resize -q qemu.qed $size
        test "$(qed-img resize ours.qed $size)" = "Image resized."
        cmp qemu.qed ours.qed
    done
    qemu-io -f qed -c 'read -P 2 9999k 1k' -c 'read -P 0 10000k 100M' \
            ours.qed >out
    absent 'fail' out
    on_disk ours.qed "
assert h.get_size () == 1536 << 20
assert h.pread (1024, 9999 << 10) == b'\\2' * 1024
h.pwrite (b'end', h.get_size () - 3)
assert h.pread (9, h.get_size () - 9) == bytes (6) + b'end'"
    qemu-img check -q ours.qed
done

# A size is rounded up to a whole sector.  (qemu-img refuses it.)
qed-img create -q y.qed 1M
test -z "$(qed-img resize -q y.qed 1048577)"
qed-img info y.qed | grep '(1049088 bytes)'
qed-img resize -q y.qed +1
qed-img info y.qed | grep '(1049600 bytes)'
qed-img resize -q -f qed y.qed 1049600
qed-img info y.qed | grep '(1049600 bytes)'

# The largest disk of a geometry, and the largest disk of the format.
qed-img create -q -o cluster_size=4k,table_size=1 z.qed 1M
qed-img resize -q z.qed 1G
on_disk z.qed "h.pwrite (b'end', (1 << 30) - 3)"
qemu-img create -q -f qed -o cluster_size=64M,table_size=16 z.qed 1M ||
    qed-img create -q -o cluster_size=64M,table_size=16 z.qed 1M
qed-img resize -q z.qed 9223372036854775296
test $(nbdkit -U - qed z.qed --run 'nbdinfo --size "$uri"') = \
     9223372036854775296
