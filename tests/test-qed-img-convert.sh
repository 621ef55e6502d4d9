#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# convert copies images with all that is below them, and raw files, to raw files,
# standard output and new images, whose clusters are in the order of the disk.
# What the source has as zeros takes no space.  measure knows the size before.

source ./functions.sh nbd qemu
requires_punch_hole

"$PYTHON" - <<'END'
import os, random, subprocess, shlex
import converting, qedimg, qedtest
from qedtest import TMP, MiB, qed_img

r = random.Random(14)
SIZE = 11 * MiB + 3 * 512
source, raw, qed = (TMP + n for n in ("/source.raw", "/out.raw", "/out.qed"))

def stdout_of(path, *args):
    p = subprocess.run([*shlex.split(os.environ["QED_IMG"]), "convert", *args,
                        path, "-"], stdout=subprocess.PIPE)
    assert p.returncode == 0
    return p.stdout

for kind in qedtest.some(qedtest.Overlay.KINDS, 3):
    o = qedtest.Overlay(r, kind, SIZE, r.choice((4096, 65536, 1 << 20)))
    with qedtest.Server("qed", o.path, "backing-dir=" + TMP) as s:
        h = s.connect()
        for _ in range(40):
            n = int(2 ** r.uniform(9, 18))
            qedtest.random_op(r, h, o.disk, r.randrange(SIZE - n), n)
        h.flush()
    flat = qedtest.Disk(SIZE)
    flat.write(o.disk.read(0, SIZE), 0)
    for threads in "1", "3", "16":
        qed_img("convert", "-m", threads, o.path, raw)
        converting.check_raw(raw, flat)
        converting.check_sparse(raw, flat)
    assert stdout_of(o.path, "-f", "qed") == flat.read(0, SIZE)
    for cs, ts in ("4k", "1"), ("64k", "4"), ("1M", "16"):
        opts = "-o", f"cluster_size={cs},table_size={ts}"
        for path in o.path, raw:
            qed_img("convert", "-O", "qed", *opts, path, qed)
            converting.check_qed(qed, flat)
            want, most = converting.measure("-O", "qed", *opts, path)
            assert os.path.getsize(qed) == want <= most
    o.check()

# All of it in use.
with open(source, "wb") as f:
    f.write(random.Random(1).randbytes(SIZE))
qed_img("convert", "-O", "qed", "-o", "cluster_size=4k", source, qed)
want, most = converting.measure("-O", "qed", "-o", "cluster_size=4k", qed)
assert os.path.getsize(qed) == want == most
assert converting.measure(source) == (SIZE, SIZE)
assert stdout_of(qed) == random.Random(1).randbytes(SIZE)

# A length that is no multiple of a sector, and one of 0.
for size in 100001, 1, 0:
    b = random.Random(size).randbytes(size)
    with open(source, "wb") as f:
        f.write(b)
    qed_img("convert", source, raw)
    with open(raw, "rb") as f:
        assert f.read() == b
    assert stdout_of(source) == b
    qed_img("convert", "-f", "raw", "-O", "qed", source, qed)
    assert stdout_of(qed) == b + bytes(-size % 512)
    want, _ = converting.measure("-O", "qed", "-f", "raw", source)
    assert os.path.getsize(qed) == want

# The name of a new file gets its content at once, and a symbolic link stays.
os.symlink("out.raw", TMP + "/link")
os.chmod(raw, 0o640)
before = os.stat(raw).st_ino
qed_img("convert", qed, TMP + "/link")
assert os.path.islink(TMP + "/link")
assert os.stat(raw).st_ino != before
assert os.stat(raw).st_mode & 0o777 == 0o640
END

# As qemu-img converts it.
cd $d
"$PYTHON" -c 'import random, sys
r = random.Random(5)
for i in range(500):
    sys.stdout.buffer.write(r.choice((r.randbytes(8192), bytes(8192))))' >a.raw
qemu-img convert -f raw -O qed a.raw a.qed
for s in 0 512 4k 8k 64k 16M; do
    qed-img convert -S $s a.qed b.raw
    cmp a.raw b.raw
    qemu-img convert -S $s -f qed -O raw a.qed c.raw
    test $(du -k b.raw | cut -f 1) -le $(du -k c.raw | cut -f 1)
    qed-img convert -S $s -O qed a.raw b.qed
    qemu-img compare -f raw -F qed a.raw b.qed
done
# With -S 0 all is allocated, holes too.
truncate -s 9M a.raw
qed-img convert -S 0 a.raw b.raw
test $(du -k b.raw | cut -f 1) -ge 9216
qed-img convert -S 0 -O qed a.raw b.qed
qed-img check b.qed | grep '= 100.00% allocated'

# The largest disk that there is takes no time.
qed-img create -q -o cluster_size=64k,table_size=16 huge.qed 64T
qed-img convert -O qed huge.qed out.qed
test $(stat -c %s out.qed) -lt 3000000
test "$(qed-img measure -O qed huge.qed | head -1)" = \
     "required size: $(stat -c %s out.qed)"
test "$(qed-img measure -O qed -o cluster_size=64k --size=1G | head -1)" = \
     'required size: 327680'
