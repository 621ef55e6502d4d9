#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# An image that another program writes is checked only with -U.  One that
# another program reads is not repaired.  Neither changes.

source ./functions.sh nbd qemu

qemu-img create -q -f qed $d/x.qed 100M
qemu-io -f qed -c 'write -P 9 0 1M' $d/x.qed
truncate -s +1M $d/x.qed
qemu-io -f qed -c 'write -P 9 2M 64k' $d/x.qed

in_use="^qed-img: $d/x.qed: .*lock.*another process"
refused_to_writers ()
{
    state_of $d/x.qed >$d/before
    for args in '-r leaks' '-r all' '-q -r all' '--output=json -r leaks'; do
        fails 1 "$in_use" qed-img check $args $d/x.qed
        absent 'add -U' $d/fails.log
        test ! -s $d/fails.out
    done
    fails 1 'in use can.t be repaired' qed-img check -U -r leaks $d/x.qed
    state_of $d/x.qed >$d/after
    cmp $d/before $d/after
}

# Readers don't disturb each other.
start_nbdkit -r qed $d/x.qed
refused_to_writers
ends 3 qed-img check $d/x.qed
stop_nbdkit
start_qemu_nbd -r -f qed $d/x.qed
refused_to_writers
ends 3 qed-img check $d/x.qed
stop_qemu_nbd

refused_to_readers ()
{
    refused_to_writers
    fails 1 "$in_use.*, or add -U to read it anyway\$" \
          qed-img check $d/x.qed
    ends 3 qed-img check -U $d/x.qed
    grep '16 leaked clusters' $d/ends.out
    ends 3 qed-img check --force-share --output=json $d/x.qed
    grep '"leaks": 16,' $d/ends.out
    state_of $d/x.qed >$d/after
    cmp $d/before $d/after
}

start_qemu_nbd -f qed $d/x.qed
refused_to_readers
stop_qemu_nbd
start_nbdkit qed $d/x.qed
# A client that may write makes it a writer until it ends.
nbdsh -u "$uri" -c 'assert not h.is_read_only ()'
refused_to_readers
stop_nbdkit

# No program has the image open now.
qed-img check -r leaks $d/x.qed
qed-img check -r all $d/x.qed
qemu-img check -f qed $d/x.qed
