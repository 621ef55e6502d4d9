#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# nbdkit, qemu-io and qemu-nbd write to one image in turns.  After each turn
# all of them read the right content, and qemu-img finds no corruption.

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import os, random, subprocess
import qedimg, qedtest

path = qedtest.TMP + "/i.qed"
MiB = 1 << 20

def place(r, size):
    n = int(2 ** r.uniform(0, 18))
    return r.randrange(size - n), n

def by_nbdkit(r, disk):
    with qedtest.Server("qed", path) as s:
        h = s.connect()
        qedtest.check_disk(h, disk)
        for _ in range(30):
            qedtest.random_op(r, h, disk, *place(r, disk.size))
        qedtest.check_disk(h, disk)

def by_qemu_io(r, disk):
    commands = []
    for _ in range(15):
        offset, n = place(r, disk.size)
        offset, n = offset // 512 * 512, n // 512 * 512 + 512
        if offset + n > disk.size:
            continue
        byte = r.randrange(256)
        if r.random() < 0.3:
            commands += ["-c", f"write -z {offset} {n}"]
            disk.zero(n, offset)
        else:
            commands += ["-c", f"write -P {byte} {offset} {n}"]
            disk.write(bytes([byte]) * n, offset)
        commands += ["-c", "flush"]
    out = qedtest.run("qemu-io", "-f", "qed", *commands, path)
    assert "fail" not in out, out

def by_qemu_nbd(r, disk):
    sock, pid = qedtest.TMP + "/q.sock", qedtest.TMP + "/q.pid"
    server = subprocess.Popen(["qemu-nbd", "-f", "qed", "-k", sock,
                               "--pid-file", pid, path])
    try:
        qedtest.wait_until(lambda: os.path.exists(pid))
        h = qedtest.connect("nbd+unix:///?socket=" + sock)
        qedtest.check_disk(h, disk)
        for _ in range(15):
            offset, n = place(r, disk.size)
            b = r.randbytes(n)
            h.pwrite(b, offset)
            disk.write(b, offset)
        qedtest.check_disk(h, disk)
        h.shutdown()
        server.wait(60)
        os.unlink(pid)
    finally:
        server.kill()
        server.wait()

def check(disk):
    refs = qedimg.References(path)
    refs.check_consistent()
    assert not refs.need_check()
    qedtest.qemu_check(path)
    with qedtest.Server("-r", "qed", path) as s:
        qedtest.check_disk(s.connect(), disk)

for cs, ts in qedtest.some(((4096, 2), (65536, 4), (1 << 20, 2)), 1):
    r = random.Random(cs)
    size = 16 * MiB + 512
    subprocess.run(["qemu-img", "create", "-q", "-f", "qed", "-o",
                    f"cluster_size={cs},table_size={ts}", path, str(size)],
                   check=True)
    disk = qedtest.Disk(size)
    for by in (by_nbdkit, by_qemu_io, by_nbdkit, by_qemu_nbd, by_nbdkit):
        by(r, disk)
        check(disk)
    # QEMU leaks what it zeroes.
    qedtest.check_image(path, disk, leaks=True)
END
