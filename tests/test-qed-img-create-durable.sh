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
requires_program strace
if [ -n "$NBDKIT_VALGRIND" ]; then
    skip "strace and valgrind don't go together"
fi

# When qed-img create returns, the image is on stable storage, and so is its
# name: the file is synced before it gets the name and the directory after.
mkdir $d/dir
for i in 1 2; do                # a new file, and one that replaces it
    ASAN_OPTIONS=detect_leaks=0 strace -f -y -o $d/trace \
           -e trace=fsync,fdatasync,rename,renameat,renameat2,link,linkat \
           "$abs_top_builddir/tools/qed-img" create $d/dir/x.qed 1M ||
        skip "strace doesn't work here"
    cat $d/trace
    grep -n -E 'f(data)?sync\([0-9]+<[^>]*/dir/[^>]+>\) += 0' $d/trace |
        cut -d: -f1 >$d/file
    grep -n -E '(rename|link).*x\.qed.*= 0' $d/trace | cut -d: -f1 >$d/name
    grep -n -E 'f(data)?sync\([0-9]+<[^>]*/dir>\) += 0' $d/trace |
        cut -d: -f1 >$d/directory
    test $(tail -1 $d/file) -lt $(head -1 $d/name)
    test $(head -1 $d/name) -lt $(tail -1 $d/directory)
done
