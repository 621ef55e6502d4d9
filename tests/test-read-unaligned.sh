#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Reads may start at any byte and have any length.  They may cross clusters and
# L2 tables, and reach the end of a disk that ends inside a cluster.  The
# longest is 64 MiB.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import random
import qedimg, qedtest

CS = 4096
SPAN = 512 * CS                 # of an L2 table
SIZE = 66 * qedtest.MiB + 3 * 512
path = qedtest.TMP + "/u.qed"
r = random.Random(1)

# Some runs of clusters are contiguous in the file, others are shuffled.
img = qedimg.Image(SIZE, CS, 1)
clusters = -(-SIZE // CS)
places = list(range(100, 100 + clusters))
for i in range(0, clusters - 64, 64):
    if r.random() < 0.5:
        places[i:i + 64] = r.sample(places[i:i + 64], 64)
# Place the L2 tables after all data.
for i in range(-(-clusters // 512)):
    img.table(i, at=100 + clusters + i)
for c in range(clusters):
    if c // 32 % 5 == 1:
        continue
    elif c // 32 % 5 == 2 and r.random() < 0.5:
        img.zero(c)
    else:
        img.data(c, at=places[c])
img.save(path)

model = qedimg.Model(path)
with qedtest.Server("qed", path) as s:
    h = s.connect()
    def check(offset, n):
        qedtest.check_read(h, model, offset, n)

    # Around the boundaries of clusters, cache slices and L2 tables.
    for border in (2 * CS, 31 * CS, 32 * CS, SPAN, 2 * SPAN, 7 * SPAN):
        for start in (-CS - 1, -513, -512, -1, 0, 1):
            for n in (1, 2, 511, 513, CS - 1, CS, CS + 1, 3 * CS):
                check(border + start, n)
    # Up to the end of the disk.
    for n in (1, 511, 512, 513, 1536, 1537, CS, 10 * CS + 1):
        check(SIZE - n, n)
    # Long requests: 32 MiB, which all servers accept, and 64 MiB, the most
    # that nbdkit accepts.
    for n in (32 << 20, 64 << 20):
        for offset in (0, 1, SPAN - 513, SIZE - n):
            check(offset, n)
    # At random.
    for _ in range(500):
        n = int(2 ** r.uniform(0, 22))
        check(r.randrange(SIZE - n), n)
END
