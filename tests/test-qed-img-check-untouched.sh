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

# A check writes nothing, so needs no right to write; a repair does, and
# says so.
as=
if [ "$(id -u)" -eq 0 ]; then
    # As somebody else, who can reach qed-img.
    requires_program setpriv
    as="setpriv --reuid 65534 --clear-groups"
    if ! $as test -x "$abs_top_builddir/tools/qed-img"; then
        skip "other users can't get at the build directory"
    fi
fi
"$PYTHON" - <<'END'
import qedimg, qedtest
for name, bad in ("leaks", False), ("bad", True):
    img = qedimg.Image(1 << 20, autoclear_features=3,
                       features=qedimg.F_NEED_CHECK)
    img.data(0)
    if bad:
        img.entry(1, 5)
    img.alloc()
    img.tail = b"tail"
    img.save(f"{qedtest.TMP}/{name}.qed")
END
chmod 0444 $d/*.qed
chmod 755 $d
state_of $d/*.qed >$d/before
ends 3 $as $QED_IMG check $d/leaks.qed
ends 2 $as $QED_IMG check $d/bad.qed
fails 1 "^qed-img: $d/leaks.qed: .*Permission denied" \
      $as $QED_IMG check -r leaks $d/leaks.qed
fails 1 "^qed-img: $d/bad.qed: .*Permission denied" \
      $as $QED_IMG check -r all $d/bad.qed
state_of $d/*.qed >$d/after
cmp $d/before $d/after
