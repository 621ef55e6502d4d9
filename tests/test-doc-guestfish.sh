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
requires_program mke2fs sfdisk
# 300 MB of packages with a kernel, which CI installs for one of its stages.
if ! command -v guestfish; then skip "no guestfish here"; fi
skip_if_instrumented "booting libguestfs's appliance"

# The man page's options for guestfish: it boots a small guest, and reads a
# file from the filesystem in the disk.
cd $d
mkdir tree
seq 20000 >tree/numbers
mke2fs -q -t ext4 -d tree plain.raw 8M
truncate -s 12M disk.raw
echo 'start=2048, size=16384, type=83' | sfdisk -q disk.raw
dd if=plain.raw of=disk.raw bs=1M seek=1 conv=notrunc
qed-img create -q disk.qed 12M
nbdkit -U - qed disk.qed --run 'nbdcopy disk.raw "$uri"'

# Without KVM, which not every host has, nor libvirt.
export LIBGUESTFS_BACKEND=direct LIBGUESTFS_BACKEND_SETTINGS=force_tcg
export LIBGUESTFS_CACHEDIR=$d
start_nbdkit -r qed disk.qed
command=$(doc_block plugin/nbdkit-qed-plugin.pod 'The format is that of' |
              sed -n "/^guestfish/s,/tmp/qed.sock,$sock,p")
test "${command% -i}" != "$command"     # which is for a whole system's disk
timeout 600 bash -c "${command% -i} -m /dev/sda1 download /numbers got" \
        </dev/null
cmp tree/numbers got
