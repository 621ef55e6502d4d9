#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The length of a file need not be a multiple of the cluster size.  The bytes
# after the last whole cluster are not part of the image, so an entry that
# points to them is unsound.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import qedimg, qedtest

path = qedtest.TMP + "/t.qed"
for tail in (1, 511, 512, 4095, 32768, 65535):
    img = qedimg.Image(10 << 20)
    for c in (0, 1, 2, 159):
        img.data(c)
    img.entry(3, img.end * 65536)
    img.tail = b"x" * tail
    img.save(path)
    model = qedimg.Model(path)
    assert [r.kind for r in model.runs()].count(qedimg.UNSOUND) == 1
    qedtest.serve_and_check(path)
END
