#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A load as a guest's, while the image streams and keeps what is read: fio
# writes at random with many requests in flight and flushes between, reads back
# what it wrote, and finds it once more when the backing file is gone.  The rest
# of the disk is as it was.

source ./functions.sh nbd qemu nbdcopy fio
requires sh -c 'fio --enghelp | grep -w nbd'

cd $d
head -c 48M /dev/urandom >base.raw
qed-img create -q -b base.raw -F raw x.qed
start_nbdkit -v -D nbdkit.backend.datapath=0 \
             qed x.qed stream=true stream-rate=12M copy-on-read=true
for args in '' --verify_only; do
    fio --name=verify --ioengine=nbd --uri="$uri" --rw=randwrite \
        --bsrange=512-64k --bs_unaligned=0 --fsync=20 --iodepth=16 \
        --offset=1M --size=16M --loops=3 --randseed=1 --verify=crc32c --do_verify=1 \
        --verify_fatal=1 $args >fio.log 2>&1
    grep 'err= 0' fio.log
    if [ -z "$args" ]; then
        # It was all beside streaming.
        if grep 'streaming is complete' $log; then fail "too early"; fi
        wait_for 60 grep 'streaming is complete' $log
        mv base.raw want.raw
    fi
done
nbdcopy "$uri" got.raw
stop_nbdkit
cmp -n $((1 << 20)) want.raw got.raw
cmp -i $((17 << 20)) want.raw got.raw
qed-img check x.qed
qemu-img check -q x.qed
