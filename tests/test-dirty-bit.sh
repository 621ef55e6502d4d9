#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# NEED_CHECK is on disk when the first write that allocates is acknowledged,
# and not before.  When the server ends it is clear, and the file is as long as
# its used clusters.  Requests that change no metadata do not set it.  (I6)

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import os, time
import nbd, qedimg, qedtest

path = qedtest.TMP + "/d.qed"
MiB = 1 << 20

def dirty():
    with open(path, "rb") as f:
        raw = f.read(qedimg.HEADER_BYTES)
    # Nothing else in the header changes.
    features = int.from_bytes(raw[16:24], "little")
    assert raw == header[:16] + features.to_bytes(8, "little") + header[24:]
    assert features in (0, qedimg.F_NEED_CHECK)
    return features == qedimg.F_NEED_CHECK

for cs, ts in qedtest.some(((65536, 4), (4096, 1)), 1):
    size = 24 * MiB
    img = qedimg.Image(size, cs, ts)
    img.zero(30)
    img.save(path)
    header = img.header_bytes()
    disk = qedtest.Disk(size)

    def write(byte, n, offset, flags=0):
        h.pwrite(byte * n, offset, flags)
        disk.write(byte * n, offset)

    allocating = (lambda: write(b"a", 10, 5 * MiB),
                  lambda: write(b"b", 3 * cs, 4 * MiB - 5),
                  # Into a zero cluster.
                  lambda: write(b"c", 512, 30 * cs),
                  # In a new L2 table.
                  lambda: write(b"d", 512, size - 512, nbd.CMD_FLAG_FUA))
    for allocate in allocating:
        with qedtest.Server("qed", path) as s:
            assert not dirty()
            h = s.connect()
            assert not dirty()
            qedtest.check_disk(h, disk)
            h.zero(MiB, 10 * MiB)
            h.trim(MiB, 10 * MiB)
            h.flush()
            assert not dirty()
            start = time.monotonic()
            allocate()
            set_by_first = dirty()
            allocate()
            h.flush()
            # On a busy machine the image may count as idle by now, so the mark
            # says nothing.
            if time.monotonic() - start < 4:
                assert set_by_first and dirty()
        assert not dirty()
        qedimg.References(path).check_clean()

    # Allocated clusters are written in place.
    length = os.path.getsize(path)
    with qedtest.Server("qed", path) as s:
        h = s.connect()
        write(b"e", 5, 5 * MiB + 1)
        write(b"f", 3 * cs - 1, 4 * MiB - 3, nbd.CMD_FLAG_FUA)
        assert not dirty()
        h.zero(cs, 4 * MiB + 100)
        disk.zero(cs, 4 * MiB + 100)
        h.zero(1000, 5 * MiB, nbd.CMD_FLAG_NO_HOLE)
        disk.zero(1000, 5 * MiB)
        h.flush()
        assert not dirty()
        assert os.path.getsize(path) == length
        qedtest.check_disk(h, disk)
    assert not dirty()
    assert os.path.getsize(path) == length
    qedtest.check_image(path, disk)
END
