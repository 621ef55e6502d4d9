#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# With dir= all connections to an image share it, by whatever name: what one
# writes the other reads.  The first connection opens it and the last one closes
# it, which leaves it durable and clean, and open to other processes.

source ./functions.sh nbd nbdinfo

"$PYTHON" - <<'END'
import os, threading
import nbd, qedimg, qedtest

MiB = 1 << 20
os.mkdir(qedtest.TMP + "/dir")
os.chdir(qedtest.TMP + "/dir")
path = "x.qed"
size = 16 * MiB
qedimg.Image(size).save(path)
os.symlink("x.qed", "link")
os.link("x.qed", "hard")
disk = qedtest.Disk(size)

def dirty():
    with open(path, "rb") as f:
        return f.read(17)[16] & qedimg.F_NEED_CHECK

def is_open(s):
    fds = f"/proc/{s.pid()}/fd"
    for fd in os.listdir(fds):
        try:
            if os.path.samefile(f"{fds}/{fd}", path):
                return True
        except FileNotFoundError:
            pass
    return False

with qedtest.Server("qed", "dir=.") as s:
    def connect(name):
        return qedtest.connect(s.uri.replace("///", "///" + name))
    assert not is_open(s)
    handles = [connect(n) for n in ("x.qed", "link", "hard")]
    for i, h in enumerate(handles):
        b = bytes([65 + i]) * 1000
        h.pwrite(b, i * MiB)
        disk.write(b, i * MiB)
        for g in handles:
            qedtest.check_disk(g, disk)
    assert dirty()
    # As long as one is left the image is open.
    for h in handles[:2]:
        h.shutdown()
    handles[2].pwrite(b"!", 5 * MiB)
    disk.write(b"!", 5 * MiB)
    qedtest.qed_img("resize", path, "32M", status=1)
    handles[2].shutdown()
    qedtest.wait_until(lambda: not is_open(s))
    assert not dirty()
    qedtest.check_image(path, disk, qemu=False)
    # Another process may have it now.
    qedtest.qed_img("resize", path, "32M")
    disk.size = 32 * MiB
    h = connect("link")
    qedtest.check_disk(h, disk)
    h.shutdown()

    # Connections come and go, in parallel.
    def use(n):
        try:
            for i in range(30):
                h = connect(("x.qed", "link", "hard")[(i + n) % 3])
                h.pwrite(bytes([n + 1, i + 1]) * 256,
                         (8 + n) * MiB + i * 4096)
                assert h.pread(1, MiB) == b"B"
                h.shutdown()
            done.append(n)
        except nbd.Error as e:
            print(n, e)
    done = []
    threads = [threading.Thread(target=use, args=(n,)) for n in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(done) == 6, s.log()
    for n in done:
        for i in range(30):
            disk.write(bytes([n + 1, i + 1]) * 256, (8 + n) * MiB + i * 4096)
    qedtest.wait_until(lambda: not is_open(s))
    assert not dirty()
    assert "error" not in s.log(), s.log()
    qedtest.check_image(path, disk, qemu=False)

    # Whoever has it open elsewhere keeps it: then the next one may.
    with qedtest.Server("qed", path) as other:
        h = other.connect()
        try:
            connect("x.qed")
            assert False
        except nbd.Error:
            assert "another process" in s.log(), s.log()
    connect("x.qed").shutdown()

    # nbdkit ends while an image is in use.
    h = connect("x.qed")
    h.pwrite(b"last", 20 * MiB)
    disk.write(b"last", 20 * MiB)
    assert dirty()
    s.handles.append(h)
qedtest.check_image(path, disk, qemu=False)
END
