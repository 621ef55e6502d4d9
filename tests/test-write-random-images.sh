#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Random writes into images of random geometry and layout read back right, and
# the closed image is sound.  To look further:
#
#     make check TESTS=test-write-random-images.sh QED_SEED=1000 QED_ROUNDS=500

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import os, random
import qedimg, qedtest

path = qedtest.TMP + "/r.qed"
seed = int(os.environ.get("QED_SEED", 0))
rounds = int(os.environ.get("QED_ROUNDS", len(qedtest.some(range(20), 5))))
for seed in range(seed, seed + rounds):
    print("seed", seed)
    r = random.Random(f"w{seed}")
    cs = r.choice(qedimg.CLUSTER_SIZES[:9])
    ts = r.choice(qedimg.TABLE_SIZES)
    size = min(qedimg.max_size(cs, ts), int(2 ** r.uniform(13, 42)))
    size = -(-size // 512) * 512
    img = qedimg.Image(size, cs, ts, r.choice((1, 1, 2, 5)),
                       l1_at=r.choice((None, 7, 40)), seed=seed,
                       features=r.choice((0, qedimg.F_NEED_CHECK)))
    # Places to write at, allocated or not.
    last = (size - 1) // cs
    places = sorted({0, last, *(r.randrange(last + 1) for _ in range(5)),
                     *(min(last, k * img.n - r.randrange(2)) for k in (1, 2))})
    disk = qedtest.Disk(size)
    done = set()
    for c in places:
        if r.random() < 0.2:
            img.alloc(r.randrange(5))
        for k in range(c, min(c + r.randrange(6), last)):
            if k in done:
                continue
            done.add(k)
            if r.random() < 0.2:
                img.zero(k)
            else:
                b = r.randbytes(r.randrange(1, cs))
                img.data(k, b)
                disk.write(b, k * cs)
    # The file ends with a cluster in use, or with NEED_CHECK and bytes that
    # the repair must cut off.
    img.data(last, b"last")
    disk.write(b"last", last * cs)
    if img.header["features"]:
        img.alloc(r.randrange(3))
        img.tail = r.randbytes(r.choice((0, 0, 1, cs - 1)))
    img.save(path)

    for _ in range(r.choice((1, 2, 3))):
        with qedtest.Server("qed", path, r.choice(("cache-size=64k",
                                                   "cache-size=8M"))) as s:
            h = s.connect()
            qedtest.check_disk(h, disk)
            for _ in range(r.randrange(25)):
                n = min(int(2 ** r.uniform(0, 19)), size)
                at = r.choice(places) * cs + r.randrange(-n, 4 * cs)
                at = min(max(0, at), size - n)
                qedtest.random_op(r, h, disk, at, n)
                if r.random() < 0.2:
                    h.flush()
            qedtest.check_disk(h, disk)
            if r.random() < 0.2:
                s.kill()
    with qedtest.Server("qed", path) as s:
        qedtest.check_disk(s.connect(), disk)
    qedtest.check_image(path, disk, leaks=True)
END
