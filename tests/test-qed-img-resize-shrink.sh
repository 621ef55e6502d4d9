#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# resize makes a disk smaller only with --shrink.  The start of the disk keeps
# its content, and the file gives the space back.  The data that was cut off
# does not reappear when the disk grows again.

source ./functions.sh nbd qemu

cd $d
for o in cluster_size=64k cluster_size=4k,table_size=2 \
         $(some cluster_size=1M,table_size=2); do
    qemu-img create -q -f qed -o $o x.qed 20M
    # In this order, the shrink must move clusters to shorten the file.
    for i in 9 17 3 1 12; do
        qemu-io -f qed -c "write -P $i ${i}M 1M" x.qed
    done
    qemu-io -f qed -c 'write -z 15M 1M' x.qed
    qemu-img convert -f qed -O raw x.qed want.raw

    state_of x.qed >before
    fails 1 'qed-img: x.qed: size 10486784: .*20971520.*--shrink' \
          qed-img resize x.qed 10486784
    fails 1 'qed-img: x.qed: .*--shrink' qed-img resize x.qed -1M
    state_of x.qed | cmp - before

    size=$(stat -c %s x.qed)
    test "$(qed-img resize --shrink x.qed 10000.5k)" = "Image resized."
    truncate -s 10240512 want.raw
    rm -f got.raw
    qemu-img convert -f qed -O raw x.qed got.raw
    cmp want.raw got.raw
    qed-img check x.qed
    qemu-img check -q x.qed
    # The clusters of 12M and 17M are free, 1 MiB each.  Those from 9M to
    # 10000.5k stay.
    test $(stat -c %s x.qed) -le $((size - 2097152))
    cp x.qed y.qed

    # Grow it with qed-img, and with QEMU.
    truncate -s 20M want.raw
    qed-img resize -q x.qed 20M
    qemu-img resize -q y.qed 20M
    for i in x y; do
        qemu-img convert -f qed -O raw $i.qed got.raw
        cmp want.raw got.raw
    done

    # Shrink it to one sector.  An option may follow the file name, but a size
    # that starts with - must be last.
    qed-img resize x.qed --shrink -20971008
    qed-img resize --shrink -- y.qed -20971008
    for i in x y; do
        qed-img info $i.qed | grep '(512 bytes)'
        qed-img check $i.qed
        on_disk $i.qed "assert h.pread (512, 0) == bytes (512)"
    done
done

# With the disk's own size, --shrink frees the clusters that an interrupted
# shrink has left behind.
"$PYTHON" - <<'END'
import qedimg
i = qedimg.Image(1 << 20, cluster_size=4096, table_size=1)
for c in 300, 5, 600, 10:
    i.data(c)
i.save("left.qed")
END
size=$(stat -c %s left.qed)
qed-img resize left.qed 1M
test $(stat -c %s left.qed) -eq $size
qed-img resize --shrink left.qed 1M
qed-img check left.qed
test $(stat -c %s left.qed) -eq $((size - 3 * 4096))
