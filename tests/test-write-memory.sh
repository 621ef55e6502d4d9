#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Writing all over a disk of 1 TiB takes little more memory than cache-size.
# (I7)

source ./functions.sh nbd
skip_if_instrumented "the size of memory"

"$PYTHON" - <<'END'
import random
import qedimg, qedtest
from qedtest import MiB

T = 1 << 40
path = qedtest.TMP + "/m.qed"

def peak(size, *args):
    r = random.Random(6)
    qedimg.Image(T).save(path)
    with qedtest.Server("qed", path, *args) as s:
        h = s.connect()
        for i in range(5000):
            h.pwrite(b"%07d|" % i * 64, r.randrange(size // 512) * 512)
        used = s.memory("VmHWM")
    qedimg.References(path).check_clean()
    return used

base = peak(64 * MiB, "cache-size=1M")
for cache in (1, 8):
    used = peak(T, f"cache-size={cache}M") - base
    print(f"cache-size {cache} MiB: {used / MiB:.1f} MiB more than the "
          f"{base / MiB:.1f} MiB for a small part of the disk")
    assert used < (cache + 3) * MiB
END
