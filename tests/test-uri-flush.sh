#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The server of the image's export loses what it has acknowledged, and is back
# before the next request, which is a flush: it fails.  So it does if the old
# connection only seems to be slow while others are opened.

source ./functions.sh nbd libnbd python-plugin

"$PYTHON" - <<'END'
import time
import nbd
import faulty, qedtest

MiB = 1 << 20
path = qedtest.TMP + "/device"
old, new = b"o" * 65536, b"n" * 65536

def started(**options):
    faulty.device(path, 3 * MiB, MiB, 65536, 1)
    return faulty.Volatile(path, **options)

with started() as v, qedtest.Server("qed", "uri=" + v.uri) as s:
    h = s.connect()
    h.pwrite(old, 0)
    h.flush()
    h.pwrite(new, 0)
    v.process.kill()
    v.process.wait()
    v.restart()
    for _ in range(2):
        try:
            h.flush()
            assert False, "the flush succeeded"
        except nbd.Error:
            pass
    assert h.pread(65536, 0) == old
    s.kill()

# The loss comes with a read, after the write.
now = qedtest.TMP + "/now"
with started(count="pread", action="lose", at=1, when=now) as v, \
     qedtest.Server("qed", "uri=" + v.uri) as s:
    h = s.connect()
    h.pwrite(old, 0)
    h.flush()
    h.pwrite(new, 0)
    open(now, "w").close()
    h.aio_pread(nbd.Buffer(65536), 0)
    time.sleep(0.5)
    flush = h.aio_flush()
    end = time.monotonic() + 3
    while time.monotonic() < end:
        h.poll(500)
    s.kill()                    # its end would fail, too
    assert not h.aio_command_completed(flush), "the flush succeeded"
END
