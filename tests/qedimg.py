# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

"""QED images, built and read byte by byte, without the code under test.

Image builds an image from a description: any header field, tables and
clusters anywhere, and any entry or byte overridden with something wrong.

Model reads an image as QED-FORMAT.md says, as slowly and plainly as that
can be done, and is what tests compare a server with.

References counts who refers to which cluster of an image.

    img = Image(size=1 << 20, cluster_size=4096, table_size=1)
    img.data(0)                     # with a pattern
    img.data(3, b"hello", at=17)    # at file offset 17 * 4096
    img.zero(4)
    img.entry(5, 0x1234)            # unsound
    img.save("x.qed")

Only Python's standard library is used.
"""

import collections
import errno
import os
import random
import stat
import struct

MAGIC = b"QED\0"
HEADER_BYTES = 64

F_BACKING_FILE = 0x01
F_NEED_CHECK = 0x02
F_BACKING_FORMAT_NO_PROBE = 0x04

# The header, in the order of the file: name and struct format.
FIELDS = (
    ("magic", "4s"),
    ("cluster_size", "I"),
    ("table_size", "I"),
    ("header_size", "I"),
    ("features", "Q"),
    ("compat_features", "Q"),
    ("autoclear_features", "Q"),
    ("l1_table_offset", "Q"),
    ("image_size", "Q"),
    ("backing_filename_offset", "I"),
    ("backing_filename_size", "I"),
)
HEADER = struct.Struct("<" + "".join(f for _, f in FIELDS))
assert HEADER.size == HEADER_BYTES

ENTRY = struct.Struct("<Q")

# Every geometry that is legal.
CLUSTER_SIZES = [1 << b for b in range(12, 27)]
TABLE_SIZES = [1, 2, 4, 8, 16]

# A disk's size is signed in NBD and off_t.
MAX_SIZE = (1 << 63) - 512


def max_size(cluster_size, table_size):
    """The size in bytes of the largest disk that a geometry (CLUSTER_SIZE in
    bytes, TABLE_SIZE in clusters) can map and NBD can serve."""
    n = table_size * cluster_size // 8
    return min(n * n * cluster_size, MAX_SIZE)


def pattern(seed, cluster, n):
    """N bytes that differ from cluster to cluster, none of them zero."""
    r = random.Random(f"{seed}/{cluster}")
    return r.randbytes(n).replace(b"\0", b"\1")


class Image:
    """An image to be built.

    SIZE and CLUSTER_SIZE are in bytes; TABLE_SIZE and HEADER_SIZE are in
    clusters.  AT and L1_AT are numbers of clusters in the file; CLUSTER is the
    number of a cluster of the disk.  OFFSET is in bytes from the start of the
    file, except where it says otherwise.
    """

    def __init__(self, size, cluster_size=65536, table_size=4,
                 header_size=1, l1_at=None, features=0, compat_features=0,
                 autoclear_features=0, backing=None, seed=0):
        self.size = size
        self.cluster_size = cluster_size
        self.table_size = table_size
        self.n = table_size * cluster_size // 8
        self.seed = seed
        self.end = header_size      # in clusters: where the file grows
        self.tables = {}            # L1 index: L2 table's AT
        self.entries = {}           # file offset of an entry: value
        self.bytes = []             # (file offset, bytes), in order
        self.pokes = []             # the same, written last
        self.length = None          # override of the file's length
        self.tail = b""             # what stands after the last cluster

        self.l1_at = self.alloc(table_size, l1_at)
        self.header = {
            "magic": MAGIC,
            "cluster_size": cluster_size,
            "table_size": table_size,
            "header_size": header_size,
            "features": features,
            "compat_features": compat_features,
            "autoclear_features": autoclear_features,
            "l1_table_offset": self.l1_at * cluster_size,
            "image_size": size,
            "backing_filename_offset": 0,
            "backing_filename_size": 0,
        }
        if backing is not None:
            name = os.fsencode(backing)
            self.header["features"] |= F_BACKING_FILE
            self.header["backing_filename_offset"] = HEADER_BYTES
            self.header["backing_filename_size"] = len(name)
            self.bytes.append((HEADER_BYTES, name))

    def alloc(self, n=1, at=None):
        """Take N clusters of the file: from cluster AT on, or at the end.

        Returns the number of the first.
        """
        if at is None:
            at = self.end
        self.end = max(self.end, at + n)
        return at

    def table(self, i, at=None):
        """Make L2 table I (its index in the L1 table) at cluster AT of the
        file, if there is none.  Returns the number of its first cluster."""
        if i not in self.tables:
            self.tables[i] = self.alloc(self.table_size, at)
            self.l1_entry(i, self.tables[i] * self.cluster_size)
        return self.tables[i]

    def l1_entry(self, i, value):
        """Override L1 entry I.  VALUE goes into the file as it is."""
        self.entries[self.l1_at * self.cluster_size + 8 * i] = value

    def entry(self, cluster, value):
        """Override the L2 entry of CLUSTER.  VALUE goes into the file as it
        is."""
        at = self.table(cluster // self.n)
        offset = at * self.cluster_size + 8 * (cluster % self.n)
        self.entries[offset] = value

    def zero(self, cluster):
        """Make CLUSTER a zero cluster."""
        self.entry(cluster, 1)

    def data(self, cluster, content=None, at=None):
        """Make CLUSTER a data cluster, at cluster AT of the file or at its
        end.

        CONTENT is the bytes at its start, or a dict {offset in the cluster, in
        bytes: bytes}.  The default is a pattern: it fills a cluster of up to
        64 KiB, and is at both ends and in the middle of a larger one.  The
        rest is a hole in the file.  Returns the number of the cluster in the
        file.
        """
        cs = self.cluster_size
        self.table(cluster // self.n)
        at = self.alloc(1, at)
        self.entry(cluster, at * cs)
        if content is None:
            if cs <= 65536:
                content = pattern(self.seed, cluster, cs)
            else:
                p = pattern(self.seed, cluster, 12288)
                content = {0: p[:4096], cs // 2 - 2048: p[4096:8192],
                           cs - 4096: p[8192:]}
        if not isinstance(content, dict):
            content = {0: content}
        for offset, b in content.items():
            assert 0 <= offset and offset + len(b) <= cs
            self.bytes.append((at * cs + offset, b))
        return at

    def poke(self, offset, b):
        """Override the bytes of the file from OFFSET (in bytes) on with B."""
        self.pokes.append((offset, b))

    def file_size(self):
        """The length of the file, in bytes."""
        if self.length is not None:
            return self.length
        return self.end * self.cluster_size + len(self.tail)

    def header_bytes(self):
        """The header as the file has it: HEADER_BYTES bytes."""
        return HEADER.pack(*(self.header[name] for name, _ in FIELDS))

    def save(self, path):
        """Write the image to PATH.  Returns PATH."""
        length = self.file_size()
        with open(path, "wb") as f:
            fd = f.fileno()
            os.ftruncate(fd, length)

            def write(offset, b):
                b = b[:max(0, length - offset)]
                if b:
                    os.pwrite(fd, b, offset)

            write(0, self.header_bytes())
            for offset, b in self.bytes:
                write(offset, b)
            for offset, value in self.entries.items():
                write(offset, ENTRY.pack(value))
            if self.tail:
                write(self.end * self.cluster_size, self.tail)
            for offset, b in self.pokes:
                write(offset, b)
        return path


# Kinds of runs.
UNALLOCATED = "unallocated"
ZERO = "zero"
DATA = "data"
UNSOUND = "unsound"


class Unsound(Exception):
    """The range can only be answered with EIO."""


class Run:
    """Bytes [start, end) of the disk, all of one kind.

    OFFSET is in bytes.  For DATA it is where the bytes are in the file; for
    UNSOUND it is the value of the entry.
    """

    def __init__(self, start, end, kind, offset=None):
        self.start, self.end = start, end
        self.kind, self.offset = kind, offset

    def __repr__(self):
        return f"Run({self.start}, {self.end}, {self.kind}, {self.offset})"


def read_below(below, offset, length):
    """Read LENGTH bytes from OFFSET on as an overlay reads its unallocated
    clusters.  BELOW, the backing file, is a Model, a Disk or None; past its
    end there are zeros."""
    n = 0 if below is None else max(0, min(length, below.size - offset))
    return (below.read(offset, n) if n else b"") + bytes(length - n)


class Model:
    """The content of an image that nothing changes.

    An UNALLOCATED cluster reads as BELOW does: a Model or a Disk, with a size
    in bytes and a method read.  Past the end of BELOW, or without one, it
    reads as zeros.  The backing file that the header names is not looked at.
    """

    def __init__(self, path, below=None):
        self.path, self.below = path, below
        self.fd = os.open(path, os.O_RDONLY)
        self.file_size = os.lseek(self.fd, 0, os.SEEK_END)
        raw = os.pread(self.fd, HEADER_BYTES, 0)
        self.header = dict(zip((n for n, _ in FIELDS), HEADER.unpack(raw)))
        h = self.header
        self.cluster_size = h["cluster_size"]
        self.table_bytes = h["table_size"] * h["cluster_size"]
        self.n = self.table_bytes // 8
        self.size = h["image_size"]
        self.first = h["header_size"] * h["cluster_size"]
        self.end = self.file_size // self.cluster_size * self.cluster_size
        self._runs = None
        self._pages = {}            # of tables

    def close(self):
        """Close the file."""
        os.close(self.fd)

    def _sound(self, entry, length, own_table=None):
        """May what an entry points to be used (QED-FORMAT.md, Tables and
        clusters)?"""
        tables = [self.header["l1_table_offset"]]
        if own_table is not None:
            tables.append(own_table)
        return (entry % self.cluster_size == 0
                and entry >= self.first
                and entry + length <= self.end
                and all(entry + length <= t or t + self.table_bytes <= entry
                        for t in tables))

    def _entry(self, table, i):
        page, within = divmod(table + 8 * i, 4096)
        if page not in self._pages:
            if len(self._pages) > 10000:
                self._pages.clear()
            self._pages[page] = os.pread(self.fd, 4096, page * 4096)
        return ENTRY.unpack_from(self._pages[page], within)[0]

    def lookup(self, cluster):
        """Find cluster CLUSTER of the disk.

        Returns its kind, and for DATA its offset in the file in bytes, for
        UNSOUND the value of the entry.
        """
        i, j = divmod(cluster, self.n)
        table = self._entry(self.header["l1_table_offset"], i)
        if table == 0:
            return UNALLOCATED, None
        if not self._sound(table, self.table_bytes):
            return UNSOUND, table
        entry = self._entry(table, j)
        if entry == 0:
            return UNALLOCATED, None
        if entry == 1:
            return ZERO, None
        if not self._sound(entry, self.cluster_size, table):
            return UNSOUND, entry
        return DATA, entry

    def read(self, offset, length):
        """Read LENGTH bytes of the disk from OFFSET on; may raise Unsound."""
        assert 0 <= offset and offset + length <= self.size
        result = []
        while length > 0:
            cluster, within = divmod(offset, self.cluster_size)
            n = min(length, self.cluster_size - within)
            kind, at = self.lookup(cluster)
            if kind == UNSOUND:
                raise Unsound(f"cluster {cluster}: entry {at:#x}")
            if kind == DATA:
                b = os.pread(self.fd, n, at + within)
                assert len(b) == n
                result.append(b)
            elif kind == UNALLOCATED:
                result.append(read_below(self.below, offset, n))
            else:
                result.append(bytes(n))
            offset += n
            length -= n
        return b"".join(result)

    def data_segments(self, offset, length):
        """The parts (start, end) of LENGTH bytes of the file from OFFSET on
        that are not holes, in bytes."""
        end = offset + length
        while offset < end:
            try:
                start = os.lseek(self.fd, offset, os.SEEK_DATA)
            except OSError as e:
                if e.errno == errno.ENXIO:
                    return
                if e.errno == errno.EINVAL:     # a block device
                    yield offset, end
                    return
                raise
            if start >= end:
                return
            offset = min(os.lseek(self.fd, start, os.SEEK_HOLE), end)
            yield start, offset

    def _nonzero_entries(self, table, n):
        """(index, value) of the first N entries of a table, without those
        that are 0.  Doesn't read holes: tables can have 1 GiB."""
        for start, end in self.data_segments(table, 8 * n):
            start = start // 8 * 8
            for offset in range(start, end, 1 << 20):
                b = os.pread(self.fd, min(1 << 20, end - offset), offset)
                if not b.strip(b"\0"):
                    continue
                b = b[:len(b) // 8 * 8]
                for k, (value,) in enumerate(ENTRY.iter_unpack(b)):
                    if value:
                        yield (offset - table) // 8 + k, value

    def _allocated(self):
        """Runs of whatever isn't UNALLOCATED, in order, not merged."""
        cs = self.cluster_size
        clusters = -(-self.size // cs)
        l1 = self.header["l1_table_offset"]
        for i, table in self._nonzero_entries(l1, -(-clusters // self.n)):
            first = i * self.n
            last = min(first + self.n, clusters)
            if not self._sound(table, self.table_bytes):
                yield Run(first * cs, min(last * cs, self.size),
                          UNSOUND, table)
                continue
            for j, entry in self._nonzero_entries(table, last - first):
                start = (first + j) * cs
                end = min(start + cs, self.size)
                if entry == 1:
                    yield Run(start, end, ZERO)
                elif not self._sound(entry, cs, table):
                    yield Run(start, end, UNSOUND, entry)
                else:
                    yield Run(start, end, DATA, entry)

    def runs(self):
        """The Runs of the disk from its start to its end.

        Each DATA cluster is a Run of its own.  Any other is merged with
        neighbours of its kind.
        """
        if self._runs is None:
            result = []

            def add(run):
                if run.start == run.end:
                    return
                if (result and result[-1].kind == run.kind != DATA):
                    result[-1].end = run.end
                else:
                    result.append(run)

            pos = 0
            for run in self._allocated():
                add(Run(pos, run.start, UNALLOCATED))
                add(run)
                pos = run.end
            add(Run(pos, self.size, UNALLOCATED))
            self._runs = result
        return self._runs


class References:
    """The references to each cluster of an image file: one to each, or
    something is wrong."""

    def __init__(self, path):
        model = Model(path)
        cs = model.cluster_size
        self.path, self.header = path, model.header
        self.file_size = model.file_size
        self.unsound = []           # L1 and L2 entries
        count = collections.Counter(range(model.header["header_size"]))

        def add(offset, length):
            count.update(range(offset // cs, (offset + length) // cs))

        l1 = model.header["l1_table_offset"]
        add(l1, model.table_bytes)
        # Each table once, although L1 entries may be equal.
        tables = collections.Counter()
        for _, table in model._nonzero_entries(l1, model.n):
            if model._sound(table, model.table_bytes):
                add(table, model.table_bytes)
                tables[table] += 1
            else:
                self.unsound.append(table)
        for table in tables:
            for _, entry in model._nonzero_entries(table, model.n):
                if entry == 1:
                    continue
                if model._sound(entry, cs, table):
                    add(entry, cs)
                else:
                    self.unsound.append(entry)
        model.close()
        self.used_end = (max(count) + 1) * cs
        self.duplicates = [c for c, n in count.items() if n > 1]
        # A device keeps its size, and holds anything behind the image.
        self.is_device = stat.S_ISBLK(os.stat(path).st_mode)
        end = self.used_end if self.is_device else self.file_size
        self.leaks = end // cs - len(count)

    def need_check(self):
        """Does the header have F_NEED_CHECK?"""
        return bool(self.header["features"] & F_NEED_CHECK)

    def check_consistent(self):
        """Nothing is wrong, except perhaps leaked clusters."""
        assert not self.unsound, [hex(e) for e in self.unsound[:10]]
        assert not self.duplicates, self.duplicates[:10]

    def check_clean(self, leaks=False):
        """The image is as a writer must leave it.  LEAKS: leaked clusters are
        allowed, as an earlier writer may have made them."""
        self.check_consistent()
        assert not self.need_check()
        assert self.is_device or self.file_size == self.used_end, \
            (self.file_size, self.used_end)
        assert leaks or self.leaks == 0, self.leaks
