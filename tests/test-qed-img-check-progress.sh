#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# With -p a check shows progress on a terminal, and only there.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import re
import qedimg, qedtest

path = qedtest.TMP + "/r.qed"

def build():
    img = qedimg.Image(64 << 20, 4096, 4)
    for c in range(0, 2000, 2):
        img.data(c, b"x")
        if c % 70 == 0:
            img.alloc()
    img.save(path)

step = r"    \((\d+\.\d\d)/100%\)\r"
for args, status in (([], 3), (["--output=json"], 3),
                     (["-r", "leaks"], 0), (["-r", "all"], 0)):
    build()
    got, out = qedtest.on_terminal("check", "-p", *args, path)
    assert got == status, (got, out)
    # The terminal makes "\r\n" of a newline.
    m = re.match(f"((?:{step})+)\r\n", out)
    assert m, out
    steps = [float(s) for s in re.findall(step, m[1])]
    assert steps == sorted(steps) and steps[-1] == 100, steps
    assert "%)\r" not in out[m.end():], out
    if "--output=json" in args:
        assert out[m.end():].startswith("{\r\n"), out

    build()
    assert "%)" not in qedtest.on_terminal("check", *args, path)[1]
    build()
    out, err = qedtest.qed_img("check", "-p", *args, path, status=status)
    assert "%)" not in out + err, out + err
    build()
    assert qedtest.on_terminal("check", "-p", "-q", *args, path) == (status, "")
END
