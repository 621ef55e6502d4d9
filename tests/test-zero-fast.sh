#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A fast zero is fast or refused, and has the result of a slow one.  This holds
# on a tmpfs, too, which cannot zero a range but can punch it and allocate it
# again.

source ./functions.sh nbd

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
