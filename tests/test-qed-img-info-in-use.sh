#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# qed-img info takes no locks and does not change the image.  It works while
# QEMU or nbdkit has the image open for writing.

source ./functions.sh qemu

qemu-img create -q -f qed $d/x.qed 10M
state_of $d/x.qed >$d/before
qed-img info $d/x.qed
state_of $d/x.qed >$d/after
cmp $d/before $d/after
start_qemu_nbd -f qed $d/x.qed
qed-img info $d/x.qed
qed-img info -U --output=json $d/x.qed
stop_qemu_nbd
start_nbdkit qed $d/x.qed
qed-img info $d/x.qed
