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
requires_qemu

# --backing-chain: each image in its turn, as qemu-img prints them; a chain
# that is broken or goes round is an error that names both ends.
cd $d
truncate -s 1M base.raw
qemu-img create -q -f qed -b base.raw -F raw one.qed
qemu-img create -q -f qed -b one.qed -F qed two.qed
qemu-img create -q -f qed -b two.qed -F qed three.qed
qemu-img info --backing-chain three.qed >a
qed-img info --backing-chain three.qed >b
sed '/^Format specific/d; /^ /d' b | diff -u a -
test "$(grep -c ^image: b)" = 4

mv one.qed other.qed
fails 1 'qed-img: two.qed: backing file: .*one.qed: .*No such file' \
      qed-img info --backing-chain three.qed
test ! -s fails.out
qed-img info three.qed
qemu-img create -q -f qed one.qed 1M
qemu-img rebase -u -f qed -b three.qed -F qed one.qed
fails 1 'qed-img: one.qed: backing file: .*three.qed: is the file three.qed a' \
      timeout 60 "$abs_top_builddir/tools/qed-img" info --backing-chain \
      three.qed
qed-img info one.qed | grep -x 'backing file: three.qed'
