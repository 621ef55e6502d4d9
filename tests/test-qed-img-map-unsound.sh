#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# qed-img map reports ranges that cannot be read, prints all others, and exits
# with code 1.  Control characters of a name are escaped.

source ./functions.sh nbd

cd $d
"$PYTHON" - <<'END'
import json
import re
import qedimg, qedtest

KiB = 1024
img = qedimg.Image(4 << 30, features=qedimg.F_NEED_CHECK)
img.data(0, b"0")
img.entry(2, 12345)
img.entry(3, 1 << 50)
img.data(4, b"4")
img.entry(6, 64 * KiB)
img.l1_entry(1, 3)
img.save("x.qed")

def check(path, depth, size):
    out, err = qedtest.qed_img("map", "--output=json", path, status=1)
    bad = {(128 * KiB, 128 * KiB), (384 * KiB, 64 * KiB), (2 << 30, 2 << 30)}
    at, offsets = 0, set()
    for e in json.loads(out):
        assert e["start"] == at
        at += e["length"]
        key = (e["start"], e["length"])
        if key in bad:
            assert e == {"start": key[0], "length": key[1], "depth": depth,
                         "present": True, "zero": False, "data": True}
            bad.remove(key)
        elif e["data"]:
            offsets.add((e["start"], e["length"], e["offset"]))
    assert at == size and not bad
    assert len(offsets) == 2, offsets

    lines = err.splitlines()
    assert len(lines) == 4, err
    for line, (offset, n) in zip(lines, [(128, 128), (384, 64),
                                         (2 << 20, 2 << 20)]):
        assert re.search(f": offset {offset * KiB:#x}, length {n * KiB:#x} of "
                         f"the disk can't be read: .*x.qed is corrupt there",
                         line), line
    assert f"{(2 << 30) + 192 * KiB} bytes in total can't be read" in lines[3], err

    out, err = qedtest.qed_img("map", path, status=1)
    assert len(out.splitlines()) == 3, out
    assert err.splitlines() == lines
    # A range without damage gives exit code 0.
    qedtest.qed_img("map", "-l", "128k", path)

check("x.qed", 0, 4 << 30)
qedimg.Image(5 << 30, 4096, 16, backing="x.qed").save("over.qed")
check("over.qed", 1, 5 << 30)

name = b"a\x1b[31m\xff\n.qed"
img.save(name)
p, err = qedtest.qed_img("map", name, status=1)
assert "\\x1b[31m\\xff\\x0a.qed" in p, p
assert "\x1b" not in p + err, (p, err)
END
