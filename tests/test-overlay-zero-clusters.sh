#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A write to part of a zero cluster leaves the rest zeros, not the content of
# the backing file, whether QEMU or nbdkit zeroed the cluster or the image was
# built with it.

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import random
import qedimg, qedtest
from qedtest import MiB

for kind, cs in qedtest.some(((k, cs) for k in ("full", "short", "chain")
                              for cs in (4096, 65536)), 2):
    r = random.Random(f"{kind} {cs}")
    size = 80 * cs + 512
    o = qedtest.Overlay(r, kind, size, cs, 2)
    disk = o.disk
    for maker in ("qedimg", "qemu-io", "nbdkit"):
        img = o.image(cs, 2)
        # Two in three are zero clusters, and each third of these has a
        # neighbour on one side, on both, or on none.
        zeros = [c for c in range(81) if c % 3]
        for c in zeros:
            n = min(cs, size - c * cs)
            disk.zero(n, c * cs)
            if maker == "qedimg":
                img.zero(c)
        for c in range(0, 81, 6):
            n = min(cs, size - c * cs)
            b = r.randbytes(n)
            img.data(c, b)
            disk.write(b, c * cs)
        img.save(o.path)
        if maker == "qemu-io":
            qedtest.run("qemu-io", "-f", "qed", *(
                a for c in zeros for a in
                ("-c", f"write -q -z {c * cs} {min(cs, size - c * cs)}")),
                o.path)
        with qedtest.Server("qed", o.path) as s:
            h = s.connect()
            if maker == "nbdkit":
                for c in zeros:
                    h.zero(min(cs, size - c * cs), c * cs)
            qedtest.check_disk(h, disk)
            for c in zeros:
                # Into one cluster, or from one into the next.
                n = r.choice((1, 511, 512, 1000, cs - 1, cs // 2))
                offset = c * cs + r.choice((0, 1, 512, cs // 2, cs - 1))
                n = min(n, size - offset)
                if n <= 0:
                    continue
                if r.random() < 0.2:
                    h.zero(n, offset)
                    disk.zero(n, offset)
                else:
                    b = r.randbytes(n)
                    h.pwrite(b, offset)
                    disk.write(b, offset)
                start, end = (c - 1) * cs, min(size, (c + 3) * cs)
                qedtest.check_range(h, disk, start, end)
            qedtest.check_disk(h, disk)
        # QEMU leaks what it zeroes.
        o.check(leaks=maker == "qemu-io")
END
