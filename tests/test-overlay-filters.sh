#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Through filters on top of an overlay writes go to the image.  The bytes
# around them are those of the backing file.

source ./functions.sh nbd qemu \
       filter:blocksize,cache,cow,fua,log,noextents,noparallel \
       filter:nozero,offset,readahead,truncate

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
