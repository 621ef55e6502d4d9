#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# An image marked NEED_CHECK with a cluster in use twice cannot be repaired on
# opening.  It is not opened for writing, a message says what to do, and
# nothing changes.  With -r it is served.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import qedimg, qedtest

path = qedtest.TMP + "/r.qed"

def image(cs, ts):
    img = qedimg.Image(5 * (ts * cs // 8) * cs, cs, ts,
                       features=qedimg.F_NEED_CHECK)
    img.data(0)
    img.data(1)
    img.data(img.n)
    return img

def same_table(img):
    img.entry(7, img.entries[img.table(0) * img.cluster_size])

def other_table(img):
    img.entry(img.n + 7, img.entries[img.table(0) * img.cluster_size])

def table_twice(img):
    img.l1_entry(3, img.table(0) * img.cluster_size)

def tables_overlap(img):
    # With a table size of one cluster both tables are the same.
    step = 1 if img.table_size > 1 else 0
    img.alloc(2 * img.table_size)
    img.l1_entry(3, (img.table(1) + step) * img.cluster_size)

def with_others(img):
    same_table(img)
    img.entry(9, 1 << 50)
    img.alloc(5)

damages = (same_table, other_table, table_twice, tables_overlap, with_others)
for cs, ts in qedtest.some(((4096, 1), (4096, 16), (65536, 4)), 1):
    for damage in damages:
        img = image(cs, ts)
        damage(img)
        img.save(path)
        with open(path, "rb") as f:
            before = f.read()
        with qedtest.Server("qed", path) as s:
            for _ in range(2):
                qedtest.connection_refused(
                    s, f"{path}: .*qed-img check -r all")
        with open(path, "rb") as f:
            assert f.read() == before
        if damage in (same_table, other_table):
            qedtest.serve_and_check(path, "-r")
        else:
            with qedtest.Server("-r", "qed", path) as s:
                model = qedimg.Model(path)
                qedtest.check_range(s.connect(), model, 0, 6 * cs)
                model.close()
        with open(path, "rb") as f:
            assert f.read() == before
END
