#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# After the host has failed to make data durable the state of the disk is
# unknown.  The flush and all later writes and flushes fail, although the
# kernel would report success.  Reads work.  The image stays marked NEED_CHECK.
# (I5, I6)

source ./functions.sh nbd strace

cat >$d/client.py <<'END'
import sys
import nbd, qedtest

h = qedtest.connect(sys.argv[1])
h.pwrite(b"1" * 1000, 5)
h.pwrite(b"2" * 1000, 1 << 20)
qedtest.expect_error("EIO", h.flush)
for call in ((h.flush,), (h.pwrite, b"3", 7), (h.pwrite, b"4", 5 << 20),
             (h.pwrite, b"5", 9, nbd.CMD_FLAG_FUA), (h.zero, 512, 0),
             (h.trim, 4096, 1 << 20), (h.flush,)):
    qedtest.expect_error("EIO", *call)
assert h.pread(1000, 5) == b"1" * 1000
assert h.pread(1000, 1 << 20) == b"2" * 1000
assert h.pread(1, 5 << 20) == b"\0"
h.shutdown()
h = qedtest.connect(sys.argv[1])
qedtest.expect_error("EIO", h.pwrite, b"3", 7)
h.shutdown()
END
"$PYTHON" -c '
import qedimg, sys
qedimg.Image (16 << 20, 65536, 4).save (sys.argv[1])' $d/x.qed
# The first sync, for NEED_CHECK, succeeds; strace counts for each thread.
ASAN_OPTIONS=detect_leaks=0 strace -f -o $d/trace -e trace=fdatasync,fsync \
    -e inject=fdatasync,fsync:error=EIO:when=2 \
    "$abs_top_builddir/nbdkit" -t 1 -U - qed $d/x.qed --run \
    "'$PYTHON' $d/client.py \"\$uri\"" 2>$d/err || { cat $d/err; fail; }
cat $d/err
grep INJECTED $d/trace
grep -E "error: $d/x.qed: .*Input/output error" $d/err
# The failure of the close is reported, too.
tail -1 $d/err | grep -F "$d/x.qed: "
"$PYTHON" -c '
import qedimg, sys
r = qedimg.References (sys.argv[1])
r.check_consistent ()
assert r.need_check ()' $d/x.qed
