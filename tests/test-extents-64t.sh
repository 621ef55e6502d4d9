#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A disk of 64 TiB with data at both ends and in the middle is mapped
# completely and fast.  Requests, which are limited to 4 GiB, take most of the
# time.

source ./functions.sh nbd nbdinfo

"$PYTHON" - <<'END'
import os, time
import qedimg, qedtest
from qedtest import Extent

path = qedtest.TMP + "/64t.qed"
T = 1 << 40
G = 1 << 30
img = qedimg.Image(64 * T)
full = b"\1" * 65536
for offset in (0, 2 * G - 65536, 2 * G, 32 * T + 65536, 64 * T - 65536):
    img.data(offset // 65536, full)
img.save(path)
with qedtest.Server("qed", path) as s:
    h = s.connect()
    t = time.monotonic()
    got = qedtest.extents(h)
    t = time.monotonic() - t
    print("mapped in %.2f s" % t)
    pos = 0
    want = []
    for a, b in ((0, 65536), (2 * G - 65536, 2 * G + 65536),
                 (32 * T + 65536, 32 * T + 131072),
                 (64 * T - 65536, 64 * T)):
        if a > pos:
            want.append(Extent(pos, a, 3))
        want.append(Extent(a, b, 0))
        pos = b
    assert got == want, got
    assert t < 10 or "NBDKIT_VALGRIND" in os.environ, t
    # An answer may be longer than the question.
    e = qedtest.block_status(h, 1 * T, 512)
    assert len(e) == 1 and e[0].flags == 3, e
END
start_nbdkit qed $d/64t.qed
nbdinfo --map --totals "$uri" | tee $d/totals
# 5 data clusters of 64 TiB.
grep -E '^ *327680 .*data' $d/totals
