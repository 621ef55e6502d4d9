#!/usr/bin/env bash
# nbdkit-qed
# Copyright (C) 2026 nbdkit-qed authors
#
# Redistribution and use in source and binary forms, with or without
# modification, are permitted provided that the following conditions are
# met:
#
# * Redistributions of source code must retain the above copyright
# notice, this list of conditions and the following disclaimer.
#
# * Redistributions in binary form must reproduce the above copyright
# notice, this list of conditions and the following disclaimer in the
# documentation and/or other materials provided with the distribution.
#
# * Neither the name of nbdkit-qed nor the names of its contributors may be
# used to endorse or promote products derived from this software without
# specific prior written permission.
#
# THIS SOFTWARE IS PROVIDED BY THE AUTHORS AND CONTRIBUTORS ''AS IS'' AND
# ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO,
# THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A
# PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE AUTHORS OR
# CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
# SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT
# LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF
# USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND
# ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY,
# OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT
# OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF
# SUCH DAMAGE.

source ./functions.sh
set -e
set -x
requires_nbd
requires_qemu
requires_program fio
requires sh -c 'fio --enghelp | grep -w nbd'

# fio writes at random with many requests in flight and finds what it wrote.
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
