#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A hostile image: two million L1 entries point to one table with a million bad
# entries.  Memory and output are bounded.

source ./functions.sh nbd
skip_if_instrumented "memory"

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
