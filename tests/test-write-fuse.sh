#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Zeroing works where FALLOC_FL_ZERO_RANGE has no effect but success, as in a
# mount of GlusterFS 10: on FUSE the plugin doesn't use it.

source ./functions.sh nbd fuse strace punch-hole

# zero IMAGE: write to the image's disk, zero a part of a cluster without making
# a hole, and record the calls of fallocate in $d/trace.
zero ()
{
    strace -f -e trace=fallocate -o $d/trace nbdkit -U - qed $1 \
           --run "'$PYTHON' -m nbd -u \"\$uri\" -c - <$d/zero.py"
}
cat >$d/zero.py <<'END'
import nbd
h.pwrite(b"x" * 65536, 0)
h.zero(8192, 4096, nbd.CMD_FLAG_NO_HOLE)
assert h.pread(65536, 0) == b"x" * 4096 + bytes(8192) + b"x" * 53248
h.flush()
END

qed-img create $d/x.qed 1M
zero $d/x.qed
grep FALLOC_FL_ZERO_RANGE $d/trace

start_nbdkit file $d/x.qed
start_nbdfuse $d/fuse/x.qed
zero $d/fuse/x.qed
absent FALLOC_FL_ZERO_RANGE $d/trace
