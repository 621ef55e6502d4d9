#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# After -r all both owners of a shared cluster read what they did, and a write
# to one does not show in the other.  Clusters that could not be read are
# zeros.  All of them can be written.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import qedcheck, qedimg, qedtest

path = qedtest.TMP + "/r.qed"

def entry_of(img, c):
    table = img.table(c // img.n)
    return img.entries[table * img.cluster_size + 8 * (c % img.n)]

# Each damages an image and a disk, and returns clusters to write to.
def shared_in_table(img, disk):
    img.entry(7, entry_of(img, 0))
    disk.write(qedimg.pattern(0, 0, img.cluster_size), 7 * img.cluster_size)
    return [7, 0]

def shared_by_tables(img, disk):
    img.entry(img.n + 7, entry_of(img, 1))
    img.entry(7, entry_of(img, 1))
    for c in (7, img.n + 7):
        disk.write(qedimg.pattern(0, 1, img.cluster_size),
                   c * img.cluster_size)
    return [1, 7, img.n + 7]

def table_twice(img, disk):
    img.l1_entry(3, img.table(0) * img.cluster_size)
    for c in (0, 1):
        disk.write(qedimg.pattern(0, c, img.cluster_size),
                   (3 * img.n + c) * img.cluster_size)
    return [0, 3 * img.n, 3 * img.n + 1]

def out_of_range(img, disk):
    img.entry(5, 1 << 40)
    img.entry(6, 100)
    img.entry(img.n + 1, img.l1_at * img.cluster_size)
    img.l1_entry(2, img.cluster_size // 2)
    return [5, 6, img.n + 1, 2 * img.n, 2 * img.n + 9]

def past_the_end(img, disk):
    # Entries that point to clusters which the growing file will reach.
    for k in range(40):
        img.entry(20 + k, (img.end + k) * img.cluster_size)
    return [20, 21, 59, 70]

def in_table(img, disk):
    # The cluster reads the table's bytes, and zeros after the repair.
    img.entry(8, img.table(1) * img.cluster_size)
    disk.write(bytes(img.cluster_size), 8 * img.cluster_size)
    return [8]

def all_of_them(img, disk):
    return [c for f in damages[:4] for c in f(img, disk)]

damages = [shared_in_table, shared_by_tables, out_of_range, past_the_end,
           table_twice, in_table, all_of_them]
for cs, ts in qedtest.some(((4096, 1), (4096, 16), (65536, 4)), 1):
    n = ts * cs // 8
    size = min(5 * n * cs, qedimg.max_size(cs, ts))
    for damage in damages:
        if cs > 4096 and damage != all_of_them:
            continue
        print(cs, ts, damage)
        img = qedimg.Image(size, cs, ts)
        disk = qedtest.Disk(size)
        for c in (0, 1, n):
            img.data(c)
            disk.write(qedimg.pattern(0, c, cs), c * cs)
        used = damage(img, disk)
        img.alloc(9)
        img.save(path)
        assert qedcheck.expect(path).corruptions > 0
        qedcheck.check(path, "-r", "all")
        qedcheck.expect_clean(path)
        with qedtest.Server("qed", path) as s:
            h = s.connect()
            if damage == in_table:
                h.zero(cs, 8 * cs)
            qedtest.check_disk(h, disk)
            for c in used:
                h.pwrite(b"\7" * 700, c * cs)
                disk.write(b"\7" * 700, c * cs)
                qedtest.check_disk(h, disk)
        qedtest.check_image(path, disk)
END
