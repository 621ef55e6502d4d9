#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# When the host's filesystem is full writes fail with ENOSPC.  A flush never
# does, although it is what writes the tables.  With room again writes succeed.

source ./functions.sh nbd qemu mount

small_filesystem $d/small 3M
"$PYTHON" - <<'END'
import os, random
import qedimg, qedtest

path = qedtest.TMP + "/small/x.qed"
base = qedtest.TMP + "/base"
ballast = qedtest.TMP + "/small/ballast"
MiB = 1 << 20
r = random.Random(13)
for cs, ts in qedtest.some(((4096, 1), (65536, 4)), 1):
    size = min(8 << 30, qedimg.max_size(cs, ts))
    disk = qedtest.Disk(size)
    with open(base, "wb") as f:
        for pos in range(0, size, 50 * MiB):
            b = r.randbytes(MiB)
            os.pwrite(f.fileno(), b, pos)
            disk.write(b, pos)
        f.truncate(size)
    qedimg.Image(size, cs, ts, backing=base).save(path)
    with open(ballast, "wb") as f:
        f.write(bytes(MiB))

    def write(n, offset):
        return qedtest.write_if_room(h, disk, r.randbytes(n), offset)

    with qedtest.Server("qed", path,
                        "backing-dir=" + qedtest.TMP) as s:
        h = s.connect()
        # A slice of a table maps 2 MiB of the one disk, 32 of the other.
        places = [pos + 512 for pos in range(0, size, 2 * MiB)]
        r.shuffle(places)
        done = []
        for pos in places:
            if not write(1024, pos):
                break
            done.append(pos)
            if r.randrange(3) == 0:
                h.flush()
        else:
            raise AssertionError("not full")
        assert len(done) > 8
        h.flush()
        for k in range(60):
            write(1024, places[len(done) + k % 20])
            if k % 10 == 0:
                h.pwrite(b"in place", done[0])
                disk.write(b"in place", done[0])
                h.flush()
        qedtest.check_disk(h, disk)

        os.unlink(ballast)
        assert write(8 * cs, 5 * MiB + 5)
        h.flush()
        qedtest.check_disk(h, disk)
    with qedtest.Server("-r", "qed", path,
                        "backing-dir=" + qedtest.TMP) as s:
        qedtest.check_disk(s.connect(), disk)
    refs = qedimg.References(path)
    refs.check_consistent()
    assert not refs.need_check()
    os.unlink(path)
END
