#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# With the no-probe bit a backing file is raw, even if it begins with the magic
# of another format.

source ./functions.sh nbd qemu nbdcopy

qemu-img create -q -f qed $d/inner.qed 1M
qemu-io -f qed -c 'write -P 7 0 64k' $d/inner.qed >/dev/null
qemu-img create -q -f qcow2 $d/inner.qcow2 1M
for inner in inner.qed inner.qcow2; do
    rm -f $d/x.qed
    qemu-img create -q -f qed -b $inner -F raw $d/x.qed 1M
    same_as_qemu $d/x.qed
    nbdkit -r -U - qed $d/x.qed --run 'nbdcopy "$uri" - | head -c 4096' |
        cmp -n 4096 - $d/$inner
    same_as_qemu $d/x.qed backing-format=auto
done

# Without it the image is read.
rm -f $d/x.qed
qemu-img create -q -f qed -b inner.qed -F qed $d/x.qed 1M
same_as_qemu $d/x.qed
nbdkit -r -U - qed $d/x.qed --run 'nbdcopy "$uri" - | head -c 65536' |
    cmp - <(head -c 65536 /dev/zero | tr '\0' '\7')

# The bit is about the image's own backing file, not about layers further down.
rm -f $d/y.qed
qemu-img create -q -f qed -b x.qed -F qed $d/y.qed 1M
same_as_qemu $d/y.qed

# backing-format= wins.
start_nbdkit -r qed $d/x.qed backing-format=raw
nbdsh -u "$uri" -c 'assert h.pread (4, 0) == b"QED\0"'
stop_nbdkit
rm -f $d/x.qed
qemu-img create -q -f qed -b inner.qed -F raw $d/x.qed 1M
start_nbdkit -r qed $d/x.qed backing-format=qed
nbdsh -u "$uri" -c 'assert h.pread (4, 0) == b"\7" * 4'
