#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Hostile L2 entries: exactly the clusters that they map give EIO, and have the
# extents of data.  All others read right.  A message names the file, the place
# on the disk and the value of the entry.  (I9)

source ./functions.sh nbd

"$PYTHON" - <<'END'
import qedimg, qedtest

path = qedtest.TMP + "/e.qed"
TOP = 1 << 64

def entries(img):
    """(entry, why it's wrong) for an image to which nothing is added."""
    cs, end = img.cluster_size, img.end * img.cluster_size
    table = img.table(0) * cs
    data = img.entries[table]
    unaligned = "is not a multiple of the cluster size"
    header = "points into the header clusters"
    past = "points past the end of the file"
    l1 = "points into the L1 table"
    own = "points into the L2 table it stands in"
    yield from ((v, unaligned) for v in (
        2, 3, 7, 512, cs - 1, cs + 1, end - cs + 1, end - 512, end + 1,
        table + 8, TOP - 1, TOP - 512, TOP - cs + 1,
        # Nothing else is wrong with these.
        data + 1, data + 2, data + 512, data + cs // 2, data + cs - 1))
    yield from ((c * cs, header) for c in
                range(1, img.header["header_size"]))
    yield from ((c * cs, l1) for c in
                range(img.l1_at, img.l1_at + img.table_size))
    yield from ((table + c * cs, own) for c in range(img.table_size))
    # In the partial cluster, further out, and where an addition would
    # overflow.
    yield from ((v // cs * cs, past) for v in (
        end, end + cs, 2 * end, 1 << 31, 1 << 32, (1 << 32) + end,
        1 << 40, 1 << 62, (1 << 63) - cs, 1 << 63, (1 << 63) + end,
        TOP - 2 * cs, TOP - cs))

for cs, ts, header_size in ((4096, 1, 3), (4096, 16, 1), (65536, 4, 2),
                            (1 << 20, 2, 2)):
    img = qedimg.Image(3 * (ts * cs // 8) * cs + 512, cs, ts, header_size)
    sound = (0, 1, 3, img.n - 1, img.n, 2 * img.n, 3 * img.n)
    for c in sound:
        img.data(c)
    # Bad entries beside each other and beside data.  Entries that share a
    # cluster with data are read, because a reader cannot know of it.
    bad = {}
    for i, (entry, why) in enumerate(entries(img)):
        c = 4 + i + i // 3
        bad[c] = (entry, why)
        img.entry(c, entry)
        if i % 3 == 2:
            img.entry(c + 1, (img.end - 1 - i % 7) * cs)
    img.tail = b"t" * (cs - 1)
    img.save(path)
    model = qedimg.Model(path)
    unsound = {r.start // cs + k for r in model.runs()
               if r.kind == qedimg.UNSOUND
               for k in range((r.end - r.start) // cs)}
    assert unsound == set(bad)

    with qedtest.Server("qed", path) as s:
        h = s.connect()
        qedtest.check_all(h, model)
        for c, (entry, why) in bad.items():
            # In the middle of a request, too.
            qedtest.expect_error("EIO", h.pread, 3 * cs, (c - 1) * cs)
        log = s.log()
        for c, (entry, why) in bad.items():
            line = (f"{path}: offset {c * cs} of the disk: "
                    f"L2 entry 0x{entry:x} {why}: the image is corrupt")
            assert line in log, line
        # A prefetch reports no errors.  The read does.
        h.cache(max(bad) * cs, 0)
        # The server still works.
        qedtest.check_content(h, model)
END
