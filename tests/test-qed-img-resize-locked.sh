#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# resize and rebase refuse an image that nbdkit or QEMU has open, for reading
# or for writing.  The image does not change.

source ./functions.sh nbd qemu

cd $d
truncate -s 1M base.raw
qemu-img create -q -f qed x.qed 1M
state_of x.qed >before

held ()
{
    for c in "resize x.qed 2M" "resize --shrink x.qed 512k" \
             "rebase -b base.raw -F raw x.qed" \
             "rebase -u -b base.raw -F raw x.qed"; do
        fails 1 'qed-img: x.qed: .*another process has the image open' \
              qed-img $c
    done
    state_of x.qed | cmp - before
}
start_nbdkit -r qed $d/x.qed
held
stop_nbdkit
start_qemu_nbd -r -f qed $d/x.qed
held
stop_qemu_nbd
start_qemu_nbd -f qed $d/x.qed
held
stop_qemu_nbd
start_nbdkit qed $d/x.qed
nbdsh -u "$uri" -c 'h.pread (512, 0)'
held
stop_nbdkit

# An image whose backing file is being written is refused, too.
qed-img create -q base.qed 1M
qed-img create -q -b base.qed -F qed y.qed
start_qemu_nbd -f qed $d/base.qed
fails 1 'y.qed: backing file: .*base.qed: .*another process has' \
      qed-img resize y.qed 2M
fails 1 'y.qed: backing file: .*base.qed: .*another process has' \
      qed-img rebase -b '' y.qed
fails 1 'x.qed: backing file: .*base.qed: .*another process has' \
      qed-img rebase -b base.qed -F qed x.qed
# rebase -u reads no backing file, so it can change the name.
qed-img rebase -u -b base.qed -F qed y.qed
stop_qemu_nbd
qed-img resize x.qed 2M
qed-img rebase -b base.qed -F qed x.qed
