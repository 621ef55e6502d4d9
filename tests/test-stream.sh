#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# With stream=true the image becomes complete while it is served, above any kind
# of backing file: clients see the same content before, meanwhile and after;
# then the header names no backing file, the server has it closed, and it can be
# deleted.  The server goes on to write.  QEMU finds the image in order and
# reads the same, and its clusters are in the order of the disk.

source ./functions.sh nbd qemu libnbd filter:log

"$PYTHON" - <<'END'
import json, os, random
import copying, qedimg, qedtest
from qedtest import MiB

path = qedtest.TMP + "/x.qed"
copy = qedtest.TMP + "/copy.raw"

def open_files(s):
    """What the server has open, but sockets, and its children's."""
    result = []
    for pid in [s.pid()] + children(s):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                result.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
            except FileNotFoundError:
                pass
    return result

def children(s):
    with open(f"/proc/{s.pid()}/task/{s.pid()}/children") as f:
        return [int(pid) for pid in f.read().split()]

def check_fragments():
    out, _ = qedtest.qed_img("check", "--output=json", path)
    out = json.loads(out)
    assert "leaks" not in out and "corruptions" not in out, out
    # Each L2 table can be between two clusters, and there are two at most.
    assert (out.get("fragmented-clusters", 0)
            <= max(out["allocated-clusters"] // 100, 2)), out

for kind, cs in qedtest.some(((kind, cs) for kind in copying.Base.KINDS
                              for cs in (4096, 65536, 4 * MiB)), 4):
    print(kind, cs)
    r = random.Random(f"{kind} {cs}")
    size = 9 * MiB + 4096 * r.randrange(1, 15)
    with copying.Base(r, kind, size) as base:
        disk = base.overlay(path, 12 * MiB + 512, cs)
        assert copying.has_backing(path)
        with qedtest.Server("-r", "qed", path, *base.args) as s:
            before = qedtest.extents(s.connect())
        with qedtest.Server("-v", "-D", "nbdkit.backend.controlpath=0",
                            "-D", "nbdkit.backend.datapath=0",
                            "qed", path, "stream=true", *base.args) as s:
            h = s.connect()
            while copying.COMPLETE not in s.log():
                qedtest.check_disk(h, disk)
                assert s.process.poll() is None
                h.poll(50)
            assert s.log().count(copying.COMPLETE) == 1, s.log()
            assert " error: " not in s.log(), s.log()
            assert not copying.has_backing(path)
            for name in open_files(s):
                assert "base" not in name and "layer" not in name, name
            qedtest.wait_until(lambda: not children(s))
            base.delete()
            qedtest.check_disk(h, disk)
            after = qedtest.extents(h)
            copying.holes_stay(before, after, disk)
            holes = [e for e in after if e.flags & qedtest.HOLE_FLAG]
            assert holes[-1].start <= -(-size // 4096) * 4096, holes
        copying.check_complete(path, disk)
        assert qedimg.References(path).leaks == 0
        check_fragments()

        # Once more, when there is nothing to copy.
        disk = copying.flat(disk)
        with qedtest.Server("-v", "qed", path, "stream=true",
                            "copy-on-read=true") as s:
            copying.wait_complete(s)
            qedtest.check_disk(s.connect(), disk)
        copying.check_complete(path, disk)

    # A server writes after it was complete.
    with copying.Base(r, kind, size) as base:
        disk = base.overlay(path, 12 * MiB + 512, cs)
        with qedtest.Server("-v", "qed", path, "stream=true",
                            *base.args) as s:
            copying.wait_complete(s)
            base.delete()
            h = s.connect()
            for _ in range(60):
                n = int(2 ** r.uniform(0, 17))
                qedtest.random_op(r, h, disk, r.randrange(disk.size - n), n)
            h.flush()
            qedtest.check_disk(h, disk)
            assert " error: " not in s.log(), s.log()
        copying.check_complete(path, disk)
        if cs < 4 * MiB:
            copying.save_sparse(disk, copy)
            qedtest.run("qemu-img", "compare", "-f", "qed", "-F", "raw", path,
                        copy)
END
