#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# When the host's filesystem is full copying pauses, and says so once.  Reads
# and flushes never fail for that.  With room again it goes on by itself: with
# stream=true the image becomes complete, with copy-on-read=true the next reads
# are kept.

source ./functions.sh nbd qemu mount

small_filesystem $d/small 8M
"$PYTHON" - <<'END'
import errno, os, random
import copying, qedimg, qedtest
from qedtest import MiB, TMP

path = TMP + "/small/x.qed"
ballast = TMP + "/small/ballast"

def fill(leave):
    """Fill the filesystem, and leave some bytes."""
    st = os.statvfs(TMP + "/small")
    with open(ballast, "wb") as f:
        f.write(bytes(st.f_bavail * st.f_bsize - leave))

def said(s, what="is tried again after a while"):
    return s.log().count(what)

for cs, *params in qedtest.some(((4096, "stream=true"),
                                 (65536, "stream=true", "copy-on-read=true"),
                                 (65536, "copy-on-read=true")), 1):
    print(cs, params)
    stream = "stream=true" in params
    r = random.Random(cs)
    with copying.Base(r, "raw", 5 * MiB - 512, full=True) as base:
        disk = base.overlay(path, 5 * MiB, cs)
        end = disk.size
        fill(3 * MiB)
        with qedtest.Server("-v", "-D", "nbdkit.backend.datapath=0", "qed",
                            path, *params, *base.args) as s:
            h = s.connect()
            qedtest.wait_until(
                lambda: qedtest.check_disk(h, disk) or said(s))
            for _ in range(3):
                qedtest.check_disk(h, disk)
                h.flush()
            # What is allocated can be written to.  The rest takes what room
            # is left.
            kept = next((start for start, _ in copying.unallocated(path)),
                        end)
            assert 0 < kept < end, kept
            h.pwrite(b"in place", kept - 100)
            disk.write(b"in place", kept - 100)
            pos = end - 65536
            while qedtest.write_if_room(h, disk, r.randbytes(65536), pos):
                pos -= 65536
            assert pos > kept
            h.flush()
            qedtest.check_disk(h, disk)
            if stream:
                # Tried again, in vain.
                qedtest.wait_until(lambda: said(s, "has failed again"))
                qedtest.check_disk(h, disk)
            assert said(s) == 1, s.log()
            assert said(s, "no request fails because of this") == 1, s.log()
            os.unlink(ballast)
            if stream:
                copying.wait_complete(s, 60)
                qedtest.check_disk(h, disk)
            else:
                qedtest.wait_until(
                    lambda: qedtest.check_disk(h, disk) or h.flush()
                    or copying.unallocated(path) == [], 60)
            assert said(s) == 1, s.log()
            h.pwrite(b"again", end - 5)
            disk.write(b"again", end - 5)
        if stream:
            copying.check_complete(path, disk)
        else:
            qedtest.check_image(path, copying.flat(disk), qemu=False)
            qedtest.qed_img("check", path)
        os.unlink(path)
END
