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
requires_qemu

# An image on which a QEMU was killed: NEED_CHECK is set.  Reading it needs
# no check and does not change it.
qemu-img create -q -f qed $d/dirty.qed 10M
qemu-io -f qed -c 'write -P 7 1234567 200k' -c flush -c 'sigraise 9' \
        $d/dirty.qed || :
"$PYTHON" - <<'END'
import qedimg, qedtest
features = qedimg.Model(qedtest.TMP + "/dirty.qed").header["features"]
assert features == qedimg.F_NEED_CHECK, features
END
state_of $d/dirty.qed >$d/before

start_nbdkit -r qed $d/dirty.qed
nbdsh -u "$uri" -c '
assert h.pread (204800, 1234567) == b"\x07" * 204800
'
path=$d/dirty.qed uri=$uri "$PYTHON" - <<'END'
import os, qedimg, qedtest
qedtest.check_all(qedtest.connect(os.environ["uri"]),
                  qedimg.Model(os.environ["path"]))
END
stop_nbdkit
state_of $d/dirty.qed >$d/after
cmp $d/before $d/after
