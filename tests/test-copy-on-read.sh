#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# With copy-on-read=true what was read is in the image, data and zeros, for any
# kind of backing file: afterwards the image reads the same above garbage.  Each
# cluster is read once from below, also by many small requests at the same time.
# Clients see the same content and the same holes.  What is past the end of the
# backing file is not allocated.  Without the parameter nothing is kept.

source ./functions.sh nbd qemu nbdcopy libnbd filter:log

"$PYTHON" - <<'END'
import json, os, random, threading
import copying, qedtest
from qedtest import MiB

path = qedtest.TMP + "/x.qed"
raw = qedtest.TMP + "/got.raw"
want = qedtest.TMP + "/want.raw"

def read_at_random(s, disk, seed, end):
    """Four connections read, mostly in the same places."""
    def client():
        try:
            h = s.connect()
            r = random.Random(seed)             # the same for all
            for _ in range(150):
                n = int(2 ** r.uniform(0, 14))
                offset = r.randrange(end - n)
                qedtest.check_bytes(h.pread(n, offset), disk.read(offset, n),
                                    offset)
            good.append(seed)
        except BaseException as e:
            print(e)
            raise
    good = []
    threads = [threading.Thread(target=client) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(good) == 4

def check_read_once(reads):
    pos = twice = 0
    for offset, count in sorted(reads):
        twice += max(0, pos - offset)
        pos = max(pos, offset + count)
    assert twice == 0, f"{twice} bytes were read twice"

def is_kept(end):
    return copying.unallocated(path) == [(end, disk.size)]

for kind, cs in qedtest.some(((kind, cs) for kind in copying.Base.KINDS
                              for cs in (4096, 65536, 4 * MiB)), 4):
    print(kind, cs)
    r = random.Random(f"{kind} {cs}")
    # It ends inside a cluster, unless these are small.
    size = 6 * MiB + 4096 * r.randrange(1, 15)
    end = -(-size // cs) * cs
    with copying.Base(r, kind, size) as base:
        disk = base.overlay(path, end + 3 * cs + 512, cs)
        with qedtest.Server("qed", path, *base.args) as s:
            h = s.connect()
            qedtest.check_disk(h, disk)
            before = qedtest.extents(h)
            h.flush()
        assert copying.unallocated(path) == [(0, disk.size)]
        copying.save_sparse(disk, want)

        args = ["qed", path, "copy-on-read=true", *base.args]
        with qedtest.Server(*args) as s:
            h = s.connect()
            if kind == "nbd":
                os.truncate(base.log, 0)
            read_at_random(s, disk, cs, size)
            h.flush()
            qedtest.run("nbdcopy", "--flush", s.uri, raw)
            qedtest.run("cmp", raw, want)
            # nbdcopy doesn't read holes.
            qedtest.check_disk(h, disk)
            if kind == "nbd" and cs <= MiB:
                check_read_once(base.reads())
            qedtest.wait_until(lambda: h.flush() or is_kept(end))
            n = len(base.reads()) if kind == "nbd" else 0
            qedtest.check_disk(h, disk)
            read_at_random(s, disk, cs + 1, disk.size)
            assert kind != "nbd" or len(base.reads()) == n
            copying.holes_stay(before, qedtest.extents(h), disk)
            if kind == "raw":
                assert qedtest.extents(h) == before
            assert " error: " not in s.log(), s.log()
        base.delete()

    # The base is garbage now.
    assert is_kept(end)
    qedtest.check_image(path, copying.flat(disk), qemu=False)
    for args in copying.garbage(size), ["backing=none"]:
        with qedtest.Server("-r", "qed", path, *args) as s:
            qedtest.check_disk(s.connect(), disk)
    qedtest.qed_img("rebase", "-u", "-b", "", path)
    out, _ = qedtest.qed_img("map", "--output=json", path)
    for e in json.loads(out):
        if e["start"] < end:
            assert e["present"] and e["start"] + e["length"] <= end, e
        else:
            assert not e["present"], e
    copying.check_complete(path, disk)
END
