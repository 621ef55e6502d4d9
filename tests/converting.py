# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

"""What qed-img convert has written."""

import json
import os

import qedimg
import qedtest


def check_raw(path, disk):
    """The raw file has the disk's content."""
    assert os.path.getsize(path) == disk.size
    with open(path, "rb") as f:
        for start, end in disk.ranges():
            for offset in range(start, end, qedtest.MiB):
                n = min(qedtest.MiB, end - offset)
                qedtest.check_bytes(os.pread(f.fileno(), n, offset),
                                    disk.read(offset, n), offset)


def check_sparse(path, disk):
    """Each page of zeros in the disk is a hole of the raw file."""
    fd = os.open(path, os.O_RDONLY)
    end = 0
    while end < disk.size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError:
            break
        end = os.lseek(fd, start, os.SEEK_HOLE)
        for pos in range(start, end, 4096):
            assert disk.read(pos, min(4096, disk.size - pos)).strip(b"\0"), pos
    os.close(fd)


def check_qed(path, disk):
    """The image has the disk's content, is in order of the disk, has no leaks,
    and no cluster of zeros."""
    qedtest.check_image(path, disk)
    refs = qedimg.References(path)
    assert not refs.need_check(), path
    model = qedimg.Model(path, disk.below)
    cs = model.header["cluster_size"]
    end = 0
    for run in model.runs():
        if run.kind != qedimg.DATA:
            continue
        assert run.offset > end, (path, run)
        end = run.offset
        if disk.below is None:
            for pos in range(run.start, run.end, cs):
                n = min(cs, run.end - pos)
                assert disk.read(pos, n).strip(b"\0"), (path, pos)
    model.close()


def measure(*args):
    """The two sizes that qed-img measure prints as JSON, as numbers and as
    text."""
    out, _ = qedtest.qed_img("measure", "--output=json", *args)
    got = json.loads(out)
    human, _ = qedtest.qed_img("measure", *args)
    assert human == "required size: %d\nfully allocated size: %d\n" % (
        got["required"], got["fully-allocated"]), human
    return got["required"], got["fully-allocated"]
