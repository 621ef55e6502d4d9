#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Any request to the server of the image's export fails, the server cuts the
# connections, or it dies and comes back, while it is used.  Requests under way fail.  If an acknowledged
# write may be lost nothing more is written, and a flush says so; else all goes
# on.  The image stays consistent, and each sector is old or new.

source ./functions.sh nbd libnbd python-plugin

"$PYTHON" - <<'END'
import random
import nbd
import faulty, qedimg, qedtest

MiB = 1 << 20
path = qedtest.TMP + "/device"
SIZE = MiB

def flush_works(h):
    try:
        h.flush()
        return True
    except nbd.Error:
        return False

def readable(h, v):
    """A server that has returned is used after a second."""
    def read():
        if v.has_died():
            v.restart()
        try:
            h.pread(SIZE, 0)
            return True
        except nbd.Error:
            return False
    qedtest.wait_until(read)

def run(k, seed, **options):
    """Returns whether writing went on."""
    r = random.Random(seed)
    cs = r.choice((4096, 65536))
    faulty.device(path, 3 * MiB, SIZE, cs, 1)
    sectors = faulty.Sectors(SIZE)
    with faulty.Volatile(path, at=k, seed=seed, **options) as v:
        with qedtest.Server("qed", "uri=" + v.uri) as s:
            h = None
            while h is None:    # making it writable fails
                try:
                    h = s.connect()
                except nbd.Error:
                    if v.has_died():
                        v.restart()
            for _ in range(100):
                faulty.work(h, sectors, r, 5)
                readable(h, v)
                if v.has_gone_wrong():
                    break
            assert v.has_gone_wrong()
            if "die" in options["action"]:
                qedtest.wait_until(lambda: v.restarted or v.has_died())
                readable(h, v)
            # From here on nothing goes wrong.
            works = flush_works(h)
            if works:
                sectors.flushed()
                failed = faulty.work(h, sectors, r, 10)
                assert failed == 0, (k, options, s.log())
            sectors.check(h, not works)
            if not works:
                s.kill()        # its end would fail, too
        refs = qedimg.References(path)
        refs.check_consistent()
        assert not works or not refs.need_check()
    with faulty.Volatile(path) as v, \
         qedtest.Server("qed", "uri=" + v.uri) as s:
        sectors.check(s.connect(), not works)
    return works

works = {}
for action in "error", "die", "die-after", "cut":
    for count in "pwrite", "flush", "zero", "pread":
        for k in qedtest.some((1, 3, 9), 2):
            if count == "pread":
                k += 8          # the first ones are made before it starts
            result = run(k, k * 7, action=action, count=count)
            works.setdefault((action, count), set()).add(result)
for key, results in works.items():
    print(*key, "goes on:", results)
# A failed flush is never repeated; a failed read loses nothing.
assert works["error", "flush"] == {False}
assert works["error", "pread"] == {True}
assert True in works["error", "pwrite"]
assert works["die", "pwrite"] == {False}
assert False in works["cut", "pwrite"]
END
