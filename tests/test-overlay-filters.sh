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
requires_filter blocksize cache cow fua log noextents noparallel nozero \
                offset readahead truncate

# Filters on top of an overlay: what is written through them is in the image,
# and around it is what is below.
"$PYTHON" - <<'END'
import random
import nbd, qedtest
from qedtest import MiB

for filters, params in qedtest.some((
        (["blocksize"], ["minblock=4096", "maxdata=64k"]),
        (["cache"], ["cache=writeback"]),
        (["fua", "nozero"], ["fuamode=emulate", "zeromode=emulate"]),
        (["noparallel", "noextents"], ["serialize=requests"]),
        (["log", "readahead"], [f"logfile={qedtest.TMP}/f.log"]),
        (["offset"], [f"offset={MiB}", f"range={4 * MiB}"]),
        (["truncate"], [f"truncate={5 * MiB}"]),
        (["cow"], [])), 2):
    print(*filters)
    r = random.Random(str(filters))
    o = qedtest.Overlay(r, "chain" if "log" in filters else "full", 6 * MiB)
    start = MiB if "offset" in filters else 0
    with qedtest.Server(*("--filter=" + f for f in filters), "qed", o.path,
                        *params) as s:
        h = s.connect()
        size = h.get_size()
        disk = qedtest.Disk(size)
        disk.write(o.disk.read(start, size), 0)
        qedtest.check_disk(h, disk)
        for _ in range(30):
            n = int(2 ** r.uniform(0, 17))
            at = r.randrange(size - n)
            if r.random() < 0.3 and h.can_zero():
                h.zero(n, at)
                disk.zero(n, at)
            else:
                b = r.randbytes(n)
                h.pwrite(b, at, nbd.CMD_FLAG_FUA if r.random() < 0.1 else 0)
                disk.write(b, at)
        h.flush()
        qedtest.check_disk(h, disk)
    if "cow" not in filters:
        o.disk.write(disk.read(0, size), start)
    o.check()
END
