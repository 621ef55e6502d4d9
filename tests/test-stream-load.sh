#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Clients on several connections write, with FUA or without, zero, trim, read
# and flush while the image streams and keeps what they read.  Each answer, and
# in the end each byte, is as in the model: what a client writes is never
# overwritten by a copy.  (I1, I3, I8)

source ./functions.sh nbd qemu libnbd filter:delay,log

"$PYTHON" - <<'END'
import random
import copying, qedtest
from qedtest import MiB

path = qedtest.TMP + "/x.qed"
quiet = ("-v", "-D", "nbdkit.backend.controlpath=0",
         "-D", "nbdkit.backend.datapath=0")
both = ("stream=true", "copy-on-read=true")

for kind, cs, *params in qedtest.some(
        (("raw", 4096, *both, "stream-rate=4M"),
         ("raw", 65536, *both),
         ("chain", 65536, *both, "stream-rate=4M"),
         ("nbd", 65536, "stream=true", "stream-rate=4M"),
         ("nbd", 4096, *both, "cache-size=64k"),
         ("slow", 65536, *both),
         ("slow", 4096, *both),
         ("qcow2", 65536, *both, "stream-rate=4M"),
         ("raw", 1 << 20, *both, "stream-rate=8M"),
         ("nbd", 4 << 20, *both, "stream-rate=8M"),
         ("raw", 65536, "copy-on-read=true")), 2):
    print(kind, cs, params)
    r = random.Random(f"{kind} {cs}")
    stream = "stream=true" in params
    with copying.Base(r, kind, 5 * MiB + 512 * 7, full=True) as base:
        disk = base.overlay(path, 8 * MiB, cs)
        with qedtest.Server(*quiet, "qed", path, *params, *base.args) as s:
            h = s.connect()
            assert h.can_multi_conn()
            n = len(qedtest.some(range(300), 80))
            rounds = 0
            if "stream-rate" in str(params):
                assert copying.COMPLETE not in s.log()
            while rounds < 1 or (stream and copying.COMPLETE not in s.log()):
                qedtest.random_clients(s.uri, disk, f"{cs} {rounds}", n)
                rounds += 1
                assert rounds < 60
            qedtest.check_disk(h, disk)
            # Once more without a backing file.
            qedtest.random_clients(s.uri, disk, f"{cs} after", n)
            qedtest.check_disk(h, disk)
            h.flush()
            assert " error: " not in s.log(), s.log()
        if stream:
            base.delete()
            copying.check_complete(path, disk)
        else:
            qedtest.check_image(path, disk, leaks=True)
END
