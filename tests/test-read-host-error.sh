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
requires_program strace
if [ -n "$NBDKIT_VALGRIND" ]; then
    skip "strace and valgrind don't go together"
fi

# An error of the host's filesystem that NBD has no word for is an I/O error
# to the client, not one of its making, and the message says what it was.
"$PYTHON" - <<'END'
import os, qedimg
img = qedimg.Image(1 << 20)
img.data(0)
img.save(os.environ["d"] + "/x.qed")
END
for e in ESTALE EBADMSG EACCES EIO; do
    # strace counts for each thread: the one with the request reads two tables
    # before the data.
    ASAN_OPTIONS=detect_leaks=0 strace -f -o $d/trace -P $d/x.qed \
        -e trace=pread64 -e inject=pread64:error=$e:when=3+ \
        "$abs_top_builddir/nbdkit" -v -U - qed $d/x.qed --run \
        "'$PYTHON' -c '
import errno, nbd, sys
h = nbd.NBD ()
h.connect_uri (sys.argv[1])
try:
    h.pread (512, 0)
    sys.exit (\"it was read\")
except nbd.Error as ex:
    assert ex.errnum == errno.EIO, ex
' \"\$uri\"" 2>$d/err || { cat $d/err; fail "$e"; }
    grep -F "$d/x.qed: read of 512 bytes at" $d/err
done
