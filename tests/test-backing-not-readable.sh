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

# A backing file, or its directory, that we may not look at.
as=
if [ "$(id -u)" -eq 0 ]; then
    requires_program setpriv
    if ! setpriv --reuid 65534 --clear-groups test -x "$abs_top_builddir/nbdkit"
    then
        skip "other users can't get at the build directory"
    fi
    as="setpriv --reuid 65534 --clear-groups"
fi
mkdir $d/dir
touch $d/base $d/dir/base
"$PYTHON" - <<'END'
import qedimg, qedtest
qedimg.Image(1 << 20, backing="base").save(qedtest.TMP + "/x.qed")
qedimg.Image(1 << 20, backing="dir/base").save(qedtest.TMP + "/y.qed")
END
chmod 755 $d
chmod 644 $d/*.qed
chmod 0 $d/base $d/dir
cleanup_fn chmod 755 $d/dir
for x in x.qed y.qed; do
    fails 1 "$d/$x: backing file: $d/.*base: open: Permission denied" \
          timeout 60 $as nbdkit -r -U $d/sock qed $d/$x --run 'echo served'
    absent served $d/fails.out
done
