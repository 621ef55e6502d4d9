#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A relative file name starts at the directory where nbdkit was started,
# although nbdkit changes to / when it goes into the background.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import os, qedimg, qedtest
os.mkdir(qedtest.TMP + "/sub")
img = qedimg.Image(1 << 20)
img.data(3, b"three")
img.save(qedtest.TMP + "/sub/x.qed")
END
cd $d/sub
for name in x.qed ./x.qed ../sub/x.qed file=x.qed; do
    nbdkit -U $d/sock -P $d/pid qed $name
    wait_for 30 test -s $d/pid
    pid=$(cat $d/pid)
    cleanup_fn eval "kill $pid 2>/dev/null || :"
    # In the background indeed.
    test "$(readlink /proc/$pid/cwd)" = /
    nbdsh -u "nbd+unix:///?socket=$d/sock" -c '
assert h.pread (5, 3 * 65536) == b"three"
assert h.pread (5, 4 * 65536) == bytes (5)
'
    kill $pid
    wait_for 30 gone $pid
    rm -f $d/sock $d/pid
done
