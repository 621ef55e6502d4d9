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

# An image that may be read but not written becomes a read-only export,
# and a debug message says why.
if [ "$(id -u)" -eq 0 ]; then
    # As somebody else, who can reach the plugin.
    requires_program setpriv
    if ! setpriv --reuid 65534 --clear-groups test -x "$abs_top_builddir/nbdkit"
    then
        skip "other users can't get at the build directory"
    fi
    as="setpriv --reuid 65534 --clear-groups"
fi
"$PYTHON" - <<'END'
import qedimg, qedtest
img = qedimg.Image(1 << 20, autoclear_features=3,
                   features=qedimg.F_NEED_CHECK)
img.data(0)
img.tail = b"tail"
img.save(qedtest.TMP + "/x.qed")
END
chmod 0444 $d/x.qed
mkdir $d/sock
chmod 777 $d/sock
chmod 755 $d
state_of $d/x.qed >$d/before
$as timeout 60 "$abs_top_builddir/nbdkit" -v -U $d/sock/s qed $d/x.qed \
    --run 'nbdinfo --json "$uri"; nbdcopy "$uri" null:' \
    2>$d/err >$d/out
grep '"is_read_only": true' $d/out
grep -E "debug: .*$d/x.qed: .*Permission denied" $d/err
absent ' error: ' $d/err
state_of $d/x.qed >$d/after
cmp $d/before $d/after
