#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# More filters than are ever useful, stacked on top of the plugin: the content
# is right at the top, and writes stay in the cow filter.

source ./functions.sh nbd qemu \
       filter:partition,cow,offset,truncate,blocksize,readahead \
       filter:cache,cacheextents,log,stats

"$PYTHON" - <<'END'
import os, random, struct
import qedimg, qedtest
MiB = 1 << 20

# A disk with an MBR and two partitions.  The test uses the second.
r = random.Random(7)
raw = qedtest.TMP + "/disk.raw"
part = bytearray(20 * MiB)
for _ in range(60):
    n = int(2 ** r.uniform(9, 18))
    offset = r.randrange(len(part) - n)
    part[offset:offset + n] = r.randbytes(n)
mbr = bytearray(512)
mbr[510:] = b"\x55\xaa"
for i, (start, n) in enumerate(((1 * MiB, 5 * MiB), (8 * MiB, len(part)))):
    struct.pack_into("<B3xB3xII", mbr, 446 + 16 * i, 0, 0x83,
                     start // 512, n // 512)
with open(raw, "wb") as f:
    f.write(mbr)
    f.seek(8 * MiB)
    f.write(part)
    f.truncate(64 * MiB)
path = qedtest.TMP + "/disk.qed"
qedtest.run("qemu-img", "convert", "-f", "raw", "-O", "qed",
            "-o", "cluster_size=16k,table_size=2", raw, path)
before = open(path, "rb").read()

# The disk behind the filters: 4 MiB to 15 MiB of the partition, and zeros up
# to a multiple of 4 MiB.
want = part[4 * MiB:15 * MiB] + bytes(1 * MiB)
stack = ["--filter=" + f for f in (
    "log", "stats", "truncate", "readahead", "cache", "blocksize",
    "cacheextents", "offset", "cow", "partition")]
with qedtest.Server(*stack, "qed", path, "partition=2",
                    f"offset={4 * MiB}", f"range={11 * MiB}",
                    f"round-up={4 * MiB}", "minblock=1024", "maxdata=64k",
                    f"logfile={qedtest.TMP}/log",
                    f"statsfile={qedtest.TMP}/stats") as s:
    h = s.connect()
    assert h.get_size() == len(want)
    assert not h.is_read_only()

    def compare():
        qedtest.check_bytes(h.pread(len(want), 0), want, 0)
        for _ in range(200):
            n = int(2 ** r.uniform(0, 18))
            offset = r.randrange(len(want) - n)
            assert h.pread(n, offset) == want[offset:offset + n]
        for e in qedtest.extents(h):
            if e.flags & qedtest.ZERO_FLAG:
                assert not any(want[e.start:e.end])

    compare()
    for _ in range(100):
        n = int(2 ** r.uniform(0, 17))
        offset = r.randrange(11 * MiB - n)
        if h.can_zero() and r.random() < 0.3:
            h.zero(n, offset)
            want[offset:offset + n] = bytes(n)
        else:
            b = r.randbytes(n)
            h.pwrite(b, offset)
            want[offset:offset + n] = b
    h.flush()
    compare()
assert open(path, "rb").read() == before
END
