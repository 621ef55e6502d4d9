#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The cache command brings exactly its range into the page cache, and nothing
# where there is no data.

source ./functions.sh nbd

if [ "$(stat -f -c %T $d)" = tmpfs ]; then
    skip "a tmpfs is all page cache"
fi
"$PYTHON" - <<'END'
import ctypes, mmap, os, time
import qedimg, qedtest

path = qedtest.TMP + "/c.qed"
MiB = 1 << 20
img = qedimg.Image(64 * MiB, 1 * MiB, 1)
for c in (10, 1, 2, 5):
    img.data(c, b"\1" * MiB)
img.zero(3)
img.save(path)
model = qedimg.Model(path)

libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int,
                      ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]

def cached():
    """The numbers of the file's pages which are in the page cache."""
    with open(path, "rb") as f:
        size = os.fstat(f.fileno()).st_size
        n = size // mmap.PAGESIZE
        p = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED,
                      f.fileno(), 0)
        flags = ctypes.create_string_buffer(n)
        r = libc.mincore(p, size, flags)
        libc.munmap(p, size)
        assert r == 0
    return {i for i in range(n) if flags.raw[i] & 1}

def drop():
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)

with qedtest.Server("qed", path) as s:
    h = s.connect()
    h.pread(512, 5 * MiB)       # has the tables
    drop()
    if cached():
        print("pages can't be dropped here")
        raise SystemExit(77)
    h.cache(MiB, 20 * MiB)
    h.cache(MiB, 3 * MiB)
    assert not cached()
    for offset, n in ((MiB, 2 * MiB), (5 * MiB + 100000, 65536),
                      (0, 64 * MiB)):
        drop()
        want = set()
        for run in model.runs():
            start, end = max(run.start, offset), min(run.end, offset + n)
            if run.kind == qedimg.DATA and start < end:
                at = run.offset - run.start
                want |= set(range((at + start) // mmap.PAGESIZE,
                                  (at + end - 1) // mmap.PAGESIZE + 1))
        # The kernel takes it as advice and may do less when it's busy, so
        # ask more often than once.
        for i in range(200):
            if i % 20 == 0:
                h.cache(n, offset)
            got = cached()
            if got >= want:
                break
            time.sleep(0.05)
        assert got >= want, (offset, n, len(want - got))
        # The kernel may read a little more.
        assert len(got - want) * mmap.PAGESIZE <= 2 * MiB, (offset, n)
    qedtest.check_content(h, model)
END
