#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A server that has been idle for a while leaves the image as if the server had
# ended: NEED_CHECK is clear, and a crash loses nothing.  The next allocation
# sets it again.  (I6)

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import time
import qedimg, qedtest

path = qedtest.TMP + "/i.qed"
MiB = 1 << 20
qedimg.Image(16 * MiB, 4096, 2).save(path)
disk = qedtest.Disk(16 * MiB)

def clean():
    return not qedimg.References(path).need_check()

def write(byte, offset):
    """Write what has to be allocated."""
    start = time.monotonic()
    h.pwrite(byte * 5000, offset)
    disk.write(byte * 5000, offset)
    # A busy machine may delay this, so that the image counts as idle.
    assert not clean() or time.monotonic() - start > 4

with qedtest.Server("qed", path) as s:
    h = s.connect()
    write(b"1", 7 * MiB - 1000)

    # Reads and in-place writes do not delay the clearing of the mark.
    def idle():
        h.pread(5000, 0)
        h.pwrite(b"2", 7 * MiB)
        return clean()

    qedtest.wait_until(idle)
    disk.write(b"2", 7 * MiB)
    # The image as it is now, whatever happens later.
    qedtest.run("cp", "--sparse=always", path, path + ".copy")
    qedtest.check_image(path + ".copy", disk)

    write(b"3", 0)
    qedtest.check_disk(h, disk)
qedtest.check_image(path, disk)
END
