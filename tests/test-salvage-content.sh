#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# With salvage=true damaged ranges read as zeros and are not reported as data.
# All other data reads as before.  Each range is reported once, in the order of
# the disk, with the file that is damaged.  The images and chains are random.
# To look further:
#
#     make check TESTS=test-salvage-content.sh QED_SEED=1000 QED_ROUNDS=500

source ./functions.sh nbd nbdcopy

"$PYTHON" - <<'END'
import os, random, re, subprocess
import qedimg, qedtest

os.chdir(qedtest.TMP)
SAID = re.compile(r"error: (\S+): offset (0|0x[0-9a-f]+), "
                  r"length (0x[0-9a-f]+) of the disk "
                  r"read as zeros: (\S+) is corrupt there$")
ALL = re.compile(r"error: (\S+): (\d+) bytes in (\d+) ranges read as zeros "
                 r"in total: see qed-img check$")

def make(r, path, backing, damage):
    cs = r.choice(qedimg.CLUSTER_SIZES[:5])
    ts = r.choice(qedimg.TABLE_SIZES[:3])
    size = min(qedimg.max_size(cs, ts), int(2 ** r.uniform(14, 24)))
    size = size // 512 * 512
    img = qedimg.Image(size, cs, ts, backing=backing, seed=r.random())
    clusters = -(-size // cs)
    bad = (8, cs // 2, cs + 1, 3, 1 << 63, (1 << 64) - cs, 0x7fff << 32, 2)
    c = 0
    while c < clusters and img.end * cs < 16 << 20:
        kind = r.choices(("data", "zero", "none", "bad"),
                         (5, 2, 4, 2 * damage))[0]
        for c in range(c, min(clusters, c + int(2 ** r.uniform(0, 5)))):
            if kind == "data":
                img.data(c)
            elif kind == "zero":
                img.zero(c)
            elif kind == "bad":
                img.entry(c, r.choice(bad))
        c += 1
    tables = -(-clusters // img.n)
    if damage and tables > 1 and r.random() < 0.5:
        img.l1_entry(r.randrange(tables), r.choice(bad))
    img.save(path)

def check(seed):
    print("seed", seed)
    r = random.Random(seed)
    below, backing = None, None
    if r.random() < 0.3:
        backing = "base.raw"
        with open(backing, "wb") as f:
            f.write(r.randbytes(r.randrange(1, 1 << 22)))
        below = qedtest.Disk(os.path.getsize(backing))
        with open(backing, "rb") as f:
            below.write(f.read(), 0)
    for i in range(r.choice((1, 1, 2, 3))):
        path = f"{qedtest.TMP}/layer{i}.qed"
        make(r, path, backing, r.choice((0, 1, 1)))
        below = qedtest.Salvaged(path, below)
        backing = os.path.basename(path)
    model = below

    before = qedtest.run("sha256sum", path)
    want = model.damages()
    p = subprocess.run(["nbdkit", "-U", "-", "qed", path, "salvage=true",
                        "--run", 'nbdcopy "$uri" copy.raw'],
                       stdin=subprocess.DEVNULL, capture_output=True,
                       timeout=120)
    err = p.stderr.decode()
    assert p.returncode == 0, err
    lines = err.splitlines()
    said = [SAID.search(line) for line in lines[:len(want)]]
    assert all(said), err
    assert [m[1] for m in said] == [path] * len(want)
    assert [(int(m[2], 16), int(m[3], 16), m[4])
            for m in said] == want, (err, want)
    rest = lines[len(want):]
    if want:
        m = ALL.search(rest.pop(0))
        assert m and m.groups() == (
            path, str(sum(n for _, n, _ in want)), str(len(want))), err
    assert not rest, err

    assert os.path.getsize("copy.raw") == model.size
    with open("copy.raw", "rb") as f:
        for at in range(0, model.size, 1 << 20):
            n = min(1 << 20, model.size - at)
            qedtest.check_bytes(f.read(n), model.read(at, n), at)
    os.unlink("copy.raw")
    # Reads of random pieces give the same.  A damaged range is no data.
    with qedtest.Server("-r", "qed", path, "salvage=1", "cache-size=64k") as s:
        h = s.connect()
        for _ in range(50):
            offset = r.randrange(model.size)
            n = min(model.size - offset, int(2 ** r.uniform(0, 18)))
            qedtest.check_bytes(h.pread(n, offset), model.read(offset, n),
                                offset)
        for e in qedtest.extents(h):
            for offset, n, _ in want:
                if e.start < offset + n and offset < e.end:
                    assert e.flags & qedtest.ZERO_FLAG, (e, offset, n)
    assert qedtest.run("sha256sum", path) == before
    # Without salvage a copy fails if there is damage.
    p = subprocess.run(["nbdkit", "-t", "1", "-r", "-U", "-", "qed", path,
                        "--run", 'nbdcopy "$uri" null:'],
                       stdin=subprocess.DEVNULL, capture_output=True,
                       timeout=120)
    assert (p.returncode != 0) == bool(want), (p.stderr, want)
    while isinstance(model, qedimg.Model):
        model.close()
        model = model.below
    return want

seed = int(os.environ.get("QED_SEED", 0))
rounds = int(os.environ.get("QED_ROUNDS", len(qedtest.some(range(40)))))
found = [check(seed) for seed in range(seed, seed + rounds)]
assert any(found)
if rounds >= 40:
    assert not all(found)
    assert any(len({path for _, _, path in want}) > 1 for want in found)
END
