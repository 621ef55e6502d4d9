#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# An image on a read-only filesystem becomes a read-only export, until the
# filesystem is mounted for writing.

source ./functions.sh nbd mount

small_filesystem $d/mnt 1M
"$PYTHON" - <<'END'
import qedimg, qedtest
img = qedimg.Image(1 << 20, 4096, 1, features=qedimg.F_NEED_CHECK)
img.data(0)
img.entry(3, 1 << 40)
img.save(qedtest.TMP + "/mnt/x.qed")
END
mount -o remount,ro $d/mnt
start_nbdkit -v qed $d/mnt/x.qed
nbdsh -u "$uri" -c '
assert h.is_read_only ()
h.pread (3 * 4096, 0)
'
grep -E "debug: .*$d/mnt/x.qed: .*Read-only file system" $log
absent ' error: ' $log
stop_nbdkit

# Each new connection checks whether the file can be written.  Its repair
# clears the unsound entry, even if an earlier connection has read it.
start_nbdkit -v qed $d/mnt/x.qed
nbdsh -u "$uri" -c '
assert h.is_read_only ()
try:
    h.pread (4096, 3 * 4096)
    assert False
except nbd.Error as e:
    assert e.errno == "EIO", e
'
mount -o remount,rw $d/mnt
nbdsh -u "$uri" -c '
assert not h.is_read_only ()
assert h.pread (4096, 3 * 4096) == bytearray (4096)
h.pwrite (b"x" * 4096, 65536)
'
stop_nbdkit
"$PYTHON" -c '
import qedimg, sys
qedimg.References (sys.argv[1]).check_clean ()
' $d/mnt/x.qed
