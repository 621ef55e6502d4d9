#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Overlays of random geometry are written, resized and rebased in turns.  The
# disk keeps its content, and has zeros where it has grown.

source ./functions.sh nbd

cd $d
"$PYTHON" - <<'END'
import os, random, sys
import qedimg, qedtest
from qedtest import MiB, qed_img

def raw_file(r, path):
    disk = qedtest.Disk(r.randrange(100000, 6 * MiB))
    for _ in range(r.randrange(8)):
        n = r.choice((1, 4096, 65536, 90000))
        # Some content is the same in all the files.
        b = random.Random(r.randrange(3)).randbytes(n)
        disk.write(b, r.randrange(disk.size - n))
    disk.save(path)
    return disk

def geometry(r):
    return (r.choice((4096, 8192, 65536, 1 << 19, 1 << 22)),
            r.choice((1, 2, 4, 16)))

def some_size(r, below=5 * MiB):
    return r.randrange(1, below // 512) * 512

def backing_args(name):
    return ["-b", name] + (["-F", name[2:]] if name else [])

def read(path):
    with qedtest.Server("-r", "qed", path) as s:
        h = s.connect()
        return bytearray(h.pread(h.get_size(), 0))

def write(r, data):
    with qedtest.Server("qed", "x.qed") as s:
        h = s.connect()
        for _ in range(5):
            n = min(r.choice((1, 512, 70000, 300000)), len(data))
            offset = r.randrange(len(data) - n + 1)
            b = bytes(n) if r.random() < 0.3 else r.randbytes(n)
            h.pwrite(b, offset) if any(b) else h.zero(n, offset)
            data[offset:offset + n] = b

def rebase(r, data, names):
    qed_img("rebase", *backing_args(r.choice(names)), "x.qed")

def grow(r, data, names):
    more = some_size(r)
    qed_img("resize", "x.qed", f"+{more}")
    data += bytes(more)

def shrink(r, data, names):
    size = some_size(r, len(data) + 512)
    qed_img("resize", "--shrink", "x.qed", str(size))
    del data[size:]

for seed in qedtest.some(range(5), 2):
    r = random.Random(seed)
    a = raw_file(r, "a.raw")
    raw_file(r, "b.raw")
    qedtest.save_layer(r, "c.qed", qedtest.Disk(some_size(r), a), "a.raw",
                       True, 8192, 2)
    names = ["", "a.raw", "b.raw", "c.qed"]
    cs, ts = geometry(r)
    qed_img("create", *backing_args(r.choice(names[1:])), "-o",
            f"cluster_size={cs},table_size={ts}", "x.qed", str(some_size(r)))
    data = read("x.qed")
    before = [open(n, "rb").read() for n in names if n]
    for _ in range(8):
        what = r.choice((write, rebase, rebase, grow, shrink))
        if what == write:
            write(r, data)
        else:
            what(r, data, names)
        print(seed, cs, ts, what.__name__, len(data), file=sys.stderr)
        got = read("x.qed")
        assert len(got) == len(data)
        qedtest.check_bytes(bytes(got), bytes(data), 0)
        refs = qedimg.References("x.qed")
        refs.check_consistent()
        assert not refs.need_check()
        if what == shrink:
            qed_img("check", "x.qed")
    assert before == [open(n, "rb").read() for n in names if n]
END
