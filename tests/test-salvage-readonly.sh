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

# With salvage=true nothing can be written, with -r and without, and the image
# stays as it is, also one which wants a check before it is written.
cd $d
"$PYTHON" - <<'END'
import qedimg
img = qedimg.Image(2 << 20, features=qedimg.F_NEED_CHECK)
img.data(1)
img.entry(2, 12345)
img.tail = b"tail"
img.save("x.qed")
END
state_of x.qed >before
for r in '' -r; do
    start_nbdkit $r qed x.qed salvage=true
    nbdsh -u "$uri" -c '
assert h.is_read_only ()
h.set_strict_mode (0)
for f in (lambda: h.pwrite (b"x" * 512, 0), lambda: h.zero (512, 0),
          lambda: h.trim (512, 0)):
    try:
        f ()
        assert False
    except nbd.Error as e:
        assert e.errno in ("EPERM", "EROFS"), e
assert h.pread (65536, 2 * 65536) == bytes (65536)
h.flush ()
'
    stop_nbdkit
done
state_of x.qed | diff before -

# Two at once: nobody has it open for writing.
start_nbdkit qed x.qed salvage=true
nbdkit -U - qed x.qed salvage=true --run 'nbdinfo --size "$uri"'
stop_nbdkit

# false is the default; it is a boolean.
for args in '' salvage=false; do
    nbdkit -r -U - qed x.qed $args --run 'nbdinfo --size "$uri"' 2>err
    test ! -s err
    fails 1 'Input/output error' nbdkit -t 1 -r -U - qed x.qed $args \
          --run 'nbdcopy "$uri" null:'
done
for v in '' maybe 2; do
    refused 'salvage|boolean' qed x.qed salvage="$v"
done
