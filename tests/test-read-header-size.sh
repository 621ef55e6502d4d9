#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A header may have many clusters, up to just below 4 GiB, with unknown content
# after its fields.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import os
import qedimg, qedtest

path = qedtest.TMP + "/h.qed"
for cs, header_size in ((4096, 2), (4096, 1000), (65536, 7),
                        (65536, 65535), (4096, 0xfffff)):
    img = qedimg.Image(100 << 20, cs, 2, header_size=header_size)
    for c in (0, 1, 700, (100 << 20) // cs - 1):
        img.data(c)
    img.zero(2)
    img.poke(64, b"foreign" * 300)
    img.poke(header_size * cs - 4096, b"\xff" * 4096)
    img.save(path)
    qedtest.serve_and_check(path)
    os.unlink(path)
END
