#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Many requests at the same time on an overlay share clusters, L2 slices and
# commits.  Each answer, and in the end each byte, is as in the model.  (I1,
# I3, I8)

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import random
import qedtest
from qedtest import MiB

for kind, (cs, ts) in qedtest.some((("full", (4096, 1)), ("short", (65536, 4)),
                                    ("chain", (65536, 4)),
                                    ("full", (1 << 20, 2))), 1):
    print(kind, cs)
    o = qedtest.Overlay(random.Random(cs), kind, 12 * MiB, cs, ts)
    for round in qedtest.some(range(2), 1):
        with qedtest.Server("qed", o.path, "cache-size=64k") as s:
            n = len(qedtest.some(range(400), 100))
            qedtest.random_clients(s.uri, o.disk, f"{cs} {round}", n)
            qedtest.check_disk(s.connect(), o.disk)
        o.check()
END
