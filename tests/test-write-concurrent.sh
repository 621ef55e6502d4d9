#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Four connections with 16 requests in flight each do writes, zeros, trims,
# reads and flushes in any mix.  Each answer, and in the end each byte, is as
# in the model.  Requests in flight never share a byte; they share clusters, L2
# slices and tables all the time.  (I1, I8)

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import qedimg, qedtest

path = qedtest.TMP + "/c.qed"
for cs, ts in qedtest.some(((4096, 1), (65536, 4), (1 << 20, 2)), 1):
    size = 24 << 20
    qedimg.Image(size, cs, ts).save(path)
    disk = qedtest.Disk(size)
    for round in qedtest.some(range(3), 2):
        with qedtest.Server("qed", path, "cache-size=64k") as s:
            n = len(qedtest.some(range(500), 100))
            qedtest.random_clients(s.uri, disk, f"{cs} {round}", n)
            qedtest.check_disk(s.connect(), disk)
        qedtest.check_image(path, disk)
END
