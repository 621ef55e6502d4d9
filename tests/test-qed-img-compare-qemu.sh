#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# qed-img compare prints what qemu-img compare does, with its exit code, for
# random pairs: raw disks of any size, images and chains.  The offset that
# strict mode names is where what qemu-img map prints begins to differ, which
# qemu-img compare only tells roughly.

source ./functions.sh nbd qemu

cd $d
"$PYTHON" - <<'END'
import json
import os
import random
import re
import shlex
import subprocess
import qedimg, qedtest

def content(r, size):
    """A disk of data, zeros and holes, as pieces that are data."""
    pieces, at = [], 0
    while at < size:
        n = min(size - at, r.choice([4096, 65536, 65536 * 3, 1 << 20]))
        if r.random() < .5:
            pieces.append((at, bytes(n) if r.random() < .2 else
                           r.randbytes(n).replace(b"\0", b"\1")))
        at += n
    return pieces

def save_raw(path, size, pieces):
    with open(path, "wb") as f:
        f.truncate(size)
        for at, data in pieces:
            f.seek(at)
            f.write(data)

def save_image(r, path, size, pieces, base=None):
    """The pieces in an image, of zeros as zero clusters: half of them in BASE,
    if there is one."""
    size = -(-size // 512) * 512
    cs = r.choice([4096, 8192, 65536])
    img = qedimg.Image(size, cs, r.choice([2, 4]), backing=base,
                       features=4 if base else 0)
    disk = bytearray(size)
    for at, data in pieces:
        disk[at:at + len(data)] = data
    clusters = {c for at, data in pieces if data
                for c in range(at // cs, (at + len(data) - 1) // cs + 1)}
    below = {c for c in clusters if base and r.random() < .5}
    for c in sorted(clusters - below):
        data = bytes(disk[c * cs:(c + 1) * cs])
        if any(data):
            img.data(c, data)
        else:
            img.zero(c)
    img.save(path)
    if base:
        save_raw(base, size, [(c * cs, bytes(disk[c * cs:(c + 1) * cs]))
                              for c in below])

def change(r, size, pieces):
    """Some bytes are different, or none."""
    for _ in range(r.choice([0, 0, 1, 2])):
        at = r.randrange(size)
        pieces = pieces + [(at, bytes([r.choice([0, 7])]))]
    return pieces

def save(r, name, size, pieces):
    kind = r.choice(["raw", "image", "chain"])
    if kind == "raw":
        save_raw(name, size, pieces)
        return "raw"
    save_image(r, name, size, pieces, name + ".base" if kind == "chain" else
               None)
    return "qed"

def compare(program, *args):
    p = subprocess.run([*program, "compare", *args], stdout=subprocess.PIPE,
                       text=True)
    return p.returncode, p.stdout

def statuses(name, format):
    out = qedtest.run("qemu-img", "map", "--output=json", "-f", format, name)
    return [(e["start"], e["start"] + e["length"], e["present"], e["zero"],
             e["data"]) for e in json.loads(out)]

def first_status(a, b):
    """Where two maps of one length differ, or None."""
    found = [max(x[0], y[0]) for x in a for y in b
             if x[0] < y[1] and y[0] < x[1] and x[2:] != y[2:]]
    return min(found, default=None)

def check_strict(a, b, fa, fb, plain):
    """Strict mode, where sizes are equal."""
    status = first_status(statuses(a, fa), statuses(b, fb))
    m = re.search(r"Content mismatch at offset (\d+)!", plain[1])
    if m and (status is None or int(m[1]) < status):
        return 1, m[0] + "\n"
    if status is None:
        return plain
    return 1, f"Strict mode: Offset {status} block status mismatch!\n"

qed_img = shlex.split(os.environ["QED_IMG"])
outcomes = set()
for seed in qedtest.some(range(30), 3):
    r = random.Random(seed)
    size = r.choice([0, 1, 3 << 20, 5 << 20, r.randrange(1, 4 << 20)])
    pieces = content(r, size)
    other = r.choice([size, size, size + 100000, r.randrange(4 << 20)])
    cut = [(at, data[:other - at]) for at, data in pieces if at < other]
    if r.random() < .5:
        pieces = cut            # zeros up to SIZE
    fa = save(r, "a", size, pieces)
    fb = save(r, "b", other, change(r, other, cut) if other else [])
    for x, y, fx, fy in ("a", "b", fa, fb), ("b", "a", fb, fa):
        args = ["-f", fx, "-F", fy, x, y]
        want = compare(["qemu-img"], *args)
        assert compare(qed_img, *args) == want, (seed, args, want)
        assert compare(qed_img, "-q", *args) == (want[0], ""), (seed, args)
        outcomes.add(re.sub(r"\d+", "N", want[1]))
        strict = compare(["qemu-img"], "-s", *args)
        got = compare(qed_img, "-s", *args)
        if "size" not in strict[1]:
            # Equal to qemu-img, too, except for what is said above.
            assert strict[0] >= got[0], (seed, args, got, strict)
            strict = check_strict(x, y, fx, fy, want)
        assert got == strict, (seed, args, got, strict)
        outcomes.add(re.sub(r"\d+", "N", got[1]))
if not os.environ.get("NBDKIT_VALGRIND"):
    assert outcomes == {
        "Images are identical.\n",
        "Content mismatch at offset N!\n",
        "Warning: Image size mismatch!\nImages are identical.\n",
        "Warning: Image size mismatch!\nContent mismatch at offset N!\n",
        "Strict mode: Image size mismatch!\n",
        "Strict mode: Offset N block status mismatch!\n",
    }, outcomes
END
