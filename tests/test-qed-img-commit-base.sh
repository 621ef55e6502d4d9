#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# commit -b writes the content of the whole disk into a file further down the
# chain, with layers of any sizes and clusters.  The image and the layers
# between do not change.  Where qemu-img can do it the result is the same.

source ./functions.sh nbd qemu

cd $d
"$PYTHON" - <<'END'
import os
import random
import shutil
import qedimg, qedtest

def content(path, fmt):
    qedtest.run("qemu-img", "convert", "-f", fmt, "-O", "raw", path, "out")
    with open("out", "rb") as f:
        return f.read()

def fill(img, r):
    for c in range(-(-img.size // img.cluster_size)):
        which = r.randrange(6)
        if which == 0:
            img.data(c)
        elif which == 1:
            img.data(c, {img.cluster_size - 100: b"x" * 100})
        elif which == 2:
            img.zero(c)

def make(r, kind, sizes, clusters):
    '''From the bottom up: base, then images.'''
    if kind == "raw":
        with open("l0", "wb") as f:
            f.write(qedimg.pattern("base", 0, sizes[0]))
    else:
        img = qedimg.Image(sizes[0], clusters[0], seed="base")
        fill(img, r)
        img.save("l0")
    for i in range(1, len(sizes)):
        img = qedimg.Image(sizes[i], clusters[i], backing=f"l{i - 1}",
                           seed=str(i),
                           features=4 if i == 1 and kind == "raw" else 0)
        fill(img, r)
        img.save(f"l{i}")

def check(kind, sizes, clusters):
    r = random.Random(str((kind, sizes, clusters)))
    make(r, kind, sizes, clusters)
    n = len(sizes)
    top = f"l{n - 1}"
    want = content(top, "qed")
    above = {f"l{i}": open(f"l{i}", "rb").read() for i in range(1, n)}
    shutil.copy("l0", "base.copy")
    out, err = qedtest.qed_img("commit", "-b", "l0", top)
    assert out == "Image committed.\n" and not err, (out, err)
    for name, b in above.items():
        assert open(name, "rb").read() == b, name
    assert content(top, "qed") == want, "the disk"
    base = content("l0", kind)
    size = max(len(want), -(-sizes[0] // 512) * 512)
    assert len(base) == size, (len(base), size)
    assert base[:len(want)] == want, "base"
    if kind == "qed":
        qedimg.References("l0").check_clean()
    # The base keeps its data beyond the end of the disk.
    shutil.copy("l0", "ours")
    shutil.copy("base.copy", "l0")
    assert base[len(want):] == content("l0", kind)[len(want):], "rest"
    if sizes[0] >= max(sizes) and sizes[0] % 512 == 0:
        qedtest.run("qemu-img", "commit", "-q", "-b", "l0", top)
        assert content("l0", kind) == base, "qemu-img's"

MiB = 1 << 20
cases = [(kind, sizes, clusters)
         for kind in ("qed", "raw")
         for sizes, clusters in (
             ((MiB, MiB, MiB), (65536, 65536, 65536)),
             ((MiB, MiB, MiB, MiB), (65536, 4096, 16384, 4096)),
             ((MiB, 300 * 512, MiB), (4096, 4096, 65536)),
             ((300 * 512, MiB, MiB), (16384, 4096, 4096)),
             ((MiB, 2 * MiB, 700 * 512), (4096, 8192, 65536)),
             ((200 * 512, 900 * 512, 300 * 512, MiB),
              (65536, 4096, 32768, 4096)),
             ((2 * MiB, 100 * 512, 900 * 512, MiB),
              (4096, 4096, 4096, 4096)),
         )]
cases.append(("raw", (100 * 512 - 200, 90 * 512, MiB), (0, 4096, 8192)))
for case in qedtest.some(cases, 3):
    check(*case)
END

# With -b the image is not emptied, even if FILE is its own backing file.
truncate -s 1M base.raw
qed-img create -q -b base.raw -F raw x.qed
qemu-io -f qed -c 'write -P 5 64k 64k' x.qed >/dev/null
state_of x.qed >before
qed-img commit -q -b base.raw -p x.qed >out
test ! -s out
state_of x.qed | cmp - before
qemu-img compare -f qed -F raw x.qed base.raw
