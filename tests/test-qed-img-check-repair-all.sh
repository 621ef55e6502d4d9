#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# After -r all no damage is left.  Content that could be read is the same, each
# owner of a shared cluster has its own copy, and entries that could not be
# followed are unallocated.  The images are random, with damage and leaks.  To
# look further:
#
#     make check TESTS=test-qed-img-check-repair-all.sh QED_SEED=1000 \
#         QED_ROUNDS=500

source ./functions.sh nbd

"$PYTHON" - <<'END'
import json, os
import qedcheck, qedimg, qedtest
from qedimg import UNSOUND

path = qedtest.TMP + "/r.qed"
seed = int(os.environ.get("QED_SEED", 0))
rounds = int(os.environ.get("QED_ROUNDS", len(qedtest.some(range(40)))))
for seed in range(seed, seed + rounds):
    print("seed", seed)
    qedcheck.random_image(seed).save(path)
    c = qedcheck.Check(path)
    before = qedcheck.content(path)
    args = ["--output=json"] if seed % 2 else []
    out, err, ranges, beyond = qedcheck.check(path, "-r", "all", *args)

    # The repair reports the damaged ranges.
    want = {k: qedcheck.merged(r) for k, r in c.damages.items()
            if r or c.beyond[k]}
    assert ranges == want, (ranges, want)
    assert beyond == {k: n for k, n in c.beyond.items() if n}, beyond
    if args:
        fixed = json.loads(out)
        leaks_fixed = fixed.pop("leaks-fixed", 0)
        fixed = fixed.pop("corruptions-fixed", 0)
    else:
        leaks_fixed = c.leaks
        assert out.count("No errors were found") == 1, out
        fixed = (int(out.split(" corruptions\n")[0].split()[-1])
                 if " corruptions\n" in out else 0)
    # A repair copies overlapping tables.  It fixes the entries of a copy as
    # well, and these may use clusters that seemed to be leaked.
    if c.damages[qedcheck.SHARED_TABLE] or c.beyond[qedcheck.SHARED_TABLE]:
        assert fixed >= c.corruptions, (fixed, c.corruptions)
    else:
        assert fixed == c.corruptions, (fixed, c.corruptions)
        assert leaks_fixed >= c.leaks, (leaks_fixed, c.leaks)
    qedcheck.expect_clean(path)

    now = qedcheck.content(path)
    # Content that could be read is the same, even if its cluster was inside a
    # table.
    for k in set(before) | set(now):
        if before.get(k) == UNSOUND:
            assert k not in now, k
        else:
            assert before.get(k) == now.get(k), k
    with open(path, "rb") as f:
        b = f.read()
    qedcheck.check(path, "-r", "all")
    with open(path, "rb") as f:
        assert f.read() == b
    c.close()
END
