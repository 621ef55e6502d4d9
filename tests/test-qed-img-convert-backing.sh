#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# convert -B: the new image has the source's own content only, on a backing file
# with the same content as the source's.

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import os, random
import converting, qedimg, qedtest
from qedtest import TMP, MiB, qed_img

r = random.Random(15)
SIZE = 5 * MiB + 512
out = TMP + "/out.qed"
os.chdir(TMP)
for kind, cs in (("full", 65536), ("chain", 4096), ("short", 65536),
                 ("odd", 8192)):
    o = qedtest.Overlay(r, kind, SIZE, cs)
    with qedtest.Server("qed", o.path, "backing-dir=" + TMP) as s:
        h = s.connect()
        for _ in range(15):
            n = int(2 ** r.uniform(9, 16))
            qedtest.random_op(r, h, o.disk, r.randrange(SIZE - n), n)
        h.flush()
    base = os.path.basename(o.files[-1])
    fmt = "raw" if len(o.files) == 1 else "qed"
    for new in "4k", "1M":
        for opts in (("-B", base, "-F", fmt),
                     ("-o", f"backing_file={base},backing_fmt={fmt}")):
            qed_img("convert", "-O", "qed", "-o", "cluster_size=" + new, *opts,
                    o.path, out)
            qedtest.check_image(out, o.disk)
            want, _ = converting.measure("-O", "qed", "-o", "cluster_size="
                                         + new + ",backing_file=" + base,
                                         o.path)
            assert os.path.getsize(out) == want, (os.path.getsize(out), want)
    # So it is with sources that aren't images.
    flat = qedtest.Disk(SIZE)
    flat.write(o.disk.read(0, SIZE), 0)
    for _ in range(20):
        n = int(2 ** r.uniform(12, 18))
        flat.zero(n, r.randrange((SIZE - n) // 512) * 512)
    flat.save(TMP + "/flat.raw")
    flat.below = o.disk.below
    for new in "4k", "64k", "4M":
        opts = f"cluster_size={new},backing_file={base},backing_fmt={fmt}"
        qed_img("convert", "-f", "raw", "-O", "qed", "-o", opts,
                TMP + "/flat.raw", out)
        qed_img("compare", out, "-F", "raw", TMP + "/flat.raw")
        want, _ = converting.measure("-O", "qed", "-f", "raw", "-o", opts,
                                     TMP + "/flat.raw")
        assert os.path.getsize(out) == want, (new, os.path.getsize(out), want)
    # What it doesn't have itself isn't copied.
    qed_img("convert", "-O", "qed", "-B", base, "-F", fmt, "-o",
            f"cluster_size={cs}", o.path, out)
    for a, b in zip(allocated := [qedimg.Model(p, o.disk.below)
                                  for p in (o.path, out)], allocated[1:]):
        has = [[x for x in m.runs() if x.kind == qedimg.DATA] for m in (a, b)]
        data = [sum(x.end - x.start for x in runs) for runs in has]
        assert data[1] <= data[0], data
    for m in allocated:
        m.close()
    o.check()

# Zero clusters that are smaller than those of the new image, alone
img = qedimg.Image(16 * MiB, 65536, backing="z.raw")
for c in 3, 100, 101:
    img.zero(c)
img.save("z.qed")
with open("z.raw", "wb") as f:
    f.write(r.randbytes(16 * MiB))
for new in "64k", "128k", "1M", "4M":
    opts = f"cluster_size={new},backing_file=z.raw,backing_fmt=raw"
    qed_img("convert", "-O", "qed", "-o", opts, "z.qed", out)
    qed_img("compare", out, "z.qed")
    want, _ = converting.measure("-O", "qed", "-o", opts, "z.qed")
    assert os.path.getsize(out) == want, (new, os.path.getsize(out), want)
# Zeros in a raw file become zero clusters, however large these are.
with open("zeros.raw", "wb") as f:
    f.write(bytes(16 * MiB))
qed_img("convert", "-O", "qed", "-o", "cluster_size=4M,backing_file=z.raw,"
        "backing_fmt=raw", "zeros.raw", out)
assert os.path.getsize(out) == 4 * MiB * (1 + 4 + 4), os.path.getsize(out)

# Damage below the source is nothing that is lost.
img = qedimg.Image(MiB, 65536)
img.entry(1, 17)
img.save("bad.qed")
img = qedimg.Image(MiB, 65536, backing="bad.qed")
img.entry(2, 18)
img.save("top.qed")
_, err = qed_img("convert", "--salvage", "-O", "qed", "-B", "bad.qed", "top.qed",
                 out)
assert "top.qed: 65536 bytes in total couldn't be read" in err, err
assert "65536 bytes at 131072 of" in err and len(err.splitlines()) == 2, err

# A chain that would be too long
below = "chain0.raw"
with open(below, "wb") as f:
    f.write(bytes(MiB))
for i in range(1, 64):
    qed_img("create", "-q", "-b", below, "-F", "qed" if i > 1 else "raw",
            f"chain{i}.qed")
    below = f"chain{i}.qed"
_, err = qed_img("convert", "-O", "qed", "-B", below, "chain0.raw", "long.qed",
                 status=1)
assert err == ("qed-img: long.qed: backing file: chain63.qed: has a chain of 64 "
               "layers already: merge some of them first\n"), err
assert not os.path.exists("long.qed")
qed_img("convert", "-O", "qed", "-B", "chain62.qed", "chain0.raw", "long.qed")
qed_img("info", "--backing-chain", "long.qed")
for i in range(1, 64):
    os.unlink(f"chain{i}.qed")

# The target isn't what is below it.
for opts in (), ("-U",):
    for name in "z.raw", "top.qed", "bad.qed":
        before = open(name, "rb").read()
        _, err = qed_img("convert", *opts, "-O", "qed", "-B",
                         "z.raw" if name == "z.raw" else "top.qed",
                         "zeros.raw", name, status=1)
        assert err == (f"qed-img: {name}: is read, as part of the backing file, "
                       "and can't be the target too\n"), err
        assert open(name, "rb").read() == before
END

# The name in the header is as given, and starts at the new image.
cd $d
mkdir other
cp base.raw other/same.raw
qed-img create -q -b base.raw -F raw x.qed
start_nbdkit qed x.qed
nbdsh -u "$uri" -c 'h.pwrite(b"new", 70000)'
stop_nbdkit
qed-img convert -O qed -B same.raw -F raw x.qed other/y.qed
qed-img info --output=json other/y.qed | grep '"backing-filename": "same.raw"'
qed-img info other/y.qed | grep 'backing file format: raw'
qemu-img compare -f qed -F qed x.qed other/y.qed
qed-img map --totals --output=json other/y.qed | grep '"data": 65536' ||
    fail "other/y.qed has more than the one cluster"

# Past the end of its backing file the source has zeros, and so has the new image,
# though BACKING is longer.
truncate -s 1000000 short.raw
qed-img create -q -b short.raw -F raw x.qed 2M
(cat short.raw; head -c 1M /dev/urandom) >other/long.raw
qed-img convert -O qed -B long.raw -F raw x.qed other/y.qed
qed-img convert other/y.qed y.raw
cmp y.raw <(head -c 2M /dev/zero)
rm other/long.raw

fails 1 '^qed-img: other/z.qed: backing file .*: the name must not be empty' \
      qed-img convert -O qed -B '' x.qed other/z.qed
fails 1 '^qed-img: other/nowhere.raw: .*No such file' \
      qed-img convert -O qed -B nowhere.raw x.qed other/z.qed
fails 1 '^qed-img: convert: -B: a raw disk has no backing file: add -O qed' \
      qed-img convert -B base.raw x.qed other/z.raw
fails 1 '^qed-img: convert: -F: a backing format needs a backing file' \
      qed-img convert -O qed -F raw x.qed other/z.qed
fails 1 "^qed-img: convert: -F: format 'vmdk': must be raw or qed" \
      qed-img convert -O qed -B base.raw -F vmdk x.qed other/z.qed
test "$(ls -A other)" = "$(printf 'same.raw\ny.qed')"
