#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Hostile L1 entries: the clusters that their L2 tables would map give EIO.
# All others read right.  A message names the file, the place on the disk and
# the value of the entry.  (I9)

source ./functions.sh nbd

"$PYTHON" - <<'END'
import qedimg, qedtest

path = qedtest.TMP + "/t.qed"
TOP = 1 << 64

def entries(img):
    cs, end = img.cluster_size, img.end * img.cluster_size
    unaligned = "is not a multiple of the cluster size"
    header = "points into the header clusters"
    past = "points past the end of the file"
    l1 = "points into the L1 table"
    # The value 1 has no special meaning in L1, unlike in L2.
    yield from ((v, unaligned) for v in (
        1, 2, 8, 512, cs - 1, cs + 1, end - 512, TOP - 1, TOP - cs + 1))
    yield from ((c * cs, header) for c in
                range(1, img.header["header_size"]))
    # The L1 table itself, and tables that overlap its start or end.
    yield from (((img.l1_at + c) * cs, l1) for c in
                range(1 - img.table_size, img.table_size)
                if img.l1_at + c >= img.header["header_size"])
    # Too close to the end of the file for a whole table, and in the partial
    # cluster.
    yield from ((end - c * cs, past) for c in range(img.table_size))
    yield from ((v // cs * cs, past) for v in (
        end + cs, 1 << 32, (1 << 32) + end, 1 << 62, (1 << 63) - cs,
        1 << 63, TOP - img.table_size * cs, TOP - 2 * cs, TOP - cs))

for cs, ts, header_size in ((4096, 1, 3), (4096, 2, 2), (4096, 16, 1),
                            (65536, 4, 2)):
    img = qedimg.Image(200 * (ts * cs // 8) * cs, cs, ts, header_size,
                       l1_at=header_size + 20)
    for i in (0, 1, 2, 199):
        img.data(i * img.n)
        img.data(i * img.n + img.n - 1)
        img.zero(i * img.n + 1)
    bad = {}
    for k, (entry, why) in enumerate(entries(img)):
        # Every third neighbour is absent.
        i = 3 + k + k // 2
        bad[i] = (entry, why)
        img.l1_entry(i, entry)
    assert max(bad) < 199
    img.tail = b"t" * (cs - 1)
    img.save(path)
    model = qedimg.Model(path)
    span = img.n * cs
    assert (sum(r.end - r.start for r in model.runs()
                if r.kind == qedimg.UNSOUND) == len(bad) * span)

    with qedtest.Server("qed", path) as s:
        h = s.connect()
        qedtest.check_all(h, model)
        for i, (entry, why) in bad.items():
            for offset in (i * span, i * span + span - 1,
                           i * span + span // 2):
                qedtest.expect_error("EIO", h.pread, 1, offset)
        log = s.log()
        for i, (entry, why) in bad.items():
            line = (f"{path}: offset {i * span} of the disk: "
                    f"L1 entry 0x{entry:x} {why}: the image is corrupt")
            assert line in log, line
        # A prefetch reports no errors.  The read does.
        for i in bad:
            h.cache(cs, i * span)
        qedtest.check_content(h, model)
END
