#!/usr/bin/env bash
# nbdkit-qed
# Copyright (C) 2026 nbdkit-qed authors
#
# Redistribution and use in source and binary forms, with or without
# modification, are permitted provided that the following conditions are
# met:
#
# * Redistributions of source code must retain the above copyright
# notice, this list of conditions and the following disclaimer.
#
# * Redistributions in binary form must reproduce the above copyright
# notice, this list of conditions and the following disclaimer in the
# documentation and/or other materials provided with the distribution.
#
# * Neither the name of nbdkit-qed nor the names of its contributors may be
# used to endorse or promote products derived from this software without
# specific prior written permission.
#
# THIS SOFTWARE IS PROVIDED BY THE AUTHORS AND CONTRIBUTORS ''AS IS'' AND
# ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO,
# THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A
# PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE AUTHORS OR
# CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
# SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT
# LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF
# USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND
# ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY,
# OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT
# OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF
# SUCH DAMAGE.

source ./functions.sh
set -e
set -x
requires_nbd
requires_qemu

# A server that has been idle for a while leaves the image as if it had ended:
# NEED_CHECK cleared, nothing to be lost.  The next allocation sets it again.
# (I6)
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
    # Unless the machine is so busy that this looked like idleness:
    assert not clean() or time.monotonic() - start > 4

with qedtest.Server("qed", path) as s:
    h = s.connect()
    write(b"1", 7 * MiB - 1000)

    # Reading doesn't keep it busy, nor does writing in place.
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
