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

# The command line, apart from what a verb does with its own.
version=$(sed -n "s/^PACKAGE_VERSION='\(.*\)'/\1/p" \
              "$abs_top_builddir/config.log")
qed-img --version >$d/out
grep -F "$version" $d/out
qed-img -V | cmp - $d/out
qed-img --help >$d/out
grep '^  qed-img create ' $d/out
grep '^  qed-img info ' $d/out
qed-img -h | cmp - $d/out
qed-img create -o help >$d/out
grep cluster_size $d/out
grep table_size $d/out

fails 1 '^qed-img: .*see qed-img --help' qed-img
fails 1 "^qed-img: .*'frobnicate' is unknown.*create, info, check" qed-img frobnicate
fails 1 '^qed-img: .*--frobnicate' qed-img --frobnicate

# Output that can't be written is a failure.
qed-img create $d/x.qed 1M
for args in "info $d/x.qed" "info --output=json $d/x.qed" --help --version; do
    if qed-img $args >/dev/full 2>$d/err; then
        fail "$args: success on a full device"
    fi
    grep 'No space left' $d/err
done
