#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# An image marked NEED_CHECK is checked when the first client that may write
# connects.  Unsound entries are cleared, leaked space at the end is cut off,
# and a debug message says so.  With -r nothing changes.

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import os, re
import qedimg, qedtest

path = qedtest.TMP + "/r.qed"
TOP = 1 << 64
for cs, ts in qedtest.some(((4096, 1), (4096, 16), (65536, 4)), 1):
    n = ts * cs // 8
    size = 5 * n * cs + 512
    if size > qedimg.max_size(cs, ts):
        size = qedimg.max_size(cs, ts)

    def build(bad):
        img = qedimg.Image(size, cs, ts, 2, features=qedimg.F_NEED_CHECK)
        for c in (0, 3, 4, n - 1, n, 3 * n + 5):
            img.data(c)
        img.zero(2)
        if bad:
            # Nothing points to these.
            img.alloc(20)
            last = img.end * cs
            table, other = img.table(0) * cs, img.table(1) * cs
            for i, entry in enumerate((
                    last, last + cs, 1 << 40, TOP - cs, 1 << 63, 2, 7,
                    cs - 1, last - cs + 1, cs, img.l1_at * cs,
                    table, table + (ts - 1) * cs,
                    other, other + (ts - 1) * cs)):
                img.entry(6 + 2 * i, entry)
                img.entry(n + 6 + 2 * i, entry)
            img.l1_entry(2, last + cs)
            img.l1_entry(4, 5)
            img.tail = b"t" * 100
        return img

    build(False).save(path)
    good = qedimg.Model(path)
    disk = qedtest.Disk(size)
    for run in good.runs():
        if run.kind == qedimg.DATA:
            disk.write(good.read(run.start, run.end - run.start), run.start)
    length = good.file_size
    good.close()

    build(True).save(path)
    before = open(path, "rb").read()
    with qedtest.Server("-r", "qed", path) as s:
        h = s.connect()
        qedtest.expect_error("EIO", h.pread, 512, 6 * cs)
        qedtest.check_range(h, disk, 0, 6 * cs)
    with qedtest.Server("qed", path) as s:
        # No client is connected that could write.
        pass
    assert open(path, "rb").read() == before

    with qedtest.Server("-v", "qed", path) as s:
        h = s.connect()
        assert re.search(f"{path}: .*clear.*entries", s.log())
        qedtest.check_disk(h, disk)
        qedtest.check_range(h, disk, 0, min(size, 40 * cs))
        # Every cluster can be written.
        for c in (0, 6, 8, n + 6, 2 * n, 4 * n):
            if c * cs + 600 <= size:
                h.pwrite(b"x" * 600, c * cs)
                disk.write(b"x" * 600, c * cs)
        qedtest.check_disk(h, disk)
    qedtest.check_image(path, disk)

    # Without writes, too.
    build(True).save(path)
    with qedtest.Server("qed", path) as s:
        s.connect()
    qedimg.References(path).check_clean()
    assert os.path.getsize(path) == length
    qedtest.qemu_check(path)
END
