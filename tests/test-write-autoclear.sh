#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The first client that may write clears unknown autoclear bits, even if it
# does not write.  The other bytes of the header clusters are kept.  With -r
# the file does not change.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import qedimg, qedtest

path = qedtest.TMP + "/a.qed"
ALL = (1 << 64) - 1

def contents():
    with open(path, "rb") as f:
        return f.read()

for autoclear, compat in ((1, 0), (ALL, ALL), (1 << 63, 5)):
    img = qedimg.Image(1 << 20, 4096, 1, header_size=3,
                       autoclear_features=autoclear, compat_features=compat)
    img.data(0)
    img.poke(64, b"somebody's extension" * 500)
    img.save(path)
    before = contents()
    with qedtest.Server("-r", "qed", path) as s:
        s.connect().pread(4096, 0)
    assert contents() == before
    cleared = before[:32] + bytes(8) + before[40:]
    with qedtest.Server("qed", path) as s:
        assert contents() == before
        h = s.connect()
        assert contents() == cleared
        h.pread(4096, 0)
    assert contents() == cleared

    with qedtest.Server("qed", path) as s:
        s.connect().pwrite(b"x" * 4096, 8192)
    after = contents()
    assert after[:3 * 4096] == cleared[:3 * 4096]
    qedimg.References(path).check_clean()
END
