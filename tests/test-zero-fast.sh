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

# Fast zero is fast or refused, and has the same result as a slow one: on a
# tmpfs, too, which can't zero a range but can punch it and allocate it again.
if [ "$(stat -f -c %T /dev/shm)" != tmpfs ] || [ ! -w /dev/shm ]; then
    skip "no tmpfs here"
fi
shm=$(mktemp -d /dev/shm/qed.XXXXXX)
cleanup_fn rm -rf $shm
export shm
"$PYTHON" - <<'END'
import os
import nbd, qedimg, qedtest

MiB = 1 << 20
FAST, NO_HOLE = nbd.CMD_FLAG_FAST_ZERO, nbd.CMD_FLAG_NO_HOLE
for dir in (os.environ["shm"], qedtest.TMP):
    path = dir + "/f.qed"
    qedimg.Image(64 * MiB, 65536, 4).save(path)
    disk = qedtest.Disk(64 * MiB)
    with qedtest.Server("qed", path) as s:
        h = s.connect()
        assert h.can_fast_zero()
        b = os.urandom(8 * MiB)
        for flags in (FAST, FAST | NO_HOLE):
            h.pwrite(b, MiB + 5)
            disk.write(b, MiB + 5)
            h.flush()
            full = os.stat(path).st_blocks * 512
            for n, offset in ((100, 2 * MiB), (MiB, 2 * MiB),
                              (MiB + 3, 4 * MiB + 7), (MiB, 30 * MiB)):
                try:
                    h.zero(n, offset, flags)
                    disk.zero(n, offset)
                except nbd.Error as e:
                    assert e.errno in ("ENOTSUP", "EOPNOTSUPP"), e
                qedtest.check_disk(h, disk)
            now = os.stat(path).st_blocks * 512
            if flags & NO_HOLE:
                assert now >= full - 65536, (full, now)
    qedtest.check_image(path, disk)
    os.unlink(path)
END
