#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# On a filesystem that cannot punch holes zeros are written, a trim does
# nothing, and a fast zero is refused.

source ./functions.sh nbd strace

cat >$d/client.py <<'END'
import os, sys
import nbd, qedimg, qedtest

MiB = 1 << 20
h = qedtest.connect(sys.argv[1])
disk = qedtest.Disk(16 * MiB)
b = os.urandom(4 * MiB)
h.pwrite(b, MiB + 5)
disk.write(b, MiB + 5)
for flags in (0, nbd.CMD_FLAG_NO_HOLE):
    for n, offset in ((MiB, MiB), (100, 2 * MiB), (MiB, 2 * MiB + 7)):
        qedtest.expect_error("ENOTSUP", h.zero, n, offset,
                             flags | nbd.CMD_FLAG_FAST_ZERO)
        qedtest.check_disk(h, disk)
        h.zero(n, offset, flags)
        disk.zero(n, offset)
        qedtest.check_disk(h, disk)
        h.pwrite(b[:n], offset)
        disk.write(b[:n], offset)
h.trim(3 * MiB, MiB)
qedtest.check_disk(h, disk)
h.zero(MiB, 2 * MiB)
disk.zero(MiB, 2 * MiB)
h.shutdown()
# The server runs until the client disconnects.
with open(sys.argv[2], "wb") as f:
    f.write(disk.read(0, disk.size))
END
for e in EOPNOTSUPP ENOSYS; do
    "$PYTHON" -c '
import qedimg, sys
qedimg.Image (16 << 20, 65536, 4).save (sys.argv[1])' $d/x.qed
    ASAN_OPTIONS=detect_leaks=0 strace -f -o $d/trace \
        -e trace=fallocate -e inject=fallocate:error=$e \
        "$abs_top_builddir/nbdkit" -U - qed $d/x.qed --run \
        "'$PYTHON' $d/client.py \"\$uri\" $d/want" 2>$d/err ||
        { cat $d/err; fail "$e"; }
    grep INJECTED $d/trace
    "$PYTHON" - <<'END'
import qedimg, qedtest
path = qedtest.TMP + "/x.qed"
disk = qedtest.Disk(16 << 20)
with open(qedtest.TMP + "/want", "rb") as f:
    disk.write(f.read(), 0)
qedtest.check_image(path, disk)
END
done
