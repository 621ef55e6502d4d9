#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# resize, rebase, commit and check -r work on images in block devices, which
# keep their length, and have old content behind the image.

source ./functions.sh nbd qemu loop

garbage_device 8
base=$dev
mv $d/device.raw $d/base.raw
garbage_device 9
export base
"$PYTHON" - <<'END'
import os, random
import qedimg, qedtest

MiB = 1 << 20
r = random.Random(3)
base, path = os.environ["base"], os.environ["dev"]
qed_img = qedtest.qed_img
DIR = "--backing-dir=/dev"
qed_img("create", "-q", "-o", "cluster_size=4k", base, "4M")
below = qedtest.Disk(4 * MiB)

def change(path, disk, *args):
    with qedtest.Server("qed", path, "backing-dir=/", *args) as s:
        h = s.connect()
        qedtest.check_disk(h, disk)
        for _ in range(30):
            n = int(2 ** r.uniform(0, 15))
            qedtest.random_op(r, h, disk, r.randrange(disk.size - n), n)
        h.flush()
        qedtest.check_disk(h, disk)
    qed_img("check", path)

change(base, below)
qed_img("create", "-q", "-o", "cluster_size=4k", "-b", base, "-F", "qed", path,
        "5M")
disk = qedtest.Disk(5 * MiB, qedtest.Disk(5 * MiB))
disk.below.write(below.read(0, 4 * MiB), 0)
change(path, disk)

# Shrink, which moves clusters down, and grow.
qed_img("resize", DIR, "--shrink", path, "3M")
small = qedtest.Disk(3 * MiB, disk.below)
small.write(disk.read(0, 3 * MiB), 0)
change(path, small)
qed_img("resize", DIR, path, "4M")
disk = qedtest.Disk(4 * MiB, disk.below)
disk.write(small.read(0, 3 * MiB), 0)
disk.zero(MiB, 3 * MiB)
change(path, disk)

# Rebase onto nothing, and back.
qed_img("rebase", DIR, "-b", "", path)
change(path, disk)
qed_img("rebase", DIR, "-b", base, "-F", "qed", path)
change(path, disk)

# Commit, twice.
for _ in range(2):
    qed_img("commit", DIR, path)
    with qedtest.Server("-r", "qed", base) as s:
        qedtest.check_disk(s.connect(), disk)
    for p in (base, path):
        qed_img("check", p)
    change(path, disk)

# Leaks: an entry is lost.
qed_img("rebase", DIR, "-b", "", path)

def data():
    """Where the first and the last data cluster of the disk are mapped, and
    where they are: offsets in the file and of the disk."""
    model = qedimg.Model(path)
    runs = [x for x in model.runs() if x.kind == qedimg.DATA]
    starts = runs[0].start, runs[-1].end - 4096
    places = []
    for start in starts:
        i, j = divmod(start // 4096, model.n)
        table = model._entry(model.header["l1_table_offset"], i)
        places.append((table + j * 8, model._entry(table, j), start))
    model.close()
    return places

def put_entry(place, entry):
    with open(path, "r+b") as f:
        f.seek(place)
        f.write(qedimg.ENTRY.pack(entry))

(place, _, start), _ = data()
put_entry(place, 0)
disk.zero(4096, start)
out, _ = qed_img("check", path, status=3)
assert "1 leaked" in out, out
qed_img("check", "-r", "leaks", path)
change(path, disk)

# Corruption: two ranges have the same cluster, or one is past the end.
(place, entry, start), (last, _, last_start) = data()
assert place != last
put_entry(last, entry)
disk.write(disk.read(start, 4096), last_start)
out, _ = qed_img("check", path, status=2)
qed_img("check", "-r", "all", path)
change(path, disk)
(place, entry, start), _ = data()
put_entry(place, 1 << 40)
qed_img("check", path, status=2)
qed_img("check", "-r", "all", path)
disk.zero(4096, start)
change(path, disk)

for p, size in (base, 8), (path, 9):
    with open(p, "rb") as f:
        assert f.seek(0, os.SEEK_END) == size * MiB
END
