#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A killed server loses nothing that was flushed or written with FUA.  After
# some time it loses nothing at all, because a background commit links all
# clusters.  (I3, I5)

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import random
import nbd, qedimg, qedtest
from qedtest import MiB

def linked(path, clusters):
    model = qedimg.Model(path)
    kinds = {model.lookup(c)[0] for c in clusters}
    model.close()
    return kinds == {qedimg.DATA}

cs = 65536
for kind in qedtest.some(("full", "short", "chain"), 1):
    r = random.Random(kind)
    o = qedtest.Overlay(r, kind, 8 * MiB, cs)
    path, disk = o.path, o.disk

    def write(h, n, offset, flags=0):
        b = r.randbytes(n)
        h.pwrite(b, offset, flags)
        disk.write(b, offset)

    # A flush makes entries durable, on this connection or another.
    with qedtest.Server("qed", path) as s:
        h = s.connect()
        write(h, 1000, 7)
        write(h, 3 * cs, 3 * cs + 1)
        s.connect().flush()
        s.kill()
    with qedtest.Server("-r", "qed", path) as s:
        qedtest.check_disk(s.connect(), disk)

    # FUA makes its own write durable, in one cluster and in several.
    for n in (512, 3 * cs):
        with qedtest.Server("qed", path) as s:
            h = s.connect()
            qedtest.check_disk(h, disk)
            write(h, n, 2 * MiB + n // cs * MiB + 99, nbd.CMD_FLAG_FUA)
            s.kill()
        with qedtest.Server("-r", "qed", path) as s:
            qedtest.check_disk(s.connect(), disk)
    with qedtest.Server("qed", path) as s:
        h = s.connect()
        h.zero(1000, 4 * MiB + 5, nbd.CMD_FLAG_FUA)
        disk.zero(1000, 4 * MiB + 5)
        s.kill()
    with qedtest.Server("-r", "qed", path) as s:
        qedtest.check_disk(s.connect(), disk)

    o.check_below()

# Entries become durable after a second, or later on a busy machine.  Meanwhile
# the test allocates clusters.  Otherwise an idle image would be marked as
# clean, which commits the entries, too.
cs = 4096
o = qedtest.Overlay(r, "full", 8 * MiB, cs, 1)
path, disk = o.path, o.disk
clusters = iter(range(2000))
with qedtest.Server("qed", path) as s:
    h = s.connect()

    def write_until_linked(c):
        def write_one():
            write(h, 100, next(clusters) * cs + 7)
            return linked(path, [c])
        qedtest.wait_until(write_one, 60)

    write_until_linked(0)
    # And again, for the last link so far.
    write_until_linked(next(clusters) - 1)
    write_until_linked(next(clusters) - 1)
    s.kill()
refs = qedimg.References(path)
refs.check_consistent()
assert refs.need_check()
with qedtest.Server("qed", path) as s:
    h = s.connect()
    for c in range(next(clusters)):
        got = bytes(h.pread(cs, c * cs))
        # The entries of the last clusters may be lost.
        assert got in (disk.read(c * cs, cs), disk.below.read(c * cs, cs)), c
        if linked(path, [c]):
            qedtest.check_bytes(got, disk.read(c * cs, cs), c * cs)
        disk.write(got, c * cs)
    qedtest.check_disk(h, disk)
o.check(leaks=True)
END
