#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# nbdcopy copies a sparse disk into an overlay over many connections.  Its data
# and its zeros replace the content of the backing file, which does not change.
# Overlays are copied out as qemu-img does it, with the holes that all layers
# have.

source ./functions.sh nbd qemu nbdcopy

"$PYTHON" - <<'END'
import os, random
import qedimg, qedtest
from qedtest import MiB

r = random.Random(16)
size = 24 * MiB + 512
source = qedtest.Disk(size)
for _ in range(40):
    n = int(2 ** r.uniform(9, 19))
    at = r.randrange(size - n)
    if r.random() < 0.7:
        at = at // 4096 * 4096
    source.write(r.randbytes(n), at)
raw = qedtest.TMP + "/source.raw"
source.save(raw)
def copy_out(o):
    out, converted = qedtest.TMP + "/out.raw", qedtest.TMP + "/converted.raw"
    with qedtest.Server("-r", "qed", o.path) as s:
        qedtest.run("nbdcopy", s.uri, out)
    qedtest.run("qemu-img", "convert", "-f", "qed", "-O", "raw", o.path,
                converted)
    qedtest.run("cmp", out, converted)
    used = [os.stat(path).st_blocks * 512 for path in (out, converted)]
    assert used[0] <= used[1] + MiB, used
    os.unlink(out)

for kind, cs in qedtest.some((("full", 65536), ("chain", 4096),
                              ("short", 65536)), 1):
    o = qedtest.Overlay(r, kind, size, cs, 2)
    for how in qedtest.some((("--connections=4", "--requests=64"),
                             ("--flush", "--synchronous")), 1):
        o.image(cs, 2).save(o.path)
        with qedtest.Server("qed", o.path) as s:
            # nbdcopy zeroes the holes, because the destination is not empty.
            qedtest.run("nbdcopy", *how, raw, s.uri)
            qedtest.check_raw(s.connect(), raw)
        o.disk.write(source.read(0, size), 0)
        o.check()
        copy_out(o)

    # One that is written to here and there.
    o.image(cs, 2).save(o.path)
    with qedtest.Server("qed", o.path) as s:
        h = s.connect()
        for _ in range(20):
            n = int(2 ** r.uniform(0, 17))
            qedtest.random_op(r, h, o.disk, r.randrange(size - n), n)
    copy_out(o)
END
