#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# With -p resize and rebase show progress on a terminal, and otherwise they do
# not.

source ./functions.sh nbd

cd $d
"$PYTHON" - <<'END'
import re
import qedimg, qedtest

with open("old.raw", "wb") as f:
    f.write(b"old " * (4 << 18))
with open("new.raw", "wb") as f:
    f.write(b"new " * (4 << 18))

def build():
    img = qedimg.Image(64 << 20, 4096, 4)
    for c in range(0, 2000, 2):
        img.data(c, b"x")
    img.save("r.qed")
    qedtest.qed_img("rebase", "-u", "-b", "old.raw", "-F", "raw", "r.qed")

step = r"    \((\d+\.\d\d)/100%\)\r"
for verb, *args in (("resize", "--shrink", "r.qed", "2M"),
                    ("resize", "r.qed", "70M"),
                    ("rebase", "-b", "new.raw", "-F", "raw", "r.qed")):
    build()
    status, out = qedtest.on_terminal(verb, "-p", *args)
    assert status == 0, out
    m = re.match(f"((?:{step})+)\r\n", out)
    assert m, out
    steps = [float(s) for s in re.findall(step, m[1])]
    assert steps == sorted(steps) and steps[-1] == 100, steps
    build()
    assert "%)" not in qedtest.on_terminal(verb, *args)[1]
END
