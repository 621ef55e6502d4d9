#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# nbdkit, qemu-io and qemu-nbd write to one overlay in turns.  After each turn
# all of them read the right content, and qemu-img finds no corruption.

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import os, random, subprocess
import qedimg, qedtest
from qedtest import MiB

def place(r, size):
    n = int(2 ** r.uniform(0, 17))
    return r.randrange(size - n), n

def by_nbdkit(r, o):
    with qedtest.Server("qed", o.path) as s:
        h = s.connect()
        qedtest.check_disk(h, o.disk)
        for _ in range(25):
            qedtest.random_op(r, h, o.disk, *place(r, o.disk.size))
        qedtest.check_disk(h, o.disk)

def by_qemu_io(r, o):
    commands = []
    for _ in range(12):
        # QEMU must write whole clusters, because it gets partial writes to
        # zero clusters wrong.
        offset, n = (v // 65536 * 65536 for v in place(r, o.disk.size - 65536))
        n += 65536
        byte = r.randrange(256)
        if r.random() < 0.3:
            commands += ["-c", f"write -z {offset} {n}"]
            o.disk.zero(n, offset)
        else:
            commands += ["-c", f"write -P {byte} {offset} {n}"]
            o.disk.write(bytes([byte]) * n, offset)
        commands += ["-c", "flush"]
    out = qedtest.run("qemu-io", "-f", "qed", *commands, o.path)
    assert "fail" not in out, out

def by_qemu_nbd(r, o):
    sock, pid = qedtest.TMP + "/q.sock", qedtest.TMP + "/q.pid"
    server = subprocess.Popen(["qemu-nbd", "-f", "qed", "-k", sock,
                               "--pid-file", pid, o.path])
    try:
        qedtest.wait_until(lambda: os.path.exists(pid))
        h = qedtest.connect("nbd+unix:///?socket=" + sock)
        qedtest.check_disk(h, o.disk)
        model = qedimg.Model(o.path)
        for _ in range(12):
            offset, n = place(r, o.disk.size)
            cs = model.cluster_size
            if any(model.lookup(c)[0] == qedimg.ZERO
                   for c in range(offset // cs, (offset + n - 1) // cs + 1)):
                continue        # see above
            b = r.randbytes(n)
            h.pwrite(b, offset)
            o.disk.write(b, offset)
        model.close()
        qedtest.check_disk(h, o.disk)
        h.shutdown()
        server.wait(60)
        os.unlink(pid)
    finally:
        server.kill()
        server.wait()

def check(o):
    refs = qedimg.References(o.path)
    refs.check_consistent()
    assert not refs.need_check()
    qedtest.qemu_check(o.path)
    o.check_below()
    with qedtest.Server("-r", "qed", o.path) as s:
        qedtest.check_disk(s.connect(), o.disk)

for kind, cs in qedtest.some((("full", 65536), ("short", 4096),
                              ("chain", 65536)), 1):
    r = random.Random(kind)
    o = qedtest.Overlay(r, kind, 8 * MiB + 512, cs, 2)
    for by in (by_nbdkit, by_qemu_io, by_nbdkit, by_qemu_nbd, by_nbdkit):
        by(r, o)
        check(o)
    # QEMU leaks what it zeroes.
    o.check(leaks=True)
END
