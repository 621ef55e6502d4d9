#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A disk of 1 TiB with a cluster every 32 MiB has 128 MiB of tables.  Reading
# and mapping all of it takes little more memory than cache-size, and less than
# 48 MiB by default.  (I7)

source ./functions.sh nbd
skip_if_instrumented "the size of memory"

"$PYTHON" - <<'END'
import random
import qedimg, qedtest
from qedtest import MiB

T = 1 << 40
STEP = 32 * MiB
path = qedtest.TMP + "/1t.qed"
img = qedimg.Image(T)
for offset in range(0, T, STEP):
    img.data(offset // 65536, b"x%d " % offset)
img.save(path)

def peak(size, *args):
    r = random.Random(6)
    with qedtest.Server("qed", path, *args) as s:
        h = s.connect()
        for _ in range(10000):
            offset = r.randrange(size // STEP) * STEP
            assert h.pread(4096, offset).startswith(b"x%d " % offset)
            h.pread(4096, r.randrange(size // 4096) * 4096)
        qedtest.extents(h, 0, size)
        return s.memory("VmHWM")

base = peak(2 * STEP, "cache-size=1M")
for cache in (1, 8):
    used = peak(T, f"cache-size={cache}M") - base
    print(f"cache-size {cache} MiB: {used / MiB:.1f} MiB more than the "
          f"{base / MiB:.1f} MiB for a small part of the disk")
    assert used < (cache + 3) * MiB
assert peak(T) < 48 * MiB
END
