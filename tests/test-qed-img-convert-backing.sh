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
