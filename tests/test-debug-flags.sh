#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# -D qed.io=1 traces requests.  -D qed.table=1 traces reads of table slices.

source ./functions.sh nbd

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

# These lines come in addition to nbdkit's own.
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
# Two L2 slices are read.  The second read of the first one was a hit.
test "$(grep -c -E 'slice .*L2' $log)" -eq 2
test "$(grep -c -E 'slice .*L1' $log)" -eq 1

# Without -v and the flags there is no output.
start_nbdkit qed $d/x.qed
nbdsh -u "$uri" -c "$requests"
stop_nbdkit
test ! -s $log
