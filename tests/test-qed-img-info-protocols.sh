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

# Names in a header that look like a protocol's: the file of that name if
# there is one, beside the image, else nothing that is followed.
cd $d
mkdir imgs
make ()
{
    qemu-img create -q -f qed imgs/$1 1M
    qemu-img rebase -u -f qed -b "$2" -F raw imgs/$1
}
make uri.qed nbd://localhost:1/
make file.qed pre:fix.raw
truncate -s 1M imgs/pre:fix.raw

qed-img info imgs/uri.qed | grep -x 'backing file: nbd://localhost:1/'
fails 1 '^qed-img: imgs/uri.qed: backing file: nbd://localhost:1/: there is' \
      qed-img info --backing-chain imgs/uri.qed
grep -F ': qed-img rebase -u -b NAME' fails.log
test ! -s fails.out
absent 'write ./' fails.log

qed-img info --backing-chain imgs/file.qed >out
grep -x 'backing file: pre:fix.raw (actual path: imgs/pre:fix.raw)' out
grep -x 'image: imgs/pre:fix.raw' out
qed-img map imgs/file.qed
# In the current directory it's another file.
mv imgs/pre:fix.raw .
fails 1 'pre:fix.raw: there is no such file' \
      qed-img info --backing-chain imgs/file.qed

# Who makes an image has to say what is meant, because QEMU takes it for a
# protocol.
fails 1 'must name a file: if it is one write ./' \
      qed-img create -b pre:fix.raw -F raw x.qed
qed-img create -b ./pre:fix.raw -F raw x.qed
qed-img info --backing-chain x.qed | grep -x 'image: ./pre:fix.raw'
qemu-img info --backing-chain x.qed
