#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# All connections see the same disk, and may come and go at any time.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import qedimg, qedtest
path = qedtest.TMP + "/m.qed"
img = qedimg.Image(8 << 20, 4096, 1)
for c in range(0, 2048, 3):
    img.data(c)
img.save(path)
model = qedimg.Model(path)
with qedtest.Server("qed", path) as s:
    for _ in range(3):
        handles = [qedtest.connect(s.uri) for _ in range(8)]
        for h in handles:
            assert h.can_multi_conn()
        for h in handles:
            qedtest.check_content(h, model)
        for h in handles[1:]:
            h.shutdown()
        handles[0].pread(4096, 0)
        del handles, h          # without a goodbye
END
