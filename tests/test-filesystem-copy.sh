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
source "$testsdir/make-tree.sh"
set -e
set -x
requires_nbd
requires_filter ext2
requires_program mke2fs e2fsck nbdcopy

# A filesystem with files is copied into an image by nbdcopy; it's sound
# there, and the files are in it.
make_tree $d/tree
mke2fs -q -t ext4 -b 1024 -d $d/tree $d/fs.raw 60M
for options in $(some cluster_size=64k,table_size=4 cluster_size=4k \
                      cluster_size=2M,table_size=1); do
    qed-img create -o $options $d/fs.qed 60M
    nbdkit -U - qed $d/fs.qed --run "nbdcopy $d/fs.raw \"\$uri\""
    nbdkit -U - qed $d/fs.qed --run "nbdcopy \"\$uri\" $d/copy.raw"
    cmp $d/fs.raw $d/copy.raw
    e2fsck -fn $d/copy.raw
    nbdkit -r -U - --filter=ext2 qed $d/fs.qed ext2file=/hello \
           --run "nbdcopy \"\$uri\" $d/file"
    cmp $d/tree/hello $d/file
    # There are holes in it.
    test $(stat -c %b $d/fs.qed) -le $((60 * 2048 / 2))
    rm $d/fs.qed $d/copy.raw $d/file
done
