#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Servers that accept only whole blocks, or no large requests, work as backing
# files.  The filter answers any other request with an error.

source ./functions.sh nbd filter:blocksize-policy libnbd

"$PYTHON" - <<'END'
import random
import nbd
import qedimg, qedtest

SIZE = 3 << 20
path = qedtest.TMP + "/x.qed"

def pattern(offset, n):
    """What nbdkit's pattern plugin has there."""
    start = offset & ~7
    b = b"".join(i.to_bytes(8, "big") for i in range(start, offset + n, 8))
    return b[offset - start:offset - start + n]

def run(size, *policy):
    qedtest.qed_img("create", "-o", "cluster_size=4096", path, str(SIZE))
    filters = ["--filter=blocksize-policy"] if policy else []
    with qedtest.Server(*filters, "pattern", str(size), *policy) as base, \
         qedtest.Server("qed", path, "backing=" + base.uri) as s:
        h = s.connect()
        def check(offset, n):
            want = pattern(offset, min(n, max(0, size - offset)))
            qedtest.check_bytes(h.pread(n, offset),
                                want + bytes(n - len(want)), offset)
        r = random.Random(size)
        check(0, SIZE)
        for border in (512, 4096, 65536, 131072, size):
            for start in (-1025, -512, -1, 0, 1):
                for n in (1, 511, 512, 513, 4096, 65536, 200001):
                    if 0 <= border + start and border + start + n <= SIZE:
                        check(border + start, n)
        for _ in range(100):
            n = int(2 ** r.uniform(0, 20))
            check(r.randrange(SIZE - n), n)
        # Extents and prefetch ask in whole blocks too, but say no more.
        for offset in (0, 1, 1000, size - 1000):
            h.cache(999, offset)
        for cluster in (3, 7, 40):
            h.zero(4096, cluster * 4096)
        borders = [0] + [c * 4096 for c in (3, 4, 7, 8, 40, 41)] + [size, SIZE]
        want = [(start, end, i % 2 * 3) for i, (start, end)
                in enumerate(zip(borders, borders[1:]))]
        assert qedtest.extents(h) == want, qedtest.extents(h)
        h.pwrite(b"x" * 100, 100001)
        assert h.pread(102, 100000) == pattern(100000, 1) + b"x" * 100 + \
            pattern(100101, 1)
    assert not "error" in base.log(), base.log()

run(2 << 20)
for minimum in (1, 512, 4096, 65536):
    for size, maximum in ((2 << 20, 65536), ((2 << 20) + 65536, 1 << 20)):
        run(size, f"blocksize-minimum={minimum}",
            f"blocksize-preferred={max(4096, minimum)}",
            f"blocksize-maximum={maximum}", "blocksize-error-policy=error")
END
