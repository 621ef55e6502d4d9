#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Links that wait for a commit, all over a disk of 1 TiB, take no more memory
# than cache-size allows.  Too many of them cause a commit.  (I7)

source ./functions.sh nbd
skip_if_instrumented "the size of memory"

"$PYTHON" - <<'END'
import os, random
import qedimg, qedtest
from qedtest import MiB

T = 1 << 40
path = qedtest.TMP + "/m.qed"
with open(qedtest.TMP + "/base.raw", "wb") as f:
    f.truncate(T)

def peak(size, cache):
    r = random.Random(6)
    qedimg.Image(T, backing="base.raw",
                 features=qedimg.F_BACKING_FORMAT_NO_PROBE).save(path)
    places = [r.randrange(size // 512) * 512 for _ in range(4000)]
    with qedtest.Server("qed", path, "cache-size=" + cache) as s:
        h = s.connect()
        for i, at in enumerate(places):
            h.pwrite(b"%07d|" % i * 64, at)
        used = s.memory("VmHWM")
        wrote = dict(zip(places, range(4000)))
        for at in r.sample(places, 300):
            assert h.pread(512, at) == b"%07d|" % wrote[at] * 64, at
    qedimg.References(path).check_clean()
    return used

base = peak(64 * MiB, "64k")
for cache, limit in (("64k", 3 * MiB), ("8M", 11 * MiB)):
    used = peak(T, cache) - base
    print(f"cache-size {cache}: {used / MiB:.1f} MiB more than the "
          f"{base / MiB:.1f} MiB for a small part of the disk")
    assert used < limit
END
