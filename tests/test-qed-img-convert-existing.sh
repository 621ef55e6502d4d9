#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# convert -n writes into what exists: a file, a device, an export, an image, also
# one with a backing file.  What was there before is gone, and what is beyond the
# disk stays.

source ./functions.sh nbd libnbd qemu loop

garbage_device 12
cd $d
"$PYTHON" - <<'END'
import os, random
import converting, qedtest
from qedtest import TMP, MiB, qed_img

r = random.Random(16)
SIZE = 8 * MiB
disk = qedtest.Disk(SIZE)
for _ in range(12):
    n = int(2 ** r.uniform(9, 19))
    disk.write(r.randbytes(n), r.randrange(SIZE - n))
disk.save(TMP + "/a.raw")
qed_img("convert", "-O", "qed", TMP + "/a.raw", TMP + "/a.qed")
garbage = r.randbytes(10 * MiB)
a = TMP + "/a.qed"

def check(path, size):
    with open(path, "rb") as f:
        got = f.read()
    assert len(got) == size
    qedtest.check_bytes(got[:SIZE], disk.read(0, SIZE), 0)
    return got[SIZE:]

# A file
out = TMP + "/out.raw"
with open(out, "wb") as f:
    f.write(garbage)
inode = os.stat(out).st_ino
qed_img("convert", "-n", a, out)
assert check(out, 10 * MiB) == garbage[SIZE:]
assert os.stat(out).st_ino == inode

# A device; without -n it is the same.
dev = os.environ["dev"]
with open(dev, "rb") as f:
    f.seek(SIZE)
    tail = f.read()
for opts in ("-n",), ():
    with open(dev, "r+b") as f:
        f.write(garbage[:SIZE])
    qed_img("convert", *opts, a, dev)
    with open(dev, "rb") as f:
        qedtest.check_bytes(f.read(SIZE), disk.read(0, SIZE), 0)
        assert f.read() == tail
# An image in the device
with open(dev, "r+b") as f:
    f.write(garbage)
qed_img("convert", "-O", "qed", a, dev)
qed_img("convert", dev, out)
check(out, SIZE)
qed_img("check", dev)

# An export
with open(out, "wb") as f:
    f.write(garbage)
for opts in (), ("-m", "16"):
    with qedtest.Server("file", out) as s:
        qed_img("convert", "-n", *opts, a, s.uri)
    assert check(out, 10 * MiB) == garbage[SIZE:]
with qedtest.Server("file", a) as s:
    qed_img("convert", "-f", "qed", s.uri, out)
check(out, SIZE)
with qedtest.Server("-r", "qed", a) as s:
    qed_img("convert", s.uri, out)
check(out, SIZE)

# An image that is larger, alone or on a backing file of garbage
with open(TMP + "/base.raw", "wb") as f:
    f.write(garbage)
for backing in (), ("-b", "base.raw", "-F", "raw"):
    for cs in "4k", "1M":
        image = TMP + "/image.qed"
        qed_img("create", "-q", "-o", "cluster_size=" + cs, *backing, image,
                str(10 * MiB))
        qed_img("convert", "-n", "-O", "qed", TMP + "/base.raw", image)
        qed_img("convert", "-n", "-O", "qed", a, image)
        want = qedtest.Disk(10 * MiB)
        want.write(disk.read(0, SIZE) + garbage[SIZE:], 0)
        qed_img("convert", image, out)
        converting.check_raw(out, want)
        qed_img("check", image)
        # The rest is the backing file's.
        qed_img("create", "-q", "-o", "cluster_size=" + cs, *backing, image,
                str(10 * MiB))
        qed_img("convert", "-n", "-O", "qed", a, image)
        qed_img("convert", image, out)
        if not backing:
            want.zero(2 * MiB, SIZE)
        converting.check_raw(out, want)

# A target that is all zeros isn't zeroed.
with open(out, "wb") as f:
    f.write(b"x" * SIZE)
qed_img("convert", "-n", "--target-is-zero", a, out)
with open(out, "rb") as f:
    got = f.read()
for pos in range(0, SIZE, 4096):
    want = disk.read(pos, 4096)
    assert got[pos:pos + 4096] == (want if want.strip(b"\0") else b"x" * 4096)
END

# Refused before anything is written.
qed-img create -q small.qed 1M
truncate -s 1M small.raw
dd if=/dev/urandom of=base.raw bs=1M count=1
qed-img create -q -b base.raw -F raw over.qed 2M
state_of *.raw *.qed >before
fails 1 '^qed-img: small.raw: has 1048576 bytes, and the disk 8388608: make it' \
      qed-img convert -n a.qed small.raw
fails 1 '^qed-img: small.qed: the disk in it has 1048576 bytes, and the one to' \
      qed-img convert -n -O qed a.qed small.qed
fails 1 '^qed-img: a.raw: header: magic .*this is not a QED image' \
      qed-img convert -n -O qed a.qed a.raw
fails 1 '^qed-img: nowhere.raw: .*No such file' \
      qed-img convert -n a.qed nowhere.raw
fails 1 '^qed-img: convert: nbd://localhost:1: an export exists already: add -n' \
      qed-img convert a.qed nbd://localhost:1
fails 1 ': nbd://localhost:1: .* already: add -n, after qed-img create: see' \
      qed-img convert -O qed a.raw nbd://localhost:1
fails 1 'convert: --target-is-zero: is for a target that exists: add -n' \
      qed-img convert --target-is-zero a.qed b.raw
fails 1 'convert: -B: is for a new image, and -n' \
      qed-img convert -n -O qed -B base.raw a.qed over.qed
fails 1 'convert: -o: is for a new image, and -n' \
      qed-img convert -n -O qed -o cluster_size=4k a.qed over.qed

# The source, or what is below it, is no target.
for opts in "" -U; do
    for target in base.raw over.qed; do
        fails 1 "^qed-img: $target: is read, as part of the source" \
              qed-img convert -n $opts over.qed $target
    done
    fails 1 "^qed-img: over.qed: is read, as part of the source" \
          qed-img convert -n $opts -O qed over.qed over.qed
done
# Nor is what a server reads for it, or another name of a device or a URI.
qemu-img create -q -f qcow2 q.qcow2 9M
qemu-io -f qcow2 -c 'write -P 1 0 9M' q.qcow2
qed-img create -q -b q.qcow2 -F qcow2 onq.qed
mknod dev b $((0x$(stat -c %t $dev))) $((0x$(stat -c %T $dev)))
start_nbdkit file a.qed
sha256sum q.qcow2 a.qed >sums
for opts in "" -n; do
    fails 1 '^qed-img: q.qcow2: is read, as part of the source' \
          qed-img convert $opts --backing-format=qcow2 onq.qed q.qcow2
done
fails 1 "^qed-img: dev: is read, as part of the source" \
      qed-img convert -U -f raw $dev dev
fails 1 "^qed-img: nbd.*: is read, as part of the source" \
      qed-img convert -n -f qed "$uri" "$uri"
stop_nbdkit
sha256sum -c sums
rm onq.qed
fails 1 \
      '^qed-img: over.qed: is read, as part of the source' qed-img convert over.qed over.qed
fails 1 \
      '^qed-img: base.raw: is read, as part of the source' qed-img convert over.qed base.raw
state_of *.raw *.qed | diff before -
