#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# fio writes at random with many requests in flight, and reads back what it
# wrote.

source ./functions.sh nbd qemu fio
requires sh -c 'fio --enghelp | grep -w nbd'

for options in $(some cluster_size=64k,table_size=4 \
                      cluster_size=4k,table_size=2); do
    qed-img create -o $options $d/x.qed 1G
    start_nbdkit qed $d/x.qed
    for args in $(some --rw=randwrite,--bsrange=512-64k,--bs_unaligned=0 \
                       --rw=randwrite,--bs=4k,--fsync=20 \
                       --rw=randtrimwrite,--bs=16k \
                       --rw=write,--bs=1M); do
        (cd $d && fio --name=verify --ioengine=nbd --uri="$uri" --size=24M \
                      --offset=500M --iodepth=16 --randseed=1 \
                      --verify=crc32c --do_verify=1 --verify_fatal=1 \
                      ${args//,/ } >$d/fio.log 2>&1)
        grep 'err= 0' $d/fio.log
    done
    stop_nbdkit
    "$PYTHON" -c '
import qedimg, sys
qedimg.References (sys.argv[1]).check_clean ()' $d/x.qed
    qemu-img check -f qed $d/x.qed || test $? -eq 3
    rm $d/x.qed
done
