# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

"""What "qed-img check" has to say about an image, found out without the code
under test, and images with damages made up at random."""

import json
import os
import random
import re
import resource

import qedimg
import qedtest
from qedimg import UNSOUND

# Damages, as headings of the output name them.
BAD_ENTRY = "Table entries out of range"
SHARED_TABLE = "L2 tables that overlap"
IN_TABLE = "Data clusters inside a table"
SHARED_DATA = "Data clusters with another owner"
KINDS = (BAD_ENTRY, SHARED_TABLE, IN_TABLE, SHARED_DATA)


def merged(ranges):
    """Ranges (start, end) sorted, with neighbours merged."""
    result = []
    for start, end in sorted(ranges):
        if result and result[-1][1] == start:
            result[-1] = (result[-1][0], end)
        else:
            result.append((start, end))
    return result


class Check:
    """What is wrong with an image, by the rules of QED-FORMAT.md.

    Of two owners of a table the one with the lower L1 index is right.  Of two
    owners of a cluster it is the one whose table is nearer to the start of the
    file.  Damages are ranges (start, end) of the disk in bytes; end is in
    bytes of the file; total, allocated, fragmented and leaks count clusters.
    """

    def __init__(self, path):
        self.model = m = qedimg.Model(path)
        self.cs = m.cluster_size
        self.damages = {k: [] for k in KINDS}   # (start, end) of the disk
        self.beyond = dict.fromkeys(KINDS, 0)   # behind its end
        self.total = -(-m.size // self.cs)
        self.allocated = self.fragmented = 0
        h = m.header
        l1 = h["l1_table_offset"] // self.cs
        # Clusters of the file with an owner, and those of tables.
        self.used = set(range(h["header_size"]))
        self.used |= set(range(l1, l1 + h["table_size"]))
        self.in_tables = set()
        self.tables = self._look_at_l1()
        for table, i in sorted((t, i) for i, t in self.tables.items()):
            self._look_at_l2(table, i)
        self.end = (max(self.used) + 1) * self.cs
        self.leaks = m.file_size // self.cs - len(self.used)
        self.corruptions = (sum(map(len, self.damages.values()))
                            + sum(self.beyond.values()))

    def _damage(self, kind, start, length):
        if start >= self.model.size:
            self.beyond[kind] += 1
        else:
            self.damages[kind].append((start, min(start + length,
                                                  self.model.size)))

    def _look_at_l1(self):
        m = self.model
        tables = {}
        for i, t in m._nonzero_entries(m.header["l1_table_offset"], m.n):
            where = i * m.n * self.cs, m.n * self.cs
            clusters = set(range(t // self.cs,
                                 (t + m.table_bytes) // self.cs))
            if not m._sound(t, m.table_bytes):
                self._damage(BAD_ENTRY, *where)
            elif clusters & self.in_tables:
                self._damage(SHARED_TABLE, *where)
            else:
                self.in_tables |= clusters
                tables[i] = t
        self.used |= self.in_tables
        return tables

    def _look_at_l2(self, table, i):
        m = self.model
        last = None
        for j, e in m._nonzero_entries(table, m.n):
            where = (i * m.n + j) * self.cs, self.cs
            if e == 1:
                continue
            if not m._sound(e, self.cs, table):
                self._damage(BAD_ENTRY, *where)
                continue
            self.allocated += 1
            self.fragmented += last is not None and e != last + self.cs
            last = e
            if e // self.cs in self.in_tables:
                self._damage(IN_TABLE, *where)
            elif e // self.cs in self.used:
                self._damage(SHARED_DATA, *where)
            self.used.add(e // self.cs)

    def close(self):
        """Close the image."""
        self.model.close()

    def status(self):
        """The exit code of "qed-img check"."""
        return 2 if self.corruptions else 3 if self.leaks else 0

    def json(self, path, **more):
        """The JSON, as an object."""
        want = {
            "filename": path, "format": "qed",
            "check-errors": 0, "image-end-offset": self.end,
            "total-clusters": self.total,
            "allocated-clusters": self.allocated,
            "fragmented-clusters": self.fragmented,
            "corruptions": self.corruptions, "leaks": self.leaks, **more}
        return {k: v for k, v in want.items()
                if v != 0 or k == "check-errors"}


def check(path, *args, status=0):
    """Run "qed-img check", which must exit with STATUS.

    Returns stdout, stderr, and what the one with the ranges lists: {kind:
    [(start, end)]} in bytes of the disk, and {kind: number of damages past its
    end}.
    """
    out, err = qedtest.qed_img("check", *args, path, status=status)
    kind, ranges, beyond = None, {}, {}
    for line in (err if "--output=json" in args else out).splitlines():
        heading = [k for k in KINDS if line.startswith(k.split(" that")[0])]
        m = re.fullmatch(r"    offset (0|0x[0-9a-f]+), length (0x[0-9a-f]+)"
                         r" \([^)]*\)(: also .*)?", line)
        if heading:
            kind, = heading
            ranges[kind] = []
        elif m:
            start, length = int(m[1], 16), int(m[2], 16)
            ranges[kind].append((start, start + length))
        elif m := re.fullmatch(r"    beyond the end of the disk: (\d+)",
                               line):
            beyond[kind] = int(m[1])
    # Where the other owners are elsewhere a range goes on in the next line.
    ranges = {k: merged(r) for k, r in ranges.items()}
    return out, err, ranges, beyond


def expect(path, *args):
    """Both forms of the output of "qed-img check" are what the model says."""
    c = Check(path)
    want = {k: merged(r) for k, r in c.damages.items() if r or c.beyond[k]}
    beyond = {k: n for k, n in c.beyond.items() if n}
    out, err, *got = check(path, *args, status=c.status())
    assert got == [want, beyond], (got, want, beyond)
    assert not err, err
    assert (f"{c.corruptions} errors were found" in out) == \
        (c.corruptions > 0), out
    assert (f"{c.leaks} leaked clusters were found" in out) == \
        (c.leaks > 0), out
    assert f"Image end offset: {c.end}\n" in out, out
    out, err, *got = check(path, "--output=json", *args, status=c.status())
    assert got == [want, beyond], (got, want, beyond)
    assert json.loads(out) == c.json(path), (out, c.json(path))
    c.close()
    return c


def random_image(seed, damages=True):
    """An Image with whatever can be wrong, unless not DAMAGES, and leaked
    clusters."""
    r = random.Random(seed)
    cs, ts = r.choice((4096, 4096, 8192, 65536)), r.choice(qedimg.TABLE_SIZES)
    size = min(qedimg.max_size(cs, ts),
               r.choice((1, 3, 5)) * ts * cs // 8 * cs + 512,
               r.randrange(1, 1 << 28) // 512 * 512)
    img = qedimg.Image(size, cs, ts, r.choice((1, 1, 2, 5)),
                       l1_at=r.choice((None, None, 7, 40)), seed=seed,
                       features=r.choice((0, qedimg.F_NEED_CHECK)))
    clusters = max(1, -(-size // cs))
    tables = min(-(-clusters // img.n), 4)
    at = []                             # data clusters
    for i in r.sample(range(tables), tables):
        img.table(i, at=r.choice((None, None, img.end + r.randrange(5))))
        for _ in range(r.randrange(30)):
            c = i * img.n + r.randrange(min(img.n, clusters - i * img.n))
            at.append(img.data(c, at=r.choice((None,) * 9 + (img.end + 3,))))
    any_table = [t + k for t in img.tables.values() for k in range(ts)]
    for _ in range(damages * r.choice((0, 0, 1, 5, 20))):
        value = r.choice((
            r.choice(at or [0]) * cs, r.choice(any_table) * cs, 1, 0,
            r.choice((7, cs - 512, cs, cs // 2, img.l1_at * cs, 1 << 63,
                      (1 << 64) - cs, img.end * cs, (img.end + 9) * cs))))
        img.entry(r.choice(list(img.tables)) * img.n
                  + r.randrange(img.n), value)
    for _ in range(damages * r.choice((0, 0, 0, 1, 2))):
        img.l1_entry(r.choice((0, r.randrange(img.n))),
                     r.choice((any_table[0], any_table[-1], img.end,
                               r.choice(any_table), img.l1_at,
                               img.end + 1)) * cs)
    img.alloc(r.choice((0, 0, 1, 17)))
    img.tail = r.randbytes(r.choice((0, 0, 1, cs - 1)))
    return img


def content(path):
    """The content of the disk where anything is mapped: {number of a cluster:
    its bytes, or ZERO or UNSOUND}."""
    m = qedimg.Model(path)
    cs = m.cluster_size
    result = {}
    for run in m.runs():
        if run.kind == qedimg.DATA:
            result[run.start // cs] = m.read(run.start, run.end - run.start)
        elif run.kind != qedimg.UNALLOCATED:
            for c in range(run.start // cs, -(-run.end // cs)):
                result[c] = run.kind
    m.close()
    return result


def expect_clean(path):
    """Nothing is wrong, and the file is as short as it can be."""
    qedimg.References(path).check_clean()
    c = expect(path)
    assert c.status() == 0 and c.model.file_size == c.end, path


def peak_memory():
    """The peak of the resident memory of the children that have ended, in
    bytes."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
