#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# While QEMU has an image open for writing nbdkit refuses it.  Afterwards, or
# with lock=false, nbdkit serves it.

source ./functions.sh nbd qemu

qemu-img create -q -f qed $d/x.qed 10M
qemu-io -f qed -c 'write -P 9 0 64k' $d/x.qed

start_qemu_nbd -f qed $d/x.qed
refused "$d/x.qed: .*another process has the image open.*'write'" qed $d/x.qed
refused "$d/x.qed: .*another process has the image open" \
        -r qed $d/x.qed lock=true
start_nbdkit qed $d/x.qed lock=false
nbdsh -u "$uri" -c 'assert h.pread (65536, 0) == b"\x09" * 65536'
stop_nbdkit
stop_qemu_nbd

start_nbdkit qed $d/x.qed
nbdsh -u "$uri" -c 'assert h.pread (65536, 0) == b"\x09" * 65536'
