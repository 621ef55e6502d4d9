#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# From the first client that may write until the server ends no other program,
# QEMU or nbdkit, can open the image.  nbdkit refuses such a client while
# another program has the image open.

source ./functions.sh nbd qemu

qemu-img create -q -f qed $d/x.qed 10M
qemu-io -f qed -c 'write -P 9 0 64k' $d/x.qed

# connect NAME: to one of the servers, with leave to write.
connect ()
{
    nbdsh -u "nbd+unix:///?socket=$d/$1.sock" -c '
assert not h.is_read_only ()
assert h.pread (65536, 0) == b"\x09" * 65536
h.pwrite (b"\x09" * 65536, 0)
h.pwrite (b"\x08", 1 << 20)
'
}

# not_connected NAME: the same is refused.
not_connected ()
{
    local n
    n=$(wc -l <$d/$1.log)
    fails 1 '.' connect $1
    tail -n +$((n + 1)) $d/$1.log |
        grep -E "$d/x.qed: .*another process has the image open"
}

locked ()
{
    local lock='Failed to get ' busy='another process has the image open'
    fails 1 "$lock" qemu-io -f qed -c 'write 0 512' $d/x.qed
    fails 1 "$lock" qemu-io -r -f qed -c 'read 0 512' $d/x.qed
    fails 1 "$lock" qemu-img resize -f qed $d/x.qed 20M
    fails 1 "$lock" qemu-img check -f qed $d/x.qed
    fails 1 "$lock" qemu-img create -f qed $d/x.qed 1M
    # qemu-img -U ignores the locks.
    qemu-img info -U $d/x.qed
    refused "$d/x.qed: .*$busy" qed $d/x.qed
    refused "$d/x.qed: .*$busy" -r qed $d/x.qed
    fails 1 "$busy" qed-img create $d/x.qed 1M
}

# Writers and readers of QEMU.
start_nbdkit qed $d/x.qed
connect nbdkit
locked
stop_nbdkit

start_nbdkit qed $d/x.qed
start_qemu_nbd -r -f qed $d/x.qed
not_connected nbdkit
stop_qemu_nbd
connect nbdkit
locked
stop_nbdkit
start_qemu_nbd -f qed $d/x.qed
refused "$d/x.qed: .*another process has the image open" qed $d/x.qed
stop_qemu_nbd

# While two nbdkits have the image open, neither accepts a writing client.
# After one ends, the other does.
start_nbdkit -n one qed $d/x.qed
start_nbdkit -n two qed $d/x.qed
not_connected one
not_connected two
stop_nbdkit two
connect one
locked
stop_nbdkit one

start_nbdkit -n reader -r qed $d/x.qed
start_nbdkit -n one qed $d/x.qed
not_connected one
nbdsh -u "nbd+unix:///?socket=$d/reader.sock" -c 'h.pread (65536, 0)'
stop_nbdkit reader
connect one
connect one
locked
stop_nbdkit one

# In the background.
nbdkit -U $d/sock -P $d/pid qed $d/x.qed
wait_for 30 test -s $d/pid
pid=$(cat $d/pid)
cleanup_fn eval "kill $pid 2>/dev/null || :"
nbdsh -u "nbd+unix:///?socket=$d/sock" -c 'h.pwrite (b"\x08", 1 << 20)'
locked
kill $pid
wait_for 30 gone $pid

# The image is unlocked again.
qemu-img check -f qed $d/x.qed
qemu-io -f qed -c 'read -P 9 0 64k' -c 'read -P 8 1M 1' $d/x.qed >$d/out
absent failed $d/out

# With lock=false the plugin neither takes nor checks locks.
start_qemu_nbd -r -f qed $d/x.qed
start_nbdkit -n one qed $d/x.qed lock=false
connect one
stop_qemu_nbd
qemu-io -r -f qed -c 'read -P 9 0 64k' $d/x.qed
start_nbdkit -n two -r qed $d/x.qed lock=false
