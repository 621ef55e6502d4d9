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

# An error in the middle of creating: nothing is left, and a file that was
# there before is as it was.
mkdir $d/dir
"$PYTHON" - <<'END'
import qedimg, qedtest
img = qedimg.Image(1 << 20)
img.data(0)
img.save(qedtest.TMP + "/dir/old.qed")
END
state_of $d/dir/* >$d/before

# A limit on the length of files stands for whatever a system may refuse.
# Under valgrind and sanitizers, this would hit other files as well.  The
# signal that comes with it must not kill qed-img.
limited ()
(
    ulimit -f 100
    "$abs_top_builddir/tools/qed-img" "$@"
)
for f in new.qed old.qed; do
    fails 1 "^qed-img: $d/dir/$f: .*File too large" \
          limited create $d/dir/$f 10M
    state_of $d/dir/* >$d/after
    cmp $d/before $d/after
done

# A filesystem that is full.
if [ "$(id -u)" -eq 0 ] && mkdir $d/small &&
   mount -t tmpfs -o size=64k none $d/small; then
    cleanup_fn umount $d/small
    dd if=/dev/zero of=$d/small/fill bs=4k || :
    fails 1 "^qed-img: $d/small/x.qed: .*No space left" \
          qed-img create $d/small/x.qed 10M
    test "$(ls -A $d/small)" = fill
fi
