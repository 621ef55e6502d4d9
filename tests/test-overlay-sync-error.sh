#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# When data cannot be made durable no link to it is written.  The flush and all
# later writes fail, and the cluster reads as the backing file does when the
# image is opened again.  (I3, I5, I6)

source ./functions.sh nbd strace

cat >$d/client.py <<'END'
import sys
import nbd, qedtest

h = qedtest.connect(sys.argv[1])
# FUA makes this request commit first, not the background thread.
qedtest.expect_error("EIO", h.pwrite, b"1" * 1000, 5, nbd.CMD_FLAG_FUA)
for call in ((h.flush,), (h.pwrite, b"3", 7), (h.pwrite, b"4", 5 << 20),
             (h.pwrite, b"5", 9, nbd.CMD_FLAG_FUA), (h.zero, 512, 0),
             (h.zero, 65536 * 3, 1 << 20), (h.flush,)):
    qedtest.expect_error("EIO", *call)
assert h.pread(1000, 5) == b"1" * 1000
assert h.pread(9, 2 << 20) == b"b" * 9
h.shutdown()
END
head -c 16777216 /dev/zero | tr '\0' b >$d/base.raw
"$PYTHON" -c '
import qedimg, sys
qedimg.Image (16 << 20, 65536, 4, backing = "base.raw",
              features = qedimg.F_BACKING_FORMAT_NO_PROBE).save (sys.argv[1])
' $d/x.qed
# The first sync, for NEED_CHECK, succeeds; strace counts for each thread.
ASAN_OPTIONS=detect_leaks=0 strace -f -o $d/trace -e trace=fdatasync,fsync \
    -e inject=fdatasync,fsync:error=EIO:when=2 \
    "$abs_top_builddir/nbdkit" -t 1 -U - qed $d/x.qed --run \
    "'$PYTHON' $d/client.py \"\$uri\"" 2>$d/err || { cat $d/err; fail; }
cat $d/err
grep INJECTED $d/trace
"$PYTHON" - <<'END'
import qedimg, qedtest

path = qedtest.TMP + "/x.qed"
refs = qedimg.References(path)
refs.check_consistent()
assert refs.need_check()
model = qedimg.Model(path)
assert all(run.kind == qedimg.UNALLOCATED for run in model.runs())
model.close()
with qedtest.Server("-r", "qed", path) as s:
    h = s.connect()
    assert h.pread(70000, 0) == b"b" * 70000
END
