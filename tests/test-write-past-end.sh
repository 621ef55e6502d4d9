#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# An entry points past the end of the file when the file is opened.  When the
# file grows over that place the entry does not become an alias of another's
# cluster, in this server or the next.  If that cannot be ensured nothing may
# be allocated.  (I9)

source ./functions.sh nbd

"$PYTHON" - <<'END'
import nbd, qedimg, qedtest

path = qedtest.TMP + "/p.qed"
for cs, ts, cache in ((65536, 4, "32M"), (4096, 2, "64k")):
    n = ts * cs // 8
    size = 4 * n * cs
    # In different slices, so that each is tested on its own.
    bad = [7, 700, n + 5, n + 600]
    new = [*range(2 * n + 1, 2 * n + 30), *range(3 * n + 600, 3 * n + 620)]
    for look in ("before", "after", "never"):
        img = qedimg.Image(size, cs, ts)
        for c in (0, n - 1, n, 2 * n, 3 * n):
            img.data(c)
        end = img.end
        for i, c in enumerate(bad):
            img.entry(c, (end + i) * cs)
        img.save(path)
        disk = qedtest.Disk(size)

        def check_bad(h):
            for c in bad:
                qedtest.expect_error("EIO", h.pread, 512, c * cs)
                qedtest.expect_error("EIO", h.pread, 512, c * cs + 512)

        def check_bad_later(h):
            for c in bad:
                try:
                    assert h.pread(cs, c * cs) == bytes(cs)
                except nbd.Error as e:
                    assert e.errno == "EIO", e

        def check_new(h):
            for c in new:
                qedtest.check_range(h, disk, c * cs, (c + 1) * cs)

        with qedtest.Server("qed", path, "cache-size=" + cache) as s:
            h = s.connect()
            if look == "before":
                check_bad(h)
            for c in new:
                b = c.to_bytes(8, "little") * 64
                try:
                    h.pwrite(b, c * cs + 512)
                    disk.write(b, c * cs + 512)
                except nbd.Error as e:
                    assert e.errno == "EIO", e
                    assert "qed-img check -r all" in s.log(), s.log()
            # Read other slices, so that the cache drops these.
            for c in range(0, 4 * n, 512):
                if c // 512 not in {b // 512 for b in bad}:
                    h.pread(1, c * cs)
            if look != "never":
                check_bad(h)
                for c in bad:
                    qedtest.expect_error("EIO", h.pwrite, b"x" * 2048, c * cs)
                    qedtest.expect_error("EIO", h.zero, cs, c * cs)
            check_new(h)

        with qedtest.Server("-r", "qed", path) as s:
            h = s.connect()
            check_bad_later(h)
            check_new(h)
        with qedtest.Server("qed", path) as s:
            try:
                h = s.connect()
            except nbd.Error:
                assert "qed-img check -r all" in s.log(), s.log()
                continue
            check_bad_later(h)
            check_new(h)
END
