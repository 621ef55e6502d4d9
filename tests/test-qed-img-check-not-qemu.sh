#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Where qemu-img check of QEMU 7.2 is wrong, qed-img check is right.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import qedcheck, qedimg, qedtest

path = qedtest.TMP + "/r.qed"

def clean():
    out, err, *_ = qedcheck.check(path)
    assert out.startswith("No errors were found on the image.\n"), out
    qedcheck.expect(path)

# A table of one cluster can be created but not opened.
img = qedimg.Image(1 << 30, 4096, 1)
for c in range(0, 5000, 7):
    img.data(c, b"x")
img.save(path)
clean()

# Geometries that it refuses.
for cs, ts in ((4 << 20, 4), (64 << 20, 1), (64 << 20, 16)):
    img = qedimg.Image(1 << 40, cs, ts)
    for c in (0, 1, 17):
        img.data(c, b"x")
    img.save(path)
    clean()
    img.entry(5, 7 * cs + 512)
    img.alloc(2)
    img.save(path)
    c = qedcheck.expect(path)
    assert (c.corruptions, c.leaks) == (1, 2)

# qemu-img reports about one cluster in 4095 as leaked.
img = qedimg.Image(1 << 30, 4096, 16)
for i in range(4):
    img.table(i)
for c in range(9000):
    img.data(c, b"")
img.save(path)
clean()

# A cluster inside a table, or of a table, is no leak, and an entry that may
# not be followed isn't allocated.
img = qedimg.Image(1 << 30)
img.data(0)
img.entry(4, img.table(0) * 65536)
img.entry(5, img.l1_at * 65536)
img.entry(6, 0x10000)
img.save(path)
c = qedcheck.expect(path)
assert (c.corruptions, c.leaks, c.allocated) == (3, 0, 1)
END
