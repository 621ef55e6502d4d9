#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Zeroing or trimming a range that reads as zeros anyway changes nothing in the
# image.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import os
import nbd, qedimg, qedtest

path = qedtest.TMP + "/u.qed"
img = qedimg.Image(10 << 30, 65536, 4)
img.data(3)
for c in range(5, 9):
    img.zero(c)
img.save(path)
before = open(path, "rb").read()
with qedtest.Server("qed", path) as s:
    h = s.connect()
    for flags in (0, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FAST_ZERO,
                  nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO):
        h.zero(3 * 65536, 0, flags)
        h.zero(100, 70000, flags)
        h.zero(100 << 20, 4 * 65536 + 5, flags)
        h.zero((4 << 30) - 1, 1 << 31, flags | nbd.CMD_FLAG_FUA)
    h.trim(3 * 65536, 0)
    h.trim((4 << 30) - 1, 4 * 65536)
    h.flush()
    assert open(path, "rb").read() == before
assert open(path, "rb").read() == before
END
