#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A disk of 0 bytes can be served.

source ./functions.sh nbd qemu nbdcopy nbdinfo

qemu-img create -q -f qed $d/0.qed 0
start_nbdkit qed $d/0.qed
test "$(nbdinfo --size "$uri")" = 0
nbdinfo "$uri"
nbdcopy "$uri" $d/0.raw
test -f $d/0.raw
test ! -s $d/0.raw
nbdsh -u "$uri" -c '
h.set_strict_mode (0)
try:
    h.pread (1, 0)
    assert False
except nbd.Error as e:
    assert e.errno == "EINVAL", e
'
