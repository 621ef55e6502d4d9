#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The L1 table may be anywhere after the header: after a gap, between tables
# and data, or at the end of the file.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import qedimg, qedtest

path = qedtest.TMP + "/l.qed"
for l1_at in (1, 2, 24, 54, 60, 999):
    img = qedimg.Image(64 << 20, 4096, 4, l1_at=l1_at)
    img.table(0, at=40)
    img.table(1, at=20)
    img.table(2, at=30)
    for i, c in enumerate((5000, 2047, 0, 1, 2048)):
        img.data(c, at=(50, 51, 52, 53, 59)[i])
    img.save(path)
    qedtest.serve_and_check(path)
END
