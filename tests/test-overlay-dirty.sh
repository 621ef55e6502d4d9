#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# An overlay that was not closed cleanly is checked and repaired when it is
# opened for writing.  Other programs may have the backing file open.  Sound
# clusters keep their content, and an unsound entry shows the backing file.

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import random
import qedimg, qedtest
from qedtest import MiB

cs = 65536
for kind in qedtest.some(("full", "short", "chain"), 1):
    r = random.Random(kind)
    o = qedtest.Overlay(r, kind, 8 * MiB, cs)
    disk = o.disk
    img = o.image(cs, 4)
    img.header["features"] |= qedimg.F_NEED_CHECK
    for c in range(5, 60, 5):
        b = r.randbytes(cs)
        img.data(c, b)
        disk.write(b, c * cs)
    for c in range(6, 60, 5):
        img.zero(c)
        disk.zero(cs, c * cs)
    # Leaked clusters, unsound entries, and a partial last cluster.
    img.alloc(7)
    img.entry(62, 1 << 40)
    img.entry(63, (img.end + 20) * cs)
    img.tail = b"tail" * 99
    img.save(o.path)
    with qedtest.Server("qed", o.path) as s:
        h = s.connect()
        qedtest.check_disk(h, disk)
        for c in range(4, 70):
            b = r.randbytes(r.randrange(1, cs))
            at = c * cs + r.randrange(cs)
            h.pwrite(b, at)
            disk.write(b, at)
        qedtest.check_disk(h, disk)
        s.kill()
    # The kill may lose some of these entries.
    with qedtest.Server("qed", o.path) as s:
        h = s.connect()
        disk.write(h.pread(disk.size, 0), 0)
        for c in range(4, 70):
            b = r.randbytes(100)
            h.pwrite(b, c * cs + 9)
            disk.write(b, c * cs + 9)
        h.flush()
        s.kill()
    # QEMU repairs it, too.
    qedtest.run("qemu-io", "-f", "qed", "-c", f"write -P 9 {90 * cs} 512",
                o.path)
    disk.write(b"\x09" * 512, 90 * cs)
    with qedtest.Server("qed", o.path) as s:
        qedtest.check_disk(s.connect(), disk)
    o.check(leaks=True)

# One that may not be checked is refused for writing.
img = o.image(cs, 4)
img.header["features"] |= qedimg.F_NEED_CHECK
img.save(o.path)
with qedtest.Server("qed", o.path, "check=never") as s:
    qedtest.connection_refused(s, "NEED_CHECK|not closed cleanly")
with qedtest.Server("-r", "qed", o.path, "check=never") as s:
    qedtest.check_disk(s.connect(), o.disk)
END
