#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# With clusters of 64 MiB and 16 of them to a table each table has 1 GiB.  The
# server takes little more memory than cache-size, wherever clients read.  (I7)

source ./functions.sh nbd
skip_if_instrumented "the size of memory"

"$PYTHON" - <<'END'
import random
import qedimg, qedtest
from qedtest import MiB

CS = 64 * MiB
SPAN = 1 << 53                  # of an L2 table

def build(name, size, tables):
    img = qedimg.Image(size, CS, 16)
    at = img.alloc()
    for i in range(tables):
        for j in range(0, img.n, img.n // 2048 + 1):
            # All entries share one data cluster.  A reader accepts that.
            img.entry(i * img.n + j, at * CS)
    return img.save(f"{qedtest.TMP}/{name}.qed")

large = build("large", 3 * SPAN, 3)
small = build("small", CS, 0)

def peak(path, size, cache_size):
    r = random.Random(5)
    with qedtest.Server("qed", path, f"cache-size={cache_size}") as s:
        h = s.connect()
        for _ in range(10000):
            h.pread(512, r.randrange(size // 512) * 512)
        for _ in range(1000):
            start = r.randrange(size // 512) * 512
            length = min(1 << 31, size - start)
            h.block_status(length, start, lambda *args: 0)
        return s.memory("VmHWM")

base = peak(small, CS, MiB)
for cache in (1, 8):
    used = peak(large, 3 * SPAN, cache * MiB) - base
    print(f"cache-size {cache} MiB: {used / MiB:.1f} MiB more than the "
          f"{base / MiB:.1f} MiB for a disk of one cluster")
    assert used < (cache + 3) * MiB
END
