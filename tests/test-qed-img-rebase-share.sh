#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# With -U a rebase reads old and new backing files that another program writes.
# It still refuses an image that is in use itself.  Without -U the message
# names that option.

source ./functions.sh nbd qemu

cd $d
make ()
{
    qed-img create -q old.qed 4M
    qed-img create -q new.qed 4M
    qemu-io -f qed -c 'write -P 1 0 2M' old.qed >/dev/null
    qemu-io -f qed -c 'write -P 2 1M 2M' new.qed >/dev/null
    qed-img create -q -b old.qed -F qed x.qed
    qemu-io -f qed -c 'write -P 3 100k 100k' x.qed >/dev/null
    qemu-img convert -f qed -O raw x.qed want.raw
}
in_use="locked: another process .*: close it there first"
hint=", or add -U to read it anyway\$"
rebase ()
{
    qed-img rebase "$@" -b new.qed -F qed x.qed
}

for server in start_nbdkit start_qemu_nbd; do
    for file in old new; do
        make
        if [ $server = start_nbdkit ]; then
            start_nbdkit qed $file.qed
            # From now on the server has a writing client, and so the locks.
            nbdsh -u "$uri" -c 'assert not h.is_read_only ()'
        else
            start_qemu_nbd -f qed $PWD/$file.qed
        fi
        state_of x.qed >before
        fails 1 "^qed-img: x.qed: backing file: $file.qed: $in_use$hint" rebase
        state_of x.qed | cmp - before
        if [ $file = old ]; then
            rebase -U
        else
            rebase --force-share
        fi
        stop${server#start}
        qemu-img convert -f qed -O raw x.qed got.raw
        cmp want.raw got.raw
        qed-img info x.qed | grep -x 'backing file: new.qed'
    done

    make
    if [ $server = start_nbdkit ]; then
        start_nbdkit -r qed x.qed
    else
        start_qemu_nbd -r -f qed $PWD/x.qed
    fi
    state_of x.qed >before
    fails 1 "^qed-img: x.qed: $in_use\$" rebase
    fails 1 "^qed-img: x.qed: $in_use\$" rebase -U
    fails 1 "^qed-img: x.qed: $in_use\$" rebase -U -u
    stop${server#start}
    state_of x.qed | cmp - before

    # -U concerns only the backing files.  The image itself is still locked.
    if [ $server = start_nbdkit ]; then
        start_nbdkit qed x.qed
        nbdsh -u "$uri" -c 'assert not h.is_read_only ()'
    else
        start_qemu_nbd -f qed $PWD/x.qed
    fi
    state_of x.qed >before
    fails 1 "^qed-img: x.qed: $in_use\$" rebase -U
    state_of x.qed | cmp - before
    stop${server#start}
done
