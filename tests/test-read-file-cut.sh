#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Another program ignores the locks and cuts a file while it is served.  The
# missing part gives EIO and is not reported as zeros.  The rest can be read.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import os
import qedimg, qedtest

path = qedtest.TMP + "/c.qed"
img = qedimg.Image(1 << 30)
for c in range(6):
    img.data(c)
img.save(path)
model = qedimg.Model(path)
want = model.read(0, 6 * 65536)
with qedtest.Server("qed", path) as s:
    h = s.connect()
    h.pread(512, 0)
    # Cluster 3 is cut in the middle, 4 and 5 are gone.
    os.truncate(path, (img.end - 3) * 65536 + 32768)
    assert h.pread(3 * 65536, 0) == want[:3 * 65536]
    assert h.pread(32768, 3 * 65536) == want[3 * 65536:][:32768]
    qedtest.expect_error("EIO", h.pread, 1, 3 * 65536 + 32768)
    qedtest.expect_error("EIO", h.pread, 65536, 3 * 65536)
    qedtest.expect_error("EIO", h.pread, 512, 5 * 65536)
    for e in qedtest.extents(h, 0, 6 * 65536):
        assert not e.flags & qedtest.ZERO_FLAG, e
    assert path in s.log(), s.log()
END
