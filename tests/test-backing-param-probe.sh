#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The no-probe bit in a header says "raw" only of the file that the header
# names.  A file named by backing= is probed.  A QED image is read as one, so
# that a write does not copy bytes of the container into the overlay for good.
# Another format is refused.  backing-format=raw, which the user gives, wins.

source ./functions.sh nbd nbdcopy

"$PYTHON" - <<'END'
import os
import qedimg, qedtest
os.chdir(qedtest.TMP)
t = qedtest.TMP

def fill(path, start, size=1 << 20):
    with open(path, "wb") as f:
        f.write(start)
        f.truncate(size)

fill("b1.raw", b"raw disk")
m = qedimg.Image(1 << 20)
m.data(0, b"inside" * 1000)
m.save("m.qed")
qedtest.run("qed-img", "create", "-q", "-b", "b1.raw", "-F", "raw", "o.qed")
with open("o.qed", "rb") as f:
    assert f.read(17)[16] & qedimg.F_BACKING_FORMAT_NO_PROBE

want = qedtest.run("nbdkit", "-r", "-U", "-", "qed", "m.qed", "--run",
                   'nbdcopy "$uri" -')
assert want.startswith("insideinside")
for args in [], ["backing-format=auto"], ["backing-format=qed"]:
    qedtest.run("qed-img", "create", "-q", "-b", "b1.raw", "-F", "raw",
                "o.qed")
    with qedtest.Server("qed", "o.qed", "backing=m.qed", *args) as s:
        h = s.connect()
        assert h.pread(1 << 20, 0) == want.encode()
        # The copy-up fills the rest of the cluster.
        h.pwrite(b"!" * 512, 8192)
        h.flush()
        expected = bytearray(want.encode())
        expected[8192:8704] = b"!" * 512
        assert h.pread(1 << 20, 0) == expected
    with open("o.qed", "rb") as f:
        assert b"QED\0" not in f.read()[4:]
    # The copied data is durable.  Without backing= the header's b1.raw is the
    # backing file again.
    with qedtest.Server("-r", "qed", "o.qed", "backing=none") as s:
        assert s.connect().pread(65536, 0) == expected[:65536]
    with qedtest.Server("-r", "qed", "o.qed") as s:
        assert s.connect().pread(4, 65536) == b"\0" * 4

# backing-format=raw reads the bytes of the QED file itself.
with qedtest.Server("-r", "qed", "o.qed", "backing=m.qed",
                    "backing-format=raw") as s:
    assert s.connect().pread(4, 65536 * 2) == b"\0" * 4
fill("plain.img", b"nothing known")
qedtest.run("qed-img", "create", "-q", "-b", "b1.raw", "-F", "raw", "o.qed")
with qedtest.Server("-r", "qed", "o.qed", "backing=m.qed",
                    "backing-format=raw") as s:
    assert s.connect().pread(4, 0) == b"QED\0"
with qedtest.Server("-r", "qed", "o.qed", "backing=plain.img") as s:
    assert s.connect().pread(13, 0) == b"nothing known"

# Another format is refused, as if the header named it.  This holds for b1.raw
# itself, too, if the user names it.
for name in "base.qcow2", "b1.raw":
    fill(name, b"QFI\xfb\0\0\0\3")
    qedtest.refused(f"{t}/o.qed: backing file: {t}/{name}: has the magic of "
                    "format qcow2: add backing-format=qcow2, or "
                    "backing-format=raw if", "qed", "o.qed", "backing=" + name)
    with qedtest.Server("-r", "qed", "o.qed", "backing=" + name,
                        "backing-format=raw") as s:
        assert s.connect().pread(4, 0) == b"QFI\xfb"
with qedtest.Server("-r", "qed", "o.qed") as s:
    assert s.connect().pread(4, 0) == b"QFI\xfb"

# An image that backing= leads to has its own header's bit.
qedimg.Image(1 << 20, backing="m.qed",
             features=qedimg.F_BACKING_FORMAT_NO_PROBE).save("mid.qed")
with qedtest.Server("-r", "qed", "o.qed", "backing=mid.qed") as s:
    assert s.connect().pread(4, 0) == b"QED\0"

# qed-img rebase -b probes as well, whatever the header says.
fill("b1.raw", b"raw disk")
qedtest.run("qed-img", "rebase", "-q", "-b", "m.qed", "o.qed")
with qedtest.Server("-r", "qed", "o.qed") as s:
    assert s.connect().pread(8, 0) == b"raw disk"
qedtest.run("qed-img", "create", "-q", "-b", "b1.raw", "-F", "raw", "o.qed")
qedtest.run("qed-img", "rebase", "-q", "-u", "-b", "m.qed", "o.qed")
with qedtest.Server("-r", "qed", "o.qed") as s:
    assert s.connect().pread(1 << 20, 0) == want.encode()
END
