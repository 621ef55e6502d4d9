#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Of concurrent writers to one unallocated cluster one does the copy-up, once,
# and the data of all of them is there.  (I8)

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import random
import qedtest
from qedtest import MiB

for kind, cs in qedtest.some((("full", 65536), ("chain", 65536),
                              ("short", 4096)), 1):
    r = random.Random(kind)
    o = qedtest.Overlay(r, kind, 64 * cs, cs, 4)
    with qedtest.Server("qed", o.path) as s:
        handles = [s.connect() for _ in range(4)]
        for c in range(60):
            # One write in each sixteenth of the cluster, and one in the next
            # cluster.
            step = cs // 16
            pieces = [c * cs + i * step + 100 for i in range(17)]
            r.shuffle(pieces)
            cookies = []
            for i, at in enumerate(pieces):
                b = r.randbytes(r.randrange(1, step))
                h = handles[i % 4]
                cookies.append((h, h.aio_pwrite(b, at)))
                o.disk.write(b, at)
            for h, cookie in cookies:
                while not h.aio_command_completed(cookie):
                    h.poll(-1)
        qedtest.check_disk(handles[0], o.disk)
    o.check()
END
