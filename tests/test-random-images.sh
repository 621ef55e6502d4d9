#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Random images: geometry, layout, sound and unsound entries, and holes in the
# file.  The content equals the model's, byte for byte.  What the extents call
# zero reads as zeros.  To look further:
#
#     make check TESTS=test-random-images.sh QED_SEED=1000 QED_ROUNDS=500

source ./functions.sh nbd punch-hole

"$PYTHON" - <<'END'
import os, random
import qedimg, qedtest

path = qedtest.TMP + "/r.qed"
seed = int(os.environ.get("QED_SEED", 0))
rounds = int(os.environ.get("QED_ROUNDS", len(qedtest.some(range(25)))))
for seed in range(seed, seed + rounds):
    print("seed", seed)
    r = random.Random(seed)
    cs = r.choice(qedimg.CLUSTER_SIZES[:6])
    ts = r.choice(qedimg.TABLE_SIZES)
    size = min(qedimg.max_size(cs, ts), int(2 ** r.uniform(9, 27)))
    size = -(-size // 512) * 512
    img = qedimg.Image(size, cs, ts, r.choice((1, 1, 2, 5)),
                       l1_at=r.choice((None, 7, 40)), seed=seed)
    clusters = -(-size // cs)
    tables = -(-clusters // img.n)
    for i in r.sample(range(tables), tables):
        if r.random() < 0.8:
            img.table(i, at=r.choice((None, None, img.end + 3)))
    interesting = (8, cs // 2, cs - 512, cs, cs + 1, (1 << 64) - cs,
                   (1 << 64) - 8, (1 << 63) - cs, 1 << 63, 1 << 32, 3, 2)
    density = r.random()
    c = 0
    while c < clusters and img.end * cs < 64 << 20:
        if c // img.n not in img.tables:
            c += img.n - c % img.n
            continue
        k = r.random()
        if k < density * 0.7:
            for _ in range(r.choice((1, 1, 5, 40))):
                if c < clusters and c // img.n in img.tables:
                    img.data(c)
                    c += 1
        elif k < density * 0.8:
            img.zero(c)
        elif k < density * 0.85:
            img.entry(c, r.choice(interesting))
        elif k < density * 0.9:
            img.entry(c, r.randrange(img.end + 100) * cs)
        c += 1
    if tables > 1 and r.random() < 0.5:
        img.l1_entry(r.randrange(tables),
                     r.choice((*interesting, img.l1_at * cs)))
    img.tail = r.randbytes(r.choice((0, 0, 1, cs - 1)))
    img.save(path)
    # Punch holes anywhere, even in tables: the model reads the same file.
    for _ in range(r.choice((0, 5))):
        qedtest.punch_hole(path, r.randrange(64, img.file_size()),
                           int(2 ** r.uniform(12, 18)))
    model = qedimg.Model(path)
    with qedtest.Server("qed", path, "cache-size=64k") as s:
        h = s.connect()
        qedtest.check_all(h, model)
        for e in qedtest.extents(h):
            for start in range(e.start, e.end, qedtest.CHUNK):
                end = min(e.end, start + qedtest.CHUNK)
                if e.flags & qedtest.ZERO_FLAG:
                    assert not h.pread(end - start, start).strip(b"\0")
                else:
                    qedtest.check_read(h, model, start, end - start)
    model.close()
END
