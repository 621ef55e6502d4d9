#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# With dir= each image is an export with its own size, description and content.
# Several are read and written at once.

source ./functions.sh nbd nbdinfo qemu

"$PYTHON" - <<'END'
import os, threading
import nbd, qedimg, qedtest

os.mkdir(qedtest.TMP + "/dir")
os.chdir(qedtest.TMP + "/dir")
MiB = 1 << 20
with open("base", "wb") as f:
    f.write(b"below!!!" * (MiB // 8))
qedimg.Image(4 * MiB, 65536, 4).save("a.qed")
qedimg.Image(6 * MiB, 4096, 1).save("b")
qedimg.Image(2 * MiB, 65536, 4, backing="base",
             features=qedimg.F_BACKING_FORMAT_NO_PROBE).save("overlay")
qedimg.Image(MiB, 65536, 4, backing="/etc/passwd",
             features=qedimg.F_BACKING_FORMAT_NO_PROBE).save("bad-backing")
disks = {"a.qed": qedtest.Disk(4 * MiB), "b": qedtest.Disk(6 * MiB)}
base = qedtest.Disk(2 * MiB)
base.write(b"below!!!" * (MiB // 8), 0)
disks["overlay"] = qedtest.Disk(2 * MiB, base)

def uri(s, name):
    return s.uri.replace("///", "///" + name)

with qedtest.Server("qed", "dir=.") as s:
    def use(name, seed):
        try:
            qedtest.random_clients(uri(s, name), disks[name], seed, 3)
            done.append(name)
        except nbd.Error as e:
            print(name, e)
    for _ in range(2):
        done = []
        threads = [threading.Thread(target=use, args=(n, i))
                   for i, n in enumerate(disks)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert len(done) == len(disks)
    for name, disk in disks.items():
        h = qedtest.connect(uri(s, name))
        qedtest.check_disk(h, disk)
        cs = 4096 if name == "b" else 65536
        assert h.get_block_size(nbd.SIZE_PREFERRED) == cs
        assert h.can_multi_conn()
        h.shutdown()
    # An image's backing file may be in its own directory.
    try:
        qedtest.connect(uri(s, "bad-backing"))
        assert False
    except nbd.Error:
        assert "backing-dir=/etc" in s.log(), s.log()
    assert "cluster size 4096," in qedtest.run("nbdinfo", uri(s, "b"))
for name, disk in disks.items():
    qedtest.check_image(name, disk)

# With -r nothing is written.
def states():
    return [(n, os.stat(n).st_mtime_ns, open(n, "rb").read()) for n in disks]
before = states()
with qedtest.Server("-r", "qed", "dir=" + os.getcwd()) as s:
    for name, disk in disks.items():
        h = qedtest.connect(uri(s, name))
        assert h.is_read_only()
        qedtest.check_disk(h, disk)
        h.shutdown()
assert states() == before

# The parameters hold for each image.
img = qedimg.Image(MiB, 4096, 1)
img.entry(3, 5)
img.save("damaged")
with qedtest.Server("qed", "dir=.", "salvage=true", "backing=none") as s:
    h = qedtest.connect(uri(s, "damaged"))
    assert h.pread(4096, 3 * 4096) == bytes(4096) and h.is_read_only()
    qedtest.connect(uri(s, "damaged")).shutdown()
    assert s.log().count("read as zeros in total") == 1, s.log()
    assert "dir/damaged: offset 0x3000, length 0x1000" in s.log(), s.log()
    h2 = qedtest.connect(uri(s, "overlay"))
    assert not h2.pread(512, MiB // 2).startswith(b"below!!!")
    h.shutdown()
    h2.shutdown()
END
