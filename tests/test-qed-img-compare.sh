#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# qed-img compare reports the first difference, however many there are, and
# whichever side is a raw disk, an image with a chain, a server or a locked
# image.  Its exit code tells a difference from a failure.

source ./functions.sh nbd qemu

cd $d
"$PYTHON" - <<'END'
import random
import qedimg
size = 9 << 20
data = random.Random(0).randbytes(size)
def raw(name, *changes):
    b = bytearray(data)
    for at in changes:
        b[at] ^= 1
    with open(name, "wb") as f:
        f.write(b)
raw("same.raw")
raw("last.raw", size - 1)
raw("many.raw", *range(2097153, size, 1 << 15))
# The others are found before the first one.
raw("late.raw", (2 << 20) - 1, 2 << 20, 4 << 20, 6 << 20)
def image(name, **args):
    img = qedimg.Image(size, **args)
    for c in range(0, size >> 16, 2 if args else 1):
        img.data(c, data[c << 16:(c + 1) << 16])
    return img
image("same.qed").save("same.qed")
image("over.qed", backing="same.raw", features=4).save("over.qed")
img = image("bad.qed")
img.entry(100, 12345)
img.save("bad.qed")
with open("zero.raw", "wb") as f:
    f.truncate(size)
END

# differs OFFSET ARGS...
differs ()
{
    ends 1 qed-img compare "${@:2}"
    grep -x "Content mismatch at offset $1!" ends.out
    test "$(wc -l <ends.out)" = 1
}
for a in same.raw same.qed over.qed; do
    for b in same.raw same.qed over.qed; do
        ends 0 qed-img compare $a $b
        grep -x 'Images are identical.' ends.out
    done
    differs $((9 * 2097152 / 2 - 512)) $a last.raw
    differs 2097152 many.raw $a
    differs $((2097152 - 512)) late.raw $a
    differs 0 zero.raw $a
done
ends 1 qed-img compare -q same.qed many.raw
test ! -s ends.out

# Strict: half of the image is not allocated in the overlay, and all of it below.
ends 0 qed-img compare -s same.qed over.qed
ends 1 qed-img compare -s same.qed zero.raw
grep -x 'Strict mode: Offset 0 block status mismatch!' ends.out

# A failure is not a difference, unless one comes before it.
fails 3 '^qed-img: bad.qed: offset 6553600 of the disk: L2 entry' \
      qed-img compare same.raw bad.qed
fails 3 '^qed-img: bad.qed: offset 6553600 of the disk: L2 entry' \
      qed-img compare -s bad.qed over.qed
differs 2097152 bad.qed many.raw
fails 2 '^qed-img: missing: .*No such file' qed-img compare missing same.raw
fails 2 '^qed-img: missing: .*No such file' qed-img compare same.raw missing
fails 2 'has no QED magic|not a QED image' qed-img compare -f qed same.raw same.raw
fails 2 'expected the names of two disks' qed-img compare same.raw
fails 2 "-F: format 'qcow2': must be raw or qed" \
      qed-img compare -F qcow2 same.raw same.raw
fails 2 "-T: cache mode 'x'" qed-img compare -T x same.raw same.raw
fails 2 'option .-x. is unknown' qed-img compare -x same.raw same.raw
qemu-img create -q -f qcow2 q.qcow2 1M
fails 2 'q.qcow2: has the magic of format qcow2: -F raw says' \
      qed-img compare same.raw q.qcow2
fails 2 'q.qcow2: has the magic of format qcow2: -f raw says' \
      qed-img compare q.qcow2 same.raw
if qed-img compare same.raw same.qed >/dev/full 2>err; then
    fail "success on a full device"
else
    test $? = 2
fi
grep 'No space left' err

# What is below an image is found by the rules of map.
mkdir sub
"$PYTHON" - <<'END'
import qedimg
img = qedimg.Image(9 << 20, backing="../same.raw", features=4)
img.save("sub/over.qed")
END
fails 2 'same.raw, not beneath' qed-img compare same.raw sub/over.qed
ends 0 qed-img compare --backing-dir=. same.raw sub/over.qed

# An image that is written is compared only with -U.
start_qemu_nbd -f qed $PWD/same.qed
fails 2 'same.qed: locked.* -U' qed-img compare same.raw same.qed
fails 2 'same.qed: locked.* -U' qed-img compare same.qed same.raw
ends 0 qed-img compare -U same.qed same.raw
ends 0 qed-img compare --force-share same.raw same.qed
