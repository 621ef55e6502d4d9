#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# In an image that claims to be clean clusters of unsound entries cannot be
# written; all others can.  Once such an entry was seen, a write marks the
# image NEED_CHECK for good, so that the next opening repairs it.  (I6, I9)

source ./functions.sh nbd

"$PYTHON" - <<'END'
import nbd, qedimg, qedtest

path = qedtest.TMP + "/u.qed"
for cs, ts in qedtest.some(((4096, 1), (65536, 4)), 1):
    n = ts * cs // 8
    size = 6 * n * cs if cs == 4096 else 3 * n * cs
    img = qedimg.Image(size, cs, ts)
    for c in (0, 3, n):
        img.data(c)
    bad = {1: 0x1234567, 5: img.table(0) * cs, 9: img.l1_at * cs, 11: cs - 1}
    for c, entry in bad.items():
        img.entry(c, entry)
    img.l1_entry(2, img.l1_at * cs)
    img.save(path)
    disk = qedtest.Disk(size)
    model = qedimg.Model(path)
    for c in (0, 3, n):
        disk.write(model.read(c * cs, cs), c * cs)
    model.close()

    def entries():
        model = qedimg.Model(path)
        result = {c: model.lookup(c)[1] for c in bad}
        model.close()
        return result

    assert entries() == bad
    with qedtest.Server("qed", path) as s:
        h = s.connect()
        for c in (*bad, 2 * n):
            at = c * cs
            for call in ((h.pread, 512, at + 100),
                         (h.pwrite, b"x" * cs, at),
                         (h.pwrite, b"x", at + cs - 1),
                         (h.pwrite, b"x", at, nbd.CMD_FLAG_FUA),
                         (h.zero, cs, at), (h.zero, 512, at + 512),
                         (h.pread, cs, at)):
                qedtest.expect_error("EIO", *call)
            assert f"{path}: " in s.log() and "corrupt" in s.log(), s.log()
        # In-place writes to sound clusters of the same table work.
        for offset, b in ((0, b"y" * cs), (3 * cs + 1, b"z" * 100)):
            h.pwrite(b, offset)
            disk.write(b, offset)
            qedtest.check_range(h, disk, offset, offset + len(b))
        h.zero(1000, 3 * cs + 50)
        disk.zero(1000, 3 * cs + 50)
        # So do writes in another table, even into new clusters.
        for c in (n, n + 1, n + 100):
            h.pwrite(b"w" * 700, c * cs + 5)
            disk.write(b"w" * 700, c * cs + 5)
        h.flush()
        for c in (0, 3, n, n + 1, n + 100):
            qedtest.check_range(h, disk, c * cs, (c + 1) * cs)
        for c in (*bad, 2 * n):
            qedtest.expect_error("EIO", h.pread, cs, c * cs)
    assert entries() == bad
    refs = qedimg.References(path)
    assert not refs.duplicates
    assert refs.need_check(), refs.header
    with qedtest.Server("qed", path) as s:
        h = s.connect()
        for c in (*range(12), n, n + 1, n + 100, 2 * n):
            qedtest.check_range(h, disk, c * cs, (c + 1) * cs)
    qedtest.check_image(path, disk)
END
