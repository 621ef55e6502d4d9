#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# -r leaks does nothing to a corrupt image: a cluster that looks leaked may be
# one that a damaged entry used to point to.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import json
import qedcheck, qedimg, qedtest

path = qedtest.TMP + "/r.qed"
img = qedimg.Image(10 << 20, features=qedimg.F_NEED_CHECK)
img.data(0)
img.entry(1, 1 << 40)
img.alloc(3)
img.save(path)
c = qedcheck.Check(path)
assert (c.corruptions, c.leaks) == (1, 3)
with open(path, "rb") as f:
    before = f.read()
for args in ([], ["--output=json"], ["-q"]):
    out, err, *_ = qedcheck.check(path, "-r", "leaks", *args, status=2)
    assert err.endswith(": see -r all\n") and "nothing was changed" in err, err
    assert err.count(f"qed-img: {path}: ") == 1, err
    if args == []:
        assert "1 errors were found" in out, out
        assert "3 leaked clusters" in out, out
        assert "repaired" not in out, out
    elif args == ["-q"]:
        assert out == "", out
    else:
        assert json.loads(out) == c.json(path), out
    with open(path, "rb") as f:
        assert f.read() == before
END
