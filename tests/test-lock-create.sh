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

# qed-img create doesn't replace an image that is in use, by nbdkit or QEMU,
# for reading or for writing; not a byte of it changes, and nothing is left
# beside it.
qemu-img create -q -f qed $d/x.qed 10M
qemu-io -f qed -c 'write -P 9 0 64k' $d/x.qed
mkdir $d/dir
mv $d/x.qed $d/dir
state_of $d/dir/* >$d/before

held ()
{
    fails 1 "qed-img: $d/dir/x.qed: .*another process has the image open" \
          qed-img create $d/dir/x.qed 1M
    state_of $d/dir/* >$d/after
    cmp $d/before $d/after
    test "$(ls -A $d/dir)" = x.qed
}

start_nbdkit qed $d/dir/x.qed
held
stop_nbdkit
start_qemu_nbd -r -f qed $d/dir/x.qed
held
stop_qemu_nbd
start_qemu_nbd -f qed $d/dir/x.qed
held
stop_qemu_nbd
qed-img create $d/dir/x.qed 1M
test "$(ls -A $d/dir)" = x.qed
nbdkit -U - qed $d/dir/x.qed --run 'test $(nbdinfo --size "$uri") = 1048576'
