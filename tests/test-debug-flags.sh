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

# -D qed.io=1 traces requests, -D qed.table=1 the reading of table slices.
"$PYTHON" - <<'END'
import qedimg, qedtest
img = qedimg.Image(8 << 30)
for c in (0, 1, 65536):
    img.data(c)
img.save(qedtest.TMP + "/x.qed")
END
requests='
h.pread (4096, 65536)
h.pread (4096, 65536)
h.pread (512, 4 << 30)
h.cache (1024, 65536)
'
start_nbdkit -v qed $d/x.qed
nbdsh -u "$uri" -c "$requests"
stop_nbdkit
before=$(grep -c 65536 $log)

# In addition to what nbdkit itself has to say about requests.
start_nbdkit -v -D qed.io=1 qed $d/x.qed
nbdsh -u "$uri" -c "$requests"
stop_nbdkit
test "$(grep -c 65536 $log)" -ge $((before + 3))
absent 'slice' $log
start_nbdkit -v -D qed.io=1 qed $d/x.qed
nbdsh -u "$uri" -c '
h.pwrite (b"x" * 4096, 65536)
h.zero (4096, 65536)
h.trim (4096, 65536)
h.flush ()
'
stop_nbdkit
for what in pwrite zero trim; do
    test "$(grep -c "debug: qed: $what count=4096 offset=65536" $log)" -eq 2
done
test "$(grep -c 'debug: qed: flush' $log)" -ge 2

start_nbdkit -v -D qed.table=1 qed $d/x.qed
nbdsh -u "$uri" -c "$requests"
stop_nbdkit
# Two L2 slices; the second read of the first was a hit.
test "$(grep -c -E 'slice .*L2' $log)" -eq 2
test "$(grep -c -E 'slice .*L1' $log)" -eq 1

# And without them there is silence.
start_nbdkit qed $d/x.qed
nbdsh -u "$uri" -c "$requests"
stop_nbdkit
test ! -s $log
