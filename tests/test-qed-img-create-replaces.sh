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

# Creating over what exists.
cd $d
mkdir dir
cd dir
serves ()
{
    nbdkit -U - qed "$1" --run 'nbdinfo --size "$uri"' >$d/size
    test "$(cat $d/size)" = "$2"
}

# A file that is no image, or is one: its permissions stay.
echo text >x.qed
chmod 0640 x.qed
qed-img create x.qed 1M
serves x.qed 1048576
test "$(stat -c %a x.qed)" = 640
qed-img create -o cluster_size=4k x.qed 2M
serves x.qed 2097152
test "$(stat -c %a x.qed)" = 640

# A new file has those that any new file gets.
(umask 027; qed-img create y.qed 1M; touch z)
test "$(stat -c %a y.qed)" = "$(stat -c %a z)"

# Through a symbolic link: the link stays one.
mkdir sub
ln -s sub/target.qed link.qed
qed-img create sub/target.qed 1M
qed-img create link.qed 3M
test -L link.qed
serves sub/target.qed 3145728

# Not over its own backing file.
state_of x.qed >$d/before
fails 1 '^qed-img: x.qed: .*same file' qed-img create -b x.qed -F qed x.qed
qed-img create -b x.qed -F qed top.qed
fails 1 '^qed-img: x.qed: .*would be replaced' \
      qed-img create -b top.qed -F qed x.qed
state_of x.qed >$d/after
cmp $d/before $d/after

# Nothing else has appeared.
test "$(echo $(ls -A))" = "link.qed sub top.qed x.qed y.qed z"
test "$(ls -A sub)" = target.qed
