#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# While nbdkit serves an image read-only, or before a client that may write
# connects, QEMU can read it, but cannot open it for writing or create another
# in its place.  This holds in the foreground and in the background.

source ./functions.sh nbd qemu

qemu-img create -q -f qed $d/x.qed 10M
qemu-io -f qed -c 'write -P 9 0 64k' $d/x.qed
state_of $d/x.qed >$d/before

held ()
{
    local lock='Failed to get "?write"? lock|Failed to get shared'
    fails 1 "$lock" qemu-io -f qed -c 'write 0 512' $d/x.qed
    fails 1 "$lock" qemu-img resize -f qed $d/x.qed 20M
    fails 1 "$lock" qemu-img create -f qed $d/x.qed 1M
    qemu-io -r -f qed -c 'read -P 9 0 64k' $d/x.qed >$d/out
    absent failed $d/out
    qemu-img info $d/x.qed
    state_of $d/x.qed >$d/after
    cmp $d/before $d/after
}

start_nbdkit qed $d/x.qed
held
# Readers don't disturb each other.
start_nbdkit -n second -r qed $d/x.qed
nbdsh -u "$uri" -c 'assert h.pread (65536, 0) == b"\x09" * 65536'
stop_nbdkit
held
start_qemu_nbd -r -f qed $d/x.qed
stop_nbdkit second
start_nbdkit -r qed $d/x.qed
stop_qemu_nbd
held
stop_nbdkit

nbdkit -U $d/sock -P $d/pid qed $d/x.qed
wait_for 30 test -s $d/pid
pid=$(cat $d/pid)
cleanup_fn eval "kill $pid 2>/dev/null || :"
held
kill $pid
wait_for 30 gone $pid

# No program has the image open now.  With lock=false the plugin takes no
# locks, so QEMU can write the image.
start_nbdkit qed $d/x.qed lock=false
qemu-io -f qed -c 'write -P 8 0 64k' $d/x.qed
stop_nbdkit
qemu-io -f qed -c 'write -P 7 0 64k' $d/x.qed
