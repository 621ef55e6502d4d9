#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The counts, ranges, JSON and exit code of a check equal those of a model.
# The images are random, with damage and leaks.  They do not change.  To look
# further:
#
#     make check TESTS=test-qed-img-check-counts.sh QED_SEED=1000 \
#         QED_ROUNDS=500

source ./functions.sh nbd

"$PYTHON" - <<'END'
import os
import qedcheck, qedtest

path = qedtest.TMP + "/r.qed"
seed = int(os.environ.get("QED_SEED", 0))
rounds = int(os.environ.get("QED_ROUNDS", len(qedtest.some(range(100)))))
kinds = set()
for seed in range(seed, seed + rounds):
    print("seed", seed)
    qedcheck.random_image(seed).save(path)
    with open(path, "rb") as f:
        before = f.read()
    c = qedcheck.expect(path)
    kinds |= {k for k, r in c.damages.items() if r}
    with open(path, "rb") as f:
        assert f.read() == before
assert rounds < 100 or kinds == set(qedcheck.KINDS), kinds
END
