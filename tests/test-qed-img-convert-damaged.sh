#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A source that is damaged: convert names the place and leaves no target.  With
# --salvage it writes zeros for what can't be read, which it lists, and copies the
# rest.

source ./functions.sh nbd libnbd

cd $d
"$PYTHON" - <<'END'
import os, random, re
import qedimg, qedtest
from qedtest import MiB, qed_img

CS = 4096

def ranges(err, file):
    """The ranges that are listed."""
    found = [(int(m[2]), int(m[2]) + int(m[1])) for m in re.finditer(
        rf"^qed-img: {re.escape(file)}: (\d+) bytes at (\d+) of the disk can't"
        r" be read: zeros are written instead$", err, re.M)]
    total = sum(end - start for start, end in found)
    assert err.endswith(f"{file}: {total} bytes in total couldn't be read\n")
    assert len(err.splitlines()) == len(found) + 1, err
    return found

def check(file, disk, lost, *args):
    """convert FILE fails; with --salvage it makes DISK, with zeros in LOST."""
    _, err = qed_img("convert", file, *args, "out.raw", status=1)
    assert not os.path.exists("out.raw")
    # The first place that is damaged, or one after it: threads read more.
    assert re.search("offset|at |overlap", err), err
    for out, opts in ("out.raw", ()), ("out.qed", ("-O", "qed")):
        stdout, err = qed_img("convert", "--salvage", *opts, *args, file, out)
        assert stdout == ""
        assert ranges(err, file) == lost, (err, lost)
        qed_img("convert", out, "got.raw")
        with open("got.raw", "rb") as f:
            got = f.read()
        want = bytearray(disk)
        for start, end in lost:
            want[start:end] = bytes(end - start)
        qedtest.check_bytes(got, bytes(want), 0)
        os.unlink(out)
    print(err)

# Entries that may not be followed, of L2 and L1, two of them neighbours
size = 5 * MiB
img = qedimg.Image(size, CS, 1, seed="damaged")
for c in range(0, size // CS, 2):
    img.data(c)
img.zero(1)
img.save("x.qed")
model = qedimg.Model("x.qed")
disk = model.read(0, size)
model.close()
img.entry(10, 17)
img.entry(11, (1 << 40) + 4096)
img.entry(100, 12345)
img.l1_entry(1, 4097)
img.save("x.qed")
table = 512 * CS
check("x.qed", disk, [(10 * CS, 12 * CS), (100 * CS, 101 * CS),
                      (table, 2 * table)])

# The same below an overlay, which has some of it itself
over = qedimg.Image(size, 65536, backing="x.qed")
over.data(0)
over.save("over.qed")
model = qedimg.Model("over.qed")
b = model.read(0, 65536)
model.close()
check("over.qed", b + disk[65536:],
      [(100 * CS, 101 * CS), (table, 2 * table)])

# A huge range is lost at once.
img = qedimg.Image(1 << 50, 65536, 16, seed="huge")
img.data(5)
img.l1_entry(7, 4097)
img.save("huge.qed")
n = 16 * 65536 // 8 * 65536
_, err = qed_img("convert", "-O", "qed", "-o", "table_size=16", "--salvage",
                 "huge.qed", "out.qed")
assert ranges(err, "huge.qed") == [(7 * n, 8 * n)], err

# Tables that overlap are refused before anything is read.
img = qedimg.Image(size, CS, 1, seed="shared")
img.data(0)
img.table(0)
img.save("shared.qed")
model = qedimg.Model("shared.qed")
at = model._entry(model.header["l1_table_offset"], 0)
model.close()
img.l1_entry(1, at)
img.save("shared.qed")
_, err = qed_img("convert", "shared.qed", "out.raw", status=1)
for args in ("measure", "-O", "qed", "shared.qed"), \
        ("compare", "shared.qed", "x.qed"), \
        ("compare", "-s", "x.qed", "shared.qed"):
    _, e = qed_img(*args, status=3 if args[0] == "compare" else 1)
    assert e == err, (e, err)
assert re.match("qed-img: shared.qed: some of its L2 tables overlap: the image "
                "is corrupt: run qed-img check -r all", err), err
_, e = qed_img("convert", "--salvage", "shared.qed", "out.raw")
assert e == ("qed-img: shared.qed: 2097152 bytes at 2097152 of the disk have "
             "the L2 table of another range: one of the two is wrong\n"
             "qed-img: shared.qed: 2097152 bytes in total may be wrong, and "
             "damage in them isn't listed\n"), e
END

# Sectors that can't be read, of a server
head -c 3M /dev/urandom >a.raw
bad='[ $4 -lt 1064960 ] && [ $(($4 + $3)) -gt 1048576 ]'
start_nbdkit eval get_size='stat -c %s a.raw' \
             pread="if [ -e gone ] || ($bad); then echo EIO >&2; exit 1; fi
                    tail -c +\$((\$4 + 1)) a.raw | head -c \$3"
fails 1 '^qed-img: nbd.*read .*at ' qed-img convert -f raw "$uri" b.raw
test ! -e b.raw
qed-img convert --salvage -f raw "$uri" b.raw 2>err
cat err
grep -F "$uri: 16384 bytes at 1048576 of the disk can't be read: zeros are" err
grep -F "$uri: 16384 bytes in total couldn't be read" err
dd if=/dev/zero of=a.raw bs=16k seek=64 count=1 conv=notrunc
cmp a.raw b.raw
# Nothing can be read: nothing is salvaged.
rm b.raw
touch gone
fails 1 '^qed-img: nbd.*read .*at ' qed-img convert --salvage -f raw "$uri" b.raw
test ! -e b.raw
