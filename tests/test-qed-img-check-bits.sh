#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# An image with unknown features is neither checked nor repaired.  Unknown
# compat_features are kept, as is the rest of the header clusters.  Unknown
# autoclear_features are cleared when the image is written.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import qedcheck, qedimg, qedtest

path = qedtest.TMP + "/r.qed"

def build(**fields):
    img = qedimg.Image(1 << 20, 4096, 1, 3, backing="below.raw", **fields)
    img.data(0)
    img.entry(1, img.entries[img.table(0) * 4096])
    img.entry(2, 5)
    img.alloc(3)
    img.data(4)
    img.poke(200, bytes(range(1, 256)) * 30)
    img.save(path)
    return qedimg.Model(path).header

def bytes_of(n=None):
    with open(path, "rb") as f:
        return f.read(n)

header = build()
features = header["features"]
for bit in (8, 1 << 63):
    build(features=bit)
    before = bytes_of()
    for args in ([], ["-r", "leaks"], ["-r", "all"]):
        out, err = qedtest.qed_img("check", *args, path, status=1)
        assert f"qed-img: {path}: " in err and "features" in err, err
        assert out == "" and bytes_of() == before

for bits in (1, 1 << 63, (1 << 64) - 1):
    build(compat_features=bits, autoclear_features=bits,
          features=qedimg.F_NEED_CHECK)
    before = bytes_of()
    qedcheck.check(path, status=2)
    assert bytes_of() == before
    qedcheck.check(path, "-r", "all")
    h = qedimg.Model(path).header
    assert h["compat_features"] == bits and h["features"] == features, h
    assert h["autoclear_features"] == 0
    assert bytes_of(3 * 4096)[64:] == before[64:3 * 4096]
    qedcheck.expect_clean(path)
END
