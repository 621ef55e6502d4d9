#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Output, JSON and exit codes are those of qemu-img check, where that is right.
# qemu-img does not print the end of the image.

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import json, subprocess
import qedimg, qedtest

path = qedtest.TMP + "/r.qed"

def run(*argv):
    p = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True,
                       text=True, timeout=60)
    return p.returncode, p.stdout

def lines(s):
    # QEMU writes an empty line first if there are errors, after nothing.
    return [l for l in s.splitlines()
            if l and not l.startswith("Image end offset: ")]

def compare(what):
    want = run("qemu-img", "check", "-f", "qed", path)
    out, err = qedtest.qed_img("check", "-f", "qed", path, status=want[0])
    got = [l for l in lines(out) if not l.startswith(("    offset", what))]
    assert got == lines(want[1]), (out, want)

    want = run("qemu-img", "check", "--output=json", path)
    out, err = qedtest.qed_img("check", "--output=json", path, status=want[0])
    got = json.loads(out)
    assert got.pop("image-end-offset") > 0
    assert got == json.loads(want[1]), (got, want)

    want = run("qemu-img", "check", "-q", "--output=json", path)
    out, err = qedtest.qed_img("check", "-q", "--output=json", path,
                               status=want[0])
    assert (out, err) == (want[1], ""), (out, err)
    return want[0]

def image(size=3 << 30, cs=65536, ts=4):
    img = qedimg.Image(size, cs, ts)
    for c in (0, 1, 2, 9, 8, 7, img.n - 1, img.n, img.n + 1, img.n + 9):
        img.data(c)
    img.zero(3)
    return img

for size in (0, 512, 1 << 40):
    run("qemu-img", "create", "-f", "qed", path, str(size))
    assert compare("none") == 0
image().save(path)
assert compare("none") == 0
image(1 << 30, 4096, 16).save(path)
assert compare("none") == 0

img = image()
img.alloc(7)
img.save(path)
assert compare("none") == 3

# Each owner of a cluster but one is an error for both.
img = image()
for c in (20, 21):
    img.entry(c, img.entries[img.table(0) * 65536])
img.alloc(7)
img.save(path)
assert compare("Data clusters with") == 2
END
