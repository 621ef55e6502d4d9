#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A hole in the image file inside a data cluster is a hole of the disk.  Its
# boundaries are as exact as the file's, wherever the cluster is.

source ./functions.sh nbd punch-hole

"$PYTHON" - <<'END'
import qedimg, qedtest
from qedtest import Extent

K = 1024
path = qedtest.TMP + "/s.qed"
img = qedimg.Image(1 << 20)
at = {c: img.data(c, b"\1" * 65536) * 65536 for c in (3, 1, 2, 5, 6, 15)}
img.save(path)

def punch(cluster, offset, n):
    qedtest.punch_hole(path, at[cluster] + offset, n)

punch(1, 8 * K, 16 * K)             # in the middle
punch(2, 0, 4 * K)                  # at the start
punch(2, 60 * K, 4 * K)             # at the end, hard by
punch(3, 0, 64 * K)                 # all of it
punch(15, 32 * K, 32 * K)           # the end of the file

model = qedimg.Model(path)
with qedtest.Server("qed", path) as s:
    h = s.connect()
    got = qedtest.extents(h)
    want = [(0, 64, 3), (64, 72, 0), (72, 88, 3), (88, 128, 0),
            (128, 132, 3), (132, 188, 0), (188, 320, 3), (320, 448, 0),
            (448, 960, 3), (960, 992, 0), (992, 1024, 3)]
    assert got == [Extent(a * K, b * K, f) for a, b, f in want], got
    qedtest.check_all(h, model)
    # A request that starts inside a hole and ends inside data.
    assert qedtest.extents(h, 80 * K + 1, 90 * K + 3) == [
        Extent(80 * K + 1, 88 * K, 3), Extent(88 * K, 90 * K + 3, 0)]
END
