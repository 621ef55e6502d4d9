#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# With dir= an image streams as long as a connection to it is open.  The next
# connection goes on where that was: what is in the image stays where it is, and
# isn't read again.  Other images aren't touched.

source ./functions.sh nbd libnbd filter:log

"$PYTHON" - <<'END'
import os, random, shutil, time
import copying, qedimg, qedtest
from qedtest import MiB, TMP

os.mkdir(TMP + "/dir")
path = TMP + "/dir/x.qed"
other = TMP + "/dir/other.qed"

def is_closed(s):
    return not any(os.path.exists(p) and os.path.samefile(p, path)
                   for p in (f"/proc/{s.pid()}/fd/{fd}"
                             for fd in os.listdir(f"/proc/{s.pid()}/fd")))

def clusters():
    """Where each data cluster is in the file."""
    model = qedimg.Model(path)
    result = {r.start: r.offset for r in model.runs() if r.kind == qedimg.DATA}
    model.close()
    return result

def content(path):
    with open(path, "rb") as f:
        return f.read()

r = random.Random(8)
size = 4 * MiB
with copying.Base(r, "nbd", size, full=True) as base:
    disk = base.overlay(path, size + MiB, 65536, 4)
    shutil.copy(path, other)
    before = content(other)
    with qedtest.Server("-v", "-D", "qed.stream=1", "qed", "dir=" + TMP
                        + "/dir", "stream=true", "stream-rate=1M",
                        *base.args) as s:
        def connect(name="x.qed"):
            return qedtest.connect(s.uri.replace("///", "///" + name))

        # Nothing happens without a connection.
        time.sleep(0.5)
        assert base.reads() == [] and clusters() == {}

        was = {}
        for part in 1, 2:
            h = connect()
            qedtest.check_range(h, disk, size - 65536, size)
            b = bytes([part]) * 4096
            h.pwrite(b, size + part * 65536)
            disk.write(b, size + part * 65536)
            h.flush()
            qedtest.wait_until(lambda: h.flush() or
                               len(clusters()) >= len(was) + 10)
            h.shutdown()
            qedtest.wait_until(lambda: is_closed(s))
            assert copying.COMPLETE not in s.log(), s.log()
            now = clusters()
            assert was.items() <= now.items()
            was = now
            reads = len(base.reads())
            qedtest.check_image(path, disk, qemu=False)
            # The image is closed, durable and free for others.
            qedtest.qed_img("check", path)
            time.sleep(0.5)
            assert len(base.reads()) == reads and clusters() == was

        h, h2 = connect(), connect()
        qedtest.wait_until(lambda: copying.COMPLETE in s.log())
        assert not copying.has_backing(path)
        h2.shutdown()
        h.pwrite(b"!" * 100, 12345)
        disk.write(b"!" * 100, 12345)
        qedtest.check_disk(h, disk)
        h.shutdown()
        qedtest.wait_until(lambda: is_closed(s))
        assert was.items() <= clusters().items()
        # Besides what was under way when the connections were closed, and what
        # they have read, each byte was read once.
        n = sum(count for _, count in base.reads())
        assert size <= n <= size * 3 // 2, n
        copying.check_complete(path, disk)
        # It is complete for the next connection, too.
        h = connect()
        qedtest.check_disk(h, disk)
        h.shutdown()
        assert " error: " not in s.log(), s.log()
    assert content(other) == before
    base.delete()
copying.check_complete(path, disk)

# A base that hangs doesn't keep an image open that has no connection any more.
os.unlink(path)
with copying.Base(r, "nbd", size, full=True) as base:
    disk = base.overlay(path, size, 65536, 4)
    with qedtest.Server("qed", "dir=" + TMP + "/dir", "stream=true",
                        "stream-rate=1M", *base.args) as s:
        h = qedtest.connect(s.uri.replace("///", "///x.qed"))
        qedtest.wait_until(lambda: len(base.reads()) > 2)
        base.hang(True)
        time.sleep(1)           # a read is under way now
        h.shutdown()
        qedtest.wait_until(lambda: is_closed(s))
        base.hang(False)
        h = qedtest.connect(s.uri.replace("///", "///x.qed"))
        qedtest.check_disk(h, disk)
        qedtest.wait_until(lambda: not copying.has_backing(path))
        h.shutdown()
copying.check_complete(path, disk)
END
