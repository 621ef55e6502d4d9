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

# What isn't an image: exit code 1, a message, and nothing on stdout.
cd $d
bad ()
{
    fails 1 "^qed-img: $1" timeout 60 "$abs_top_builddir/tools/qed-img" \
          info "${@:2}"
    test ! -s fails.out
}
mkfifo fifo
echo text >text
: >empty
bad 'none: .*No such file' none
bad '.: is a directory' .
bad 'fifo: is a FIFO' fifo
bad '/dev/null: is a character device' /dev/null
bad 'text: header: the file has 5 bytes' text
bad 'empty: header: the file has 0 bytes' empty
bad '.*one file name'
bad '.*one file name' a b
bad '.*xml' --output=xml text
bad '.*raw' -f raw text
bad '.*--nonsense' --nonsense text
"$PYTHON" - <<'END'
import qedimg
img = qedimg.Image(1 << 20)
img.header["table_size"] = 3
img.save("table.qed")
img = qedimg.Image(1 << 20, features=8)
img.save("feature.qed")
END
bad 'table.qed: header: table_size 3: must be a power of 2' table.qed
bad 'feature.qed: header: features 0x8: only 0x7 are known' feature.qed
