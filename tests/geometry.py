# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

"""Every legal geometry: geometry.py built|qemu|created TABLE_SIZE

built: images from qedimg.py, each of its geometry's largest size.
qemu: images that qemu-img and qemu-io write, as far as QEMU can.
created: images of qed-img create.

Cluster sizes are in bytes, table sizes in clusters."""

import os
import subprocess
import sys

import qedimg
import qedtest

PATH = os.path.join(qedtest.TMP, "g.qed")
RAW = os.path.join(qedtest.TMP, "g.raw")


def built(cluster_size, table_size):
    """An image from qedimg.py of the largest size of its geometry."""
    size = qedimg.max_size(cluster_size, table_size)
    img = qedimg.Image(size, cluster_size, table_size, header_size=3,
                       l1_at=4, seed=cluster_size * table_size)
    n = img.n
    last = -(-size // cluster_size) - 1
    # The table of the disk's end comes first in the file, and what belongs
    # together on the disk isn't in order there.
    img.table(last // n)
    for c in (5, 0, 4, 3, n, n - 1, n + 2, n + 3, n - 2, last, last - 2):
        img.data(c)
    img.zero(1)
    img.zero(n + 1)
    img.zero(last - 1)
    img.entry(7, (img.end + 1) * cluster_size)
    img.l1_entry(2, img.l1_at * cluster_size)
    img.tail = b"tail" * 100
    img.save(PATH)
    qedtest.serve_and_check(PATH)


def qemu(cluster_size, table_size):
    """An image that qemu-img and qemu-io write.  Returns whether they do: QEMU
    refuses some geometries."""
    span = table_size * cluster_size // 8 * cluster_size
    size = min(qedimg.max_size(cluster_size, table_size),
               span + (64 << 20) + 3 * 512)

    # QEMU 7.2 can't create, or not open, some geometries.
    created = subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qed", "-o",
         f"cluster_size={cluster_size},table_size={table_size}",
         PATH, str(size)], stderr=subprocess.DEVNULL)
    if created.returncode != 0:
        return False

    cs = cluster_size
    end = size // 512 * 512
    io = subprocess.run(
        ["qemu-io", "-f", "qed",
         "-c", "write -P 0x11 0 512",
         "-c", f"write -P 0x22 {2 * cs - 1024} 4096",
         "-c", f"write -P 0x33 {5 * cs + 512} {cs // 2}",
         "-c", f"write -P 0x44 {span - 2048} 4096",
         "-c", f"write -z {7 * cs} {2 * cs}",
         "-c", f"write -P 0x55 {8 * cs} 512",
         "-c", f"write -P 0x66 {end - 1536} 1536", PATH],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if io.returncode != 0:
        return False

    model = qedimg.Model(PATH)
    assert (model.size, model.cluster_size) == (size, cs)
    for byte, offset, n in ((0x11, 0, 512), (0x22, 2 * cs - 1024, 4096),
                            (0x66, end - 1536, 1536)):
        assert model.read(offset, n) == bytes([byte]) * n
    kinds = {run.kind for run in model.runs()}
    assert kinds == {qedimg.UNALLOCATED, qedimg.ZERO, qedimg.DATA}

    # It dies on block status in some geometries that it can write.
    converted = subprocess.run(
        ["qemu-img", "convert", "-f", "qed", "-O", "raw", PATH, RAW],
        stderr=subprocess.DEVNULL)
    with qedtest.Server("qed", "file=" + PATH) as s:
        h = s.connect()
        qedtest.check_all(h, model)
        if converted.returncode == 0:
            qedtest.check_raw(h, RAW)
    model.close()
    return True


def created(cluster_size, table_size):
    """Images that qed-img creates.  Returns whether qemu-img makes them
    too."""
    options = f"cluster_size={cluster_size},table_size={table_size}"
    for size in (qedimg.max_size(cluster_size, table_size), 1000 * 512):
        if os.path.exists(PATH):
            os.unlink(PATH)
        qedtest.qed_img("create", "-o", options, PATH, str(size))

        # As the format says and, where it agrees to write it, as QEMU.
        img = qedimg.Image(size, cluster_size, table_size)
        with open(PATH, "rb") as f:
            header = f.read(4096)
        assert header == img.header_bytes().ljust(4096, b"\0")
        p = subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qed", "-o", options,
             RAW, str(size)], stderr=subprocess.DEVNULL)
        if p.returncode == 0:
            with open(RAW, "rb") as f:
                assert header == f.read(4096)
            assert os.path.getsize(PATH) == os.path.getsize(RAW)
    qedtest.serve_and_check(PATH)
    return p.returncode == 0


if __name__ == "__main__":
    do, table_size = globals()[sys.argv[1]], int(sys.argv[2])
    done = []
    for cluster_size in qedtest.some(qedimg.CLUSTER_SIZES, 4):
        done.append(do(cluster_size, table_size))
        for path in (PATH, RAW):
            if os.path.exists(path):
                os.unlink(path)
    if sys.argv[1] == "qemu":
        # QEMU 7.2 does at least this much of it.
        print(f"QEMU has written {sum(done)} of {len(done)} geometries")
        assert sum(done) >= len(done) // 2
