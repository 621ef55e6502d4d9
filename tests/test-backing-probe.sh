#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A backing file with the magic of another format is not taken for raw.  The
# message names the parameter to give.

source ./functions.sh nbd qemu nbdinfo

for format in $(some qcow qcow2 vmdk vdi vhdx vpc luks parallels); do
    if [ $format = luks ]; then
        head -c 1M /dev/zero >$d/base
        printf 'LUKS\xba\xbe' | dd of=$d/base conv=notrunc status=none
    else
        qemu-img create -q -f $format $d/base 4M
    fi
    qemu-img create -q -u -f qed -b base -F qed $d/x.qed 4M
    refused "$d/x.qed: backing file: $d/base: .*$format: add backing-format=$format," \
            qed $d/x.qed
    refused "backing-format=$format," qed $d/x.qed backing-format=auto
    refused "backing-format=$format," qed $d/x.qed backing=$d/base
    # The parameter does not reach a lower layer, so the message does not
    # advise it.
    qemu-img create -q -u -f qed -b x.qed -F qed $d/y.qed 4M
    refused "$d/x.qed: backing file: $d/base: .*$format.*convert it" \
            qed $d/y.qed backing-format=qed
    start_nbdkit -r qed $d/x.qed backing-format=raw
    nbdsh -u "$uri" -c '
import os
magic = open (os.environ["d"] + "/base", "rb").read (80)
assert h.pread (80, 0) == magic
'
    stop_nbdkit
    rm $d/*.qed $d/base
done

# A magic anywhere else is just data; so is a part of one.
for at in 1 4 512; do
    truncate -s 1M $d/base
    printf 'QFI\xfb' | dd of=$d/base bs=1 seek=$at conv=notrunc status=none
    qemu-img create -q -u -f qed -b base -F qed $d/x.qed 4M
    nbdkit -r -U - qed $d/x.qed --run 'nbdinfo --size "$uri"'
    rm $d/base
done
printf 'QF' >$d/base
nbdkit -r -U - qed $d/x.qed --run 'nbdinfo --size "$uri"'

# QED's magic without an image behind it is no raw disk either.
printf 'QED\0' >$d/base
refused "$d/x.qed: backing file: $d/base: header: " qed $d/x.qed
