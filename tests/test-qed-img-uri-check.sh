#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause
# check of what an NBD server exports finds in damaged images what it finds in a
# file, and repairs the same.  The images are random, with damage and leaks.

source ./functions.sh nbd libnbd

cd $d
"$PYTHON" - <<'END'
import json, os, shlex, subprocess
import qedcheck, qedtest
from qedimg import UNSOUND

def check(name, *args):
    """Exit status, stdout and stderr without the name."""
    p = subprocess.run([*shlex.split(os.environ["QED_IMG"]), "check", *args,
                        name], capture_output=True, text=True)
    return (p.returncode, p.stdout.replace(name, "X"),
            p.stderr.replace(name, "X"))

statuses = set()
for seed in qedtest.some(range(12), 2):
    # No file ends with leaked clusters, because where an export ends says
    # nothing.
    image = qedcheck.random_image(seed)
    image.save("x.qed")
    _, out, _ = check("x.qed", "--output=json")
    end = json.loads(out)["image-end-offset"]
    os.truncate("x.qed", end)
    with qedtest.Server("file", qedtest.TMP + "/x.qed") as s:
        for args in (), ("-q",), ("-U",), ("--output=json",):
            want = check("x.qed", *args)
            assert check(s.uri, *args) == want, (seed, want)
            statuses.add(want[0])

    # Room for copies, with anything in it.
    image.save("x.raw")
    os.truncate("x.raw", end)
    with open("x.raw", "ab") as f:
        f.write(os.urandom(8 << 20))
    before = qedcheck.content("x.raw")
    with qedtest.Server("file", qedtest.TMP + "/x.raw") as s:
        result = check(s.uri, "-r", "all")
        assert result[0] == 0, (seed, result)
        result = check(s.uri)
        assert result[0] == 0 and "No errors were found" in result[1], result
    now = qedcheck.content("x.raw")
    for k in set(before) | set(now):
        if before.get(k) == UNSOUND:
            assert k not in now, k
        else:
            assert before.get(k) == now.get(k), k
assert statuses == {2, 3}, statuses
END

# An export has no locks, so nothing says that another program writes to it.
qed-img create -q y.qed 1M
start_nbdkit -n file file $d/y.qed
below=$uri
start_nbdkit qed uri="$below"
nbdsh -u "$uri" -c 'h.pread (512, 0)'
ends 0 qed-img check "$below"
grep -x 'No errors were found on the image.' ends.out
