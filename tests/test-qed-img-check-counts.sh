#!/usr/bin/env bash
# nbdkit-qed
# Copyright (C) 2026 nbdkit-qed authors
#
# Redistribution and use in source and binary forms, with or without
# modification, are permitted provided that the following conditions are
# met:
#
# * Redistributions of source code must retain the above copyright
# notice, this list of conditions and the following disclaimer.
#
# * Redistributions in binary form must reproduce the above copyright
# notice, this list of conditions and the following disclaimer in the
# documentation and/or other materials provided with the distribution.
#
# * Neither the name of nbdkit-qed nor the names of its contributors may be
# used to endorse or promote products derived from this software without
# specific prior written permission.
#
# THIS SOFTWARE IS PROVIDED BY THE AUTHORS AND CONTRIBUTORS ''AS IS'' AND
# ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO,
# THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A
# PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE AUTHORS OR
# CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
# SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT
# LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF
# USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND
# ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY,
# OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT
# OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF
# SUCH DAMAGE.

source ./functions.sh
set -e
set -x
requires_nbd

# Counts, ranges, JSON and exit code against a model, for images with damages
# and leaks at random.  The image isn't changed.  To look further:
#
#     make check TESTS=test-qed-img-check-counts.sh QED_SEED=1000 \
#         QED_ROUNDS=500
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
