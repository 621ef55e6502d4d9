#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The server of the export that has the image loses its power at any request:
# what was flushed is there, each other sector is old or new, and what the
# export had behind the image is never seen.  The check notices a server that
# forgets what was flushed.

source ./functions.sh nbd libnbd python-plugin

"$PYTHON" - <<'END'
import os
import random
import shutil
import faulty, qedimg, qedtest

MiB = 1 << 20
path, base = qedtest.TMP + "/device", qedtest.TMP + "/base.raw"
SIZE = MiB

def run(k, cs, seed, backed, **options):
    """Returns whether the server has died, and whether the content is right
    then."""
    r = random.Random(seed)
    below = r.randbytes(512) * (SIZE // 1024) if backed else b""
    faulty.device(path, 3 * MiB, SIZE, cs, 1,
                  backing="base.raw" if backed else None)
    sectors = faulty.Sectors(SIZE, below)
    with open(base, "wb") as f:
        f.write(below)
    args = ["backing=" + base, "backing-format=raw"] if backed else []
    with faulty.Volatile(path, at=k, seed=seed, **options) as v:
        try:
            with qedtest.Server("qed", "uri=" + v.uri, *args) as s:
                h = s.connect()
                failed = faulty.work(h, sectors, r, 60)
                if not failed:
                    sectors.check(h, False)
                s.kill()
        except qedtest.nbd.Error:
            failed = 1          # it died when the image was made writable
        if failed:
            qedtest.wait_until(v.has_died)
        died = v.has_died()
    refs = qedimg.References(path)
    refs.check_consistent()
    with faulty.Volatile(path) as v, \
         qedtest.Server("-r", "qed", "uri=" + v.uri, *args) as s:
        sectors.check(s.connect(), True)
    # The repair at the opening for writing changes nothing.
    with faulty.Volatile(path) as v, \
         qedtest.Server("qed", "uri=" + v.uri, *args) as s:
        sectors.check(s.connect(), True)
    return died

deaths = 0
for i, k in enumerate(qedtest.some(list(range(1, 25)) + [30, 40, 55, 80, 110],
                                   3)):
    for backed in (False, True):
        deaths += run(k, 4096 if i % 2 else 65536, i, backed,
                      action="die" if i % 3 else "die-after",
                      zero="false" if i % 4 == 0 else "true",
                      multi="false" if i % 5 == 0 else "true")
assert deaths > i

# A server that forgets must be noticed.
noticed = 0
for i in range(12):
    try:
        run(20 + 3 * i, 4096, i, i % 2 == 1, action="die", forget="true")
    except AssertionError:
        noticed += 1
assert noticed > 3, noticed
END
