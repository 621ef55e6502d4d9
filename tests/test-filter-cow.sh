#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Under the cow filter QEMU can write over NBD while the server runs, and the
# image does not change.

source ./functions.sh nbd qemu filter:cow mke2fs e2fsck

qemu-img create -q -f qed $d/x.qed 20M
qemu-io -f qed -c 'write -P 1 0 1M' $d/x.qed
state_of $d/x.qed >$d/before
start_nbdkit --filter=cow qed $d/x.qed
qemu-io -f raw -c 'write -P 2 500k 1M' -c 'write -z 0 64k' \
        -c 'read -P 0 0 64k' -c 'read -P 1 64k 436k' -c 'read -P 2 500k 1M' \
        -c 'read -P 0 1524k 18M' "$uri" | tee $d/out
absent 'failed|error' $d/out
stop_nbdkit
state_of $d/x.qed >$d/after
cmp $d/before $d/after
