#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# qed-img commit makes of a backing file, raw or QED, smaller or larger than
# the image, what qemu-img commit makes of it.  The image is empty afterwards,
# which QEMU's is not.

source ./functions.sh nbd qemu

cd $d
"$PYTHON" - <<'END'
import os
import random
import shutil
import qedimg, qedtest

def make_base(kind, size):
    if kind == "raw":
        with open("base", "wb") as f:
            f.write(qedimg.pattern("base", 0, size))
            f.truncate(size)
        return
    size = -(-size // 512) * 512
    backing = None
    if kind == "over":
        backing = "below"
        with open("below", "wb") as f:
            f.write(qedimg.pattern("below", 0, 300000))
    img = qedimg.Image(size, 16384, backing=backing, seed="base",
                       features=4 if backing else 0)
    for c in range(-(-size // 16384)):
        if c % 3 == 0:
            img.data(c)
        elif c % 5 == 0:
            img.zero(c)
    img.save("base")

def contents():
    """Of the image, and of the backing file."""
    fmt = "raw" if kind == "raw" else "qed"
    qedtest.run("qemu-img", "convert", "-f", "qed", "-O", "raw", "x.qed", "a")
    qedtest.run("qemu-img", "convert", "-f", fmt, "-O", "raw", "base", "b")
    with open("a", "rb") as a, open("b", "rb") as b:
        return a.read(), b.read()

def check(kind, base_size, size, cluster_size):
    r = random.Random(size)
    make_base(kind, base_size)
    img = qedimg.Image(size, cluster_size, backing="base",
                       features=4 if kind == "raw" else 0)
    for c in range(-(-size // cluster_size)):
        which = r.randrange(4)
        if which == 0:
            img.data(c)
        elif which == 1:
            # Only the end of the cluster has data.
            img.data(c, {cluster_size - 100: b"x" * 100})
        elif which == 2:
            img.zero(c)
    img.save("x.qed")
    before, _ = contents()
    shutil.copy("base", "base.copy")
    shutil.copy("x.qed", "x.copy")

    if kind != "raw" and size > base_size:
        # QEMU refuses to grow the image over a longer backing file.  Otherwise
        # it exposes the old data in the rest of the last cluster.
        want = before, before
    else:
        qedtest.run("qemu-img", "commit", "-q", "-f", "qed", "x.qed")
        want = contents()
        assert want[0] == before, (kind, base_size, size)
    os.rename("base.copy", "base")
    os.rename("x.copy", "x.qed")
    out, err = qedtest.qed_img("commit", "-f", "qed", "x.qed")
    assert out == "Image committed.\n" and not err, (out, err)
    assert contents() == want, "content"
    if kind == "raw":
        assert len(want[1]) == -(-os.path.getsize("base") // 512) * 512
    else:
        qedimg.References("base").check_clean()
    qedimg.References("x.qed").check_clean()
    runs = qedimg.Model("x.qed").runs()
    assert [run.kind for run in runs] == [qedimg.UNALLOCATED], runs

cases = [(kind, base, size, cs)
         for kind in ("raw", "qed", "over")
         for base, size, cs in ((1 << 20, 1 << 20, 4096),
                                (200100, 1 << 20, 65536),
                                (1 << 20, 300 * 512, 4096),
                                (100 * 512 - 200, 100 * 512, 8192))]
for kind, base, size, cs in qedtest.some(cases, 3):
    check(kind, base, size, cs)
END
