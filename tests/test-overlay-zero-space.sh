#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Zeroing or trimming data of an overlay gives its space back to the host.  The
# cluster remains allocated, so that the backing file does not show.  Trimming
# an unallocated cluster leaves it unallocated.

source ./functions.sh nbd qemu punch-hole

"$PYTHON" - <<'END'
import os, random
import nbd, qedimg, qedtest
from qedtest import MiB

def du():
    return os.stat(o.path).st_blocks * 512

for cs, ts in qedtest.some(((4096, 4), (65536, 4)), 1):
    r = random.Random(cs)
    o = qedtest.Overlay(r, "full", 16 * MiB, cs, ts)
    with qedtest.Server("qed", o.path) as s:
        h = s.connect()
        for free in (lambda n, at: h.trim(n, at),
                     lambda n, at: h.zero(n, at),
                     lambda n, at: h.zero(n, at, nbd.CMD_FLAG_FAST_ZERO)):
            b = r.randbytes(8 * MiB - 1000)
            h.pwrite(b, 3 * MiB + 500)
            o.disk.write(b, 3 * MiB + 500)
            h.flush()
            full = du()
            assert full >= 8 * MiB
            # Zero all of it while entries are not written yet.
            h.pwrite(b[:100], 12 * MiB + 7)
            o.disk.write(b[:100], 12 * MiB + 7)
            free(8 * MiB, 3 * MiB)
            o.disk.zero(8 * MiB, 3 * MiB)
            h.flush()
            assert du() <= full - 7 * MiB, (full, du())
            qedtest.check_disk(h, o.disk)
        h.trim(MiB, MiB)
        qedtest.check_disk(h, o.disk)
    o.check()
    model = qedimg.Model(o.path)
    for c in range(3 * MiB // cs, 11 * MiB // cs):
        assert model.lookup(c)[0] == qedimg.DATA, c
    for c in range(MiB // cs, 2 * MiB // cs):
        assert model.lookup(c)[0] == qedimg.UNALLOCATED, c
    model.close()
    assert os.path.getsize(o.path) <= 9 * MiB + 5 * ts * cs
END
