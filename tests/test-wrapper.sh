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

# The ./nbdkit of the build directory runs the plugin that was just built
# under its short name, and everything else as it is.
"$PYTHON" -c 'import os, qedimg
qedimg.Image (1 << 20).save (os.environ["d"] + "/x.qed")'
nbdkit qed --dump-plugin | grep -x "path=$plugin"
nbdkit -f --exit-with-parent -U - -e qed -t 4 --run 'nbdinfo --size "$uri"' \
       --filter cow qed $d/x.qed | grep -x 1048576
nbdkit -fU $d/a.sock -P $d/a.pid qed $d/x.qed &
cleanup_fn wait $!
wait_for 60 test -s $d/a.pid
nbdinfo --size "nbd+unix:///?socket=$d/a.sock" | grep -x 1048576
kill $(cat $d/a.pid)
nbdkit -U - memory 5M --run 'echo qed; nbdinfo --size "$uri"' >$d/out
printf 'qed\n5242880\n' | cmp - $d/out
# Other nbdkits find nothing.
cd $d
cp x.qed qed
nbdkit -U - qed qed --run 'nbdinfo --size "$uri"' | grep -x 1048576
