#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# An overlay may be written with another backing file than its header names.
# With none, unallocated clusters are zeros, and so are the bytes around a
# write to one.

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import random
import qedimg, qedtest
from qedtest import MiB

cs = 65536

def writes(r, path, disk, *args):
    with qedtest.Server("qed", path, *args) as s:
        h = s.connect()
        qedtest.check_disk(h, disk)
        for _ in range(40):
            n = int(2 ** r.uniform(0, 17))
            qedtest.random_op(r, h, disk, r.randrange(disk.size // 2 - n), n)
        qedtest.check_disk(h, disk)
    # Read the image with the same backing file.
    qedtest.check_image(path, disk, qemu=False)
    qedtest.qemu_check(path)
    with qedtest.Server("-r", "qed", path, *args) as s:
        qedtest.check_disk(s.connect(), disk)

def check_untouched(h, disk, below):
    """Where nothing was written."""
    start, n = disk.size // 2, disk.size // 2 - 5 * cs
    want = qedimg.read_below(below, start, n)
    qedtest.check_bytes(h.pread(n, start), want, start)

r = random.Random(5)
size = 8 * MiB
other = qedtest.Disk(7 * MiB)
other.write(r.randbytes(other.size), 0)
other.save(qedtest.TMP + "/other.raw")
state = open(qedtest.TMP + "/other.raw", "rb").read()
for kind in qedtest.some(("full", "chain"), 1):
    # backing=none and backing=FILE instead of what the header names.
    o = qedtest.Overlay(r, kind, size, cs)
    for below, name in ((None, "none"), (other, qedtest.TMP + "/other.raw")):
        o.image(cs, 4).save(o.path)
        disk = qedtest.Disk(size, below)
        writes(r, o.path, disk, "backing=" + name)
        # With the header's backing file the untouched part reads as that file.
        # Zeroed clusters stay zero.
        with qedtest.Server("qed", o.path, "backing=" + name) as s:
            s.connect().zero(3 * cs, size - 5 * cs)
        model = qedimg.Model(o.path)
        assert all(model.lookup(size // cs - 5 + i)[0] == qedimg.ZERO
                   for i in range(3))
        model.close()
        with qedtest.Server("qed", o.path) as s:
            check_untouched(s.connect(), disk, o.disk.below)
        o.check_below()

# A header that names none.
for below, name in ((other, qedtest.TMP + "/other.raw"), (None, "none")):
    qedimg.Image(size, cs, 4).save(o.path)
    disk = qedtest.Disk(size, below)
    writes(r, o.path, disk, "backing=" + name)
    with qedtest.Server("qed", o.path) as s:
        check_untouched(s.connect(), disk, None)
assert open(qedtest.TMP + "/other.raw", "rb").read() == state
END
