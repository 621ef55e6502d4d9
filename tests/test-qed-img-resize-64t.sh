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

# A disk of 64 TiB takes as little time and memory as a small one, to grow, to
# rebase and to shrink, on top of nothing or of as large a hole.
cd $d
qed-img create -q huge.qed 64T
on_disk huge.qed "h.pwrite (b'data', 16 << 40)"
for below in none huge; do
    if [ $below = none ]; then
        qed-img create -q x.qed 1M
    else
        qed-img create -q -b huge.qed -F qed x.qed 1M
    fi
    qed-img resize x.qed 64T
    on_disk x.qed "
h.pwrite (b'end', (64 << 40) - 3)
assert h.pread (4, 16 << 40) == bytes (4)"
    qed-img rebase -b '' x.qed
    qed-img rebase -b huge.qed -F qed x.qed
    on_disk x.qed "
assert h.pread (3, (64 << 40) - 3) == b'end'
assert h.pread (4, 16 << 40) == bytes (4)" -r
    qed-img resize --shrink x.qed 1M
    qed-img check x.qed
    test $(stat -c %s x.qed) -eq 327680
done
# What is below is copied, which is one cluster.
qed-img create -q -b huge.qed -F qed x.qed
qed-img rebase -b '' x.qed
on_disk x.qed "
assert h.pread (4, 16 << 40) == b'data'" -r
test $(stat -c %s x.qed) -lt 1000000
