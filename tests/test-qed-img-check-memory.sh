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
skip_if_instrumented "memory"

# An image made to annoy: two million L1 entries that point to one table of
# a million entries that are wrong.  Memory and output are bounded.
"$PYTHON" - <<'END'
import array
import qedcheck, qedimg, qedtest

path = qedtest.TMP + "/r.qed"
cs, ts = 1 << 20, 16
img = qedimg.Image(1 << 60, cs, ts)
n = img.n
at = img.table(0) * cs
img.save(path)
with open(path, "r+b") as f:
    f.seek(img.l1_at * cs)
    f.write(array.array("Q", [at]).tobytes() * n)
    f.seek(at)
    # Every other one, so that nothing can be merged.
    f.write(array.array("Q", [7, 1]).tobytes() * (n // 2))
before = qedcheck.peak_memory()
out, err, ranges, _ = qedcheck.check(path, status=2)
assert f"{n // 2 + n - 1} errors were found" in out, out
assert len(out) < 20000, len(out)
assert f"    and more, from offset {200 * cs:#x} on\n" in out, out
assert qedcheck.peak_memory() < 40 << 20, qedcheck.peak_memory()
END
