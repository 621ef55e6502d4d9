#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# qed-img map prints exactly what qemu-img map does.  The chains are random:
# the layers have different sizes, clusters and directories, with holes, zero
# clusters and merged ranges.

source ./functions.sh nbd qemu

cd $d
"$PYTHON" - <<'END'
import os
import random
import qedimg, qedtest

os.mkdir("sub")

def make_raw(r, path):
    size = r.choice([0, 100, 37 * 4096, r.randrange(1 << 20), 4194604])
    with open(path, "wb") as f:
        for _ in range(r.randrange(10) if size else 0):
            at = r.randrange(size)
            f.seek(at if r.random() < .5 else at // 4096 * 4096)
            f.write(b"x" * min(size - f.tell(), r.choice([1, 512, 70000])))
        f.truncate(size)

def make_image(r, path, backing, raw):
    cs = r.choice([4096, 4096, 8192, 65536, 1 << 20])
    size = r.choice([1 << 20, 4 << 20, r.randrange(1, 8192) * 512])
    img = qedimg.Image(size, cs, r.choice([2, 4, 8]), backing=backing,
                       features=4 if raw else 0)
    clusters = -(-size // cs)
    at, data = 0, []
    while at < clusters:
        kind, n = r.randrange(4), r.randrange(1, 20)
        for c in range(at, min(at + n, clusters)):
            if kind == 0:
                img.zero(c)
            elif kind == 1:
                data.append(c)
        at += n
    if r.random() < .5:
        r.shuffle(data)
    for c in data:
        img.data(c)
    img.save(path)
    return size

for seed in qedtest.some(range(24), 2):
    r = random.Random(seed)
    below, raw = None, False
    if seed % 4:
        below, raw = r.choice(["b.raw", "sub/b.raw"]), True
        make_raw(r, below)
    for i in range(r.randrange(1, 5)):
        path = r.choice(["", "sub/"]) + f"{i}.qed"
        name = below
        if below is not None and r.random() < .3:
            name = os.path.join(qedtest.TMP, below)
        elif below is not None:
            name = os.path.relpath(below, os.path.dirname(path) or ".")
        size = make_image(r, path, name, raw)
        below, raw = path, False
    some = ["-s", str(r.randrange(size)), "-l", str(r.randrange(1, size))]
    for args in [["--output=json"], ["--output=json", *some], []]:
        want = qedtest.run("qemu-img", "map", *args, path)
        got, err = qedtest.qed_img("map", "--backing-dir", qedtest.TMP,
                                   *args, path)
        assert got == want and not err, (seed, args, got, want, err)
END
