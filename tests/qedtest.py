# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

"""Servers and comparisons for the tests, on top of qedimg and libnbd."""

import collections
import contextlib
import errno
import os
import pty
import random
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time

import nbd
import qedimg
from qedimg import DATA, UNALLOCATED, UNSOUND, ZERO

# Made by functions.sh.
TMP = os.environ["d"]

HOLE_FLAG = 1       # NBD_STATE_HOLE
ZERO_FLAG = 2       # NBD_STATE_ZERO

MiB = 1 << 20

# Well below the largest that NBD servers take (32 MiB is what all do).
CHUNK = 32 * MiB

# What sanitizers write.
REPORT = re.compile(r"runtime error:|Sanitizer: ")


def some(cases, n=8):
    """All of the cases.  Under valgrind, where a server takes a second to
    start, only N of them, from the first to the last."""
    cases = list(cases)
    if not os.environ.get("NBDKIT_VALGRIND") or len(cases) <= n:
        return cases
    return [cases[i * (len(cases) - 1) // max(1, n - 1)] for i in range(n)]


def connect(uri):
    """A connection to the server at URI, which can ask for extents.

    libnbd sends it requests that are out of range, too.
    """
    h = nbd.NBD()
    h.add_meta_context("base:allocation")
    h.set_strict_mode(0)
    h.connect_uri(uri)
    return h


class Server:
    """nbdkit with the just-built plugin:

        with Server("qed", "file=x.qed") as s:
            h = s.connect()

    It must start, and at the end stop with status 0, which it doesn't if
    valgrind has found something.  Nor may a sanitizer."""

    def __init__(self, *args):
        self.args = args
        self.dir = tempfile.mkdtemp(prefix="s", dir=TMP)
        self.sock = os.path.join(self.dir, "sock")
        self.pidfile = os.path.join(self.dir, "pid")
        self.uri = "nbd+unix:///?socket=" + self.sock
        self.handles = []
        self.killed = False
        assert len(self.sock) < 108

    def __enter__(self):
        with open(os.path.join(self.dir, "log"), "wb") as log:
            self.process = subprocess.Popen(
                ["nbdkit", "-f", "-U", self.sock, "-P", self.pidfile,
                 *self.args],
                stdin=subprocess.DEVNULL, stderr=log)
        deadline = time.monotonic() + 60
        while not (os.path.exists(self.pidfile)
                   and os.path.getsize(self.pidfile)):
            if (self.process.poll() is not None
                    or time.monotonic() > deadline):
                self.process.kill()
                raise AssertionError(f"nbdkit {self.args} did not start:\n"
                                     + self.log())
            time.sleep(0.005)
        return self

    def log(self):
        """What the server has written to stderr so far."""
        with open(os.path.join(self.dir, "log"), errors="replace") as f:
            return f.read()

    def pid(self):
        """The process that serves."""
        with open(self.pidfile) as f:
            return int(f.read())

    def memory(self, key="VmHWM"):
        """Bytes of memory: VmHWM is the peak of what was resident."""
        with open(f"/proc/{self.pid()}/status") as f:
            return int(re.search(key + r":\s+(\d+) kB", f.read())[1]) * 1024

    def connect(self):
        """A connection, which is closed when the server stops."""
        h = connect(self.uri)
        self.handles.append(h)
        return h

    def kill(self):
        """End it with SIGKILL, with no chance to put anything in order."""
        self.process.kill()
        self.process.wait()
        self.handles.clear()
        self.killed = True

    def __exit__(self, *exc):
        for h in self.handles:
            with contextlib.suppress(nbd.Error):
                h.shutdown()
        if exc[0] is not None:
            # Other clients, for which it would wait, may still be there.
            self.process.kill()
            self.process.wait()
            sys.stderr.write(self.log())
            return
        if self.process.poll() is None:
            os.kill(self.pid(), signal.SIGTERM)
        try:
            status = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"nbdkit {self.args} did not stop")
        if not self.killed:
            assert status == 0, f"nbdkit: status {status}:\n" + self.log()
            assert not REPORT.search(self.log()), self.log()


def refused(regex, *args):
    """nbdkit ARGS must end before it serves, with status 1 and a message
    that matches REGEX.  Returns the messages."""
    # Not "-U -": nbdkit 1.32 would leave the socket's directory behind.
    sock = os.path.join(TMP, "refused.sock")
    p = subprocess.run(["nbdkit", "-U", sock, *args, "--run", "echo served"],
                       stdin=subprocess.DEVNULL, capture_output=True,
                       timeout=60)
    log = p.stderr.decode(errors="replace")
    assert b"served" not in p.stdout, f"{args}: served\n{log}"
    assert p.returncode == 1, f"{args}: status {p.returncode}\n{log}"
    assert re.search(regex, log), f"{args}: {regex!r} not in:\n{log}"
    return log


def connection_refused(s, regex):
    """The server runs, but must refuse a connection, with a message that
    matches REGEX."""
    before = len(s.log())
    try:
        connect(s.uri)
    except nbd.Error:
        pass
    else:
        raise AssertionError("the connection was not refused")
    log = s.log()[before:]
    assert re.search(regex, log), f"{regex!r} not in:\n{log}"


def wait_until(what, seconds=60):
    """Wait at most SECONDS until the function WHAT returns something true."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def on_terminal(*args):
    """Run qed-img with stdout on a terminal.  Returns its exit code and what
    it wrote."""
    master, slave = pty.openpty()
    p = subprocess.Popen([*shlex.split(os.environ["QED_IMG"]), *args],
                         stdin=subprocess.DEVNULL, stdout=slave)
    os.close(slave)
    out = b""
    while True:
        try:
            b = os.read(master, 65536)
        except OSError:         # EIO: it has ended
            break
        if not b:
            break
        out += b
    os.close(master)
    return p.wait(), out.decode()


def qed_img(*args, status=0):
    """Run qed-img, which must exit with STATUS.  Returns what it wrote to
    stdout and stderr."""
    p = subprocess.run([*shlex.split(os.environ["QED_IMG"]), *args],
                       stdin=subprocess.DEVNULL, capture_output=True,
                       timeout=120)
    out, err = (b.decode(errors="replace") for b in (p.stdout, p.stderr))
    assert p.returncode == status, \
        f"qed-img {args}: status {p.returncode}\n{out}{err}"
    return out, err


def run(*args):
    """Run a command that must succeed, and return its output."""
    p = subprocess.run(args, stdin=subprocess.DEVNULL, timeout=300,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    out = p.stdout.decode(errors="replace")
    assert p.returncode == 0, f"{args}: status {p.returncode}\n{out}"
    return out


def punch_hole(path, offset, n):
    """Make a hole of N bytes from OFFSET on in the file."""
    run("fallocate", "-p", "-n", "-o", str(offset), "-l", str(n), path)


#----------------------------------------------------------------------
# Reading.

def expect_error(name, fn, *args):
    """The call must fail with the error NAME, e.g. "EIO"."""
    try:
        fn(*args)
    except nbd.Error as e:
        assert e.errnum == getattr(errno, name), \
            f"{fn.__name__}{args}: {e} where {name} was expected"
    else:
        raise AssertionError(f"{fn.__name__}{args} did not fail")


def check_bytes(got, want, offset):
    """Like assert got == want, with a message of readable length.  OFFSET, in
    bytes of the disk, is that of both."""
    if got == want:
        return
    assert len(got) == len(want), f"at {offset}: {len(got)} bytes"
    i = next(i for i in range(len(want)) if got[i] != want[i])
    raise AssertionError(f"byte {offset + i} of the disk differs: "
                         f"{got[i:i + 16].hex()} where "
                         f"{want[i:i + 16].hex()} was expected")


def check_read(h, model, offset, length):
    """One read request of LENGTH bytes is answered as the model says, also if
    that is EIO."""
    try:
        want = model.read(offset, length)
    except qedimg.Unsound:
        expect_error("EIO", h.pread, length, offset)
    else:
        check_bytes(h.pread(length, offset), want, offset)


def check_range(h, model, start, end):
    """Bytes [start, end) of the disk, in requests of at most CHUNK bytes."""
    for offset in range(start, end, CHUNK):
        check_read(h, model, offset, min(CHUNK, end - offset))


def _check_long(h, model, start, end, ends=MiB):
    """A range in which nothing changes: all of it, or its ends if it is
    long, and some places between."""
    if end - start <= 4 * ends:
        check_range(h, model, start, end)
        return
    check_range(h, model, start, start + ends)
    check_range(h, model, end - ends, end)
    r = random.Random(start)
    for _ in range(3):
        check_read(h, model, r.randrange(start, end - 65536), 65536)


def _check_unsound(h, model, run):
    cs = model.cluster_size
    starts = range(run.start, run.end, cs)
    if len(starts) > 20:
        starts = [*starts[:5], starts[len(starts) // 2], *starts[-5:]]
    for start in starts:
        end = min(start + cs, run.end)
        expect_error("EIO", h.pread, 1, start)
        expect_error("EIO", h.pread, 1, end - 1)
        expect_error("EIO", h.pread, min(CHUNK, end - start), start)


def check_content(h, model):
    """The whole disk.  In a long stretch without data, in the image or in a
    large cluster, only some places are read."""
    assert h.get_size() == model.size, h.get_size()
    for run in model.runs():
        if run.kind == UNSOUND:
            _check_unsound(h, model, run)
        elif run.kind == DATA:
            length = run.end - run.start
            pos = run.start
            for seg in model.data_segments(run.offset, length):
                seg_start, seg_end = (s - run.offset + run.start for s in seg)
                _check_long(h, model, pos, seg_start, 65536)
                check_range(h, model, seg_start, seg_end)
                pos = seg_end
            _check_long(h, model, pos, run.end, 65536)
        else:
            _check_long(h, model, run.start, run.end)
    # Requests over the borders of runs.
    for run in model.runs()[1:][:1000]:
        start = max(0, run.start - 700)
        check_read(h, model, start, min(1500, model.size - start))


def check_raw(h, path):
    """The whole disk against a raw file, by the same rules."""
    size = os.path.getsize(path)
    assert h.get_size() == size, h.get_size()
    fd = os.open(path, os.O_RDONLY)

    class Raw:
        def read(self, offset, length):
            return os.pread(fd, length, offset)

    pos = 0
    try:
        while pos < size:
            try:
                start = os.lseek(fd, pos, os.SEEK_DATA)
            except OSError as e:
                if e.errno != errno.ENXIO:
                    raise
                start = size
            _check_long(h, Raw(), pos, start)
            if start == size:
                break
            pos = os.lseek(fd, start, os.SEEK_HOLE)
            check_range(h, Raw(), start, pos)
    finally:
        os.close(fd)


#----------------------------------------------------------------------
# Extents.

Extent = collections.namedtuple("Extent", "start end flags")


def block_status(h, offset, length, req_one=False):
    """One request for the extents of LENGTH bytes from OFFSET on.  REQ_ONE:
    for the first of them only.

    Returns Extents as the server sent them, in bytes of the disk.
    """
    result = []
    pos = offset

    def cb(context, _offset, entries, _error):
        nonlocal pos
        assert context == "base:allocation" and _offset == offset
        assert len(entries) % 2 == 0
        for n, flags in zip(entries[::2], entries[1::2]):
            assert n > 0
            result.append(Extent(pos, pos + n, flags))
            pos += n
        return 0

    flags = nbd.CMD_FLAG_REQ_ONE if req_one else 0
    h.block_status(length, offset, cb, flags)
    assert result
    return result


def extents(h, start=0, end=None, req_one=False):
    """The extents of bytes [start, end) of the disk, cut at END, with
    neighbours of the same kind merged.  REQ_ONE: each from a request of its
    own."""
    if end is None:
        end = h.get_size()
    result = []
    while start < end:
        length = min(end - start, (1 << 32) - 65536)
        for e in block_status(h, start, length, req_one):
            e = e._replace(end=min(e.end, end))
            if e.start >= end:
                break
            if result and result[-1].flags == e.flags:
                result[-1] = result[-1]._replace(end=e.end)
            else:
                result.append(e)
            start = e.end
    return result


def check_extents(h, model, start=0, end=None, got=None):
    """The extents of bytes [start, end) of the disk agree with the model.

    An unallocated or zero cluster is a hole that reads as zeros.  An unsound
    cluster is neither.  Data may be reported as zeros only where it is zeros.
    GOT: the extents, if the caller has them already.
    """
    if end is None:
        end = model.size
    if got is None:
        got = extents(h, start, end)
    assert got[0].start == start and got[-1].end == end
    runs = iter(model.runs())
    run = next(runs)
    for e in got:
        pos = e.start
        while pos < e.end:
            while run.end <= pos:
                run = next(runs)
            stop = min(run.end, e.end)
            where = f"bytes {pos} to {stop} ({run}): flags {e.flags}"
            if run.kind in (UNALLOCATED, ZERO):
                assert e.flags == HOLE_FLAG | ZERO_FLAG, where
            elif run.kind == UNSOUND:
                assert e.flags == 0, where
            elif e.flags & ZERO_FLAG:
                offset = pos - run.start + run.offset
                for s, t in model.data_segments(offset, stop - pos):
                    b = os.pread(model.fd, t - s, s)
                    assert not b.strip(b"\0"), where
            else:
                assert e.flags == 0, where
            pos = stop


def check_all(h, model):
    """Content and extents.  Where a disk's extents would take too many
    requests, only those at the borders of runs are compared."""
    check_content(h, model)
    if model.size <= 1 << 40:
        if model.size:
            check_extents(h, model)
        return
    for run in model.runs():
        for pos in (run.start, run.end):
            start = max(0, pos - 3 * model.cluster_size)
            end = min(model.size, pos + 3 * model.cluster_size)
            check_extents(h, model, start, end)
            check_extents(h, model, start // 512 * 512 + 1, end - 1)


def serve_and_check(path, *args):
    """Serve PATH and compare all of it with the model."""
    model = qedimg.Model(path)
    try:
        with Server("qed", "file=" + path, *args) as s:
            check_all(s.connect(), model)
    finally:
        model.close()


class Salvaged(qedimg.Model):
    """The model of a damaged image in salvage: UNSOUND reads as zeros."""

    def read(self, offset, length):
        """Read LENGTH bytes of the disk from OFFSET on; never raises
        Unsound."""
        result = []
        cs = self.cluster_size
        while length > 0:
            n = min(length, cs - offset % cs)
            try:
                result.append(super().read(offset, n))
            except qedimg.Unsound:
                result.append(bytes(n))
            offset += n
            length -= n
        return b"".join(result)

    def damages(self, start=0, end=None):
        """The parts of bytes [start, end) of the disk that are UNSOUND, in
        this image or, where it is unallocated, in the backing file.

        Returns [(offset, length, path)] in bytes, with neighbours merged.
        """
        end = self.size if end is None else end
        result = []
        for run in self.runs():
            s, e = max(start, run.start), min(end, run.end)
            if s >= e:
                continue
            parts = []
            if run.kind == UNSOUND:
                parts = [(s, e - s, self.path)]
            elif run.kind == UNALLOCATED and isinstance(self.below, Salvaged):
                parts = self.below.damages(s, min(e, self.below.size))
            for offset, length, path in parts:
                if (result and result[-1][2] == path
                        and sum(result[-1][:2]) == offset):
                    length += result[-1][1]
                    offset = result.pop()[0]
                result.append((offset, length, path))
        return result


#----------------------------------------------------------------------
# Writing.

class Disk:
    """The content that a disk must have: that of BELOW, its backing file as
    another Disk, or zeros; and what was written since.  SIZE is in bytes."""

    PAGE = 65536

    def __init__(self, size, below=None):
        self.size, self.below = size, below
        # A page that is there may be all zeros.  None stands for such a page.
        self.pages = {}

    def copy(self):
        """Another Disk with the same content."""
        other = Disk(self.size, self.below)
        other.pages = {n: p and bytearray(p) for n, p in self.pages.items()}
        return other

    def _pieces(self, offset, length):
        assert 0 <= offset and offset + length <= self.size
        while length > 0:
            page, within = divmod(offset, self.PAGE)
            n = min(length, self.PAGE - within)
            yield page, within, n
            offset += n
            length -= n

    def _page(self, page):
        """The page, as one that can be changed."""
        p = self.pages.get(page)
        if p is None:
            below = None if page in self.pages else self.below
            p = self.pages[page] = bytearray(
                qedimg.read_below(below, page * self.PAGE, self.PAGE))
        return p

    def write(self, b, offset):
        """Write the bytes B from byte OFFSET on."""
        pos = 0
        for page, within, n in self._pieces(offset, len(b)):
            self._page(page)[within:within + n] = b[pos:pos + n]
            pos += n

    def zero(self, n, offset):
        """Write N bytes of zeros from byte OFFSET on."""
        for page, within, n in self._pieces(offset, n):
            if n == self.PAGE:
                if self.below or page in self.pages:
                    self.pages[page] = None
            elif self.below or page in self.pages:
                self._page(page)[within:within + n] = bytes(n)

    def read(self, offset, length):
        """The LENGTH bytes from byte OFFSET on."""
        result = []
        for page, within, n in self._pieces(offset, length):
            if page not in self.pages:
                b = qedimg.read_below(self.below, page * self.PAGE + within, n)
            elif self.pages[page] is None:
                b = bytes(n)
            else:
                b = bytes(self.pages[page][within:within + n])
            result.append(b)
        return b"".join(result)

    def save(self, path):
        """Write a raw file, with holes where nothing was written."""
        assert self.below is None
        with open(path, "wb") as f:
            for page in sorted(p for p in self.pages if self.pages[p]):
                f.seek(page * self.PAGE)
                f.write(self.pages[page])
            f.truncate(self.size)

    def ranges(self):
        """The ranges (start, end) to compare, in bytes: the whole disk if it
        is small, else each place that was written to and its surroundings."""
        if self.size <= 2 * CHUNK:
            return [(0, self.size)]
        result = []
        for page in sorted(self.pages):
            start = max(0, (page - 1) * self.PAGE)
            end = min(self.size, (page + 2) * self.PAGE)
            if result and start <= result[-1][1]:
                result[-1] = result[-1][0], end
            else:
                result.append((start, end))
        return result


def write_if_room(h, disk, b, offset):
    """Write the bytes B from byte OFFSET on, where the host's filesystem may
    be full.  Returns whether there was room.

    If there was none each sector must be old or new, and DISK follows what the
    server has.
    """
    try:
        h.pwrite(b, offset)
    except nbd.Error as e:
        assert e.errno == "ENOSPC", e
        got = h.pread(len(b), offset)
        old = disk.read(offset, len(b))
        for pos in range(0, len(b), 512):
            part = slice(pos, pos + 512)
            assert got[part] in (old[part], b[part])
        disk.write(got, offset)
        return False
    disk.write(b, offset)
    return True


def check_disk(h, disk):
    """The server has the disk's content."""
    assert h.get_size() == disk.size
    for start, end in disk.ranges():
        check_range(h, disk, start, end)


def qemu_can_open(header):
    """Does QEMU 7.2 open an image with this header?  It refuses some legal
    ones."""
    return header["cluster_size"] < 4 << 20 and header["table_size"] > 1


def qemu_check(path):
    """QEMU finds nothing wrong, if it opens it.  (Status 3, leaks, isn't to
    be trusted.)"""
    model = qedimg.Model(path)
    model.close()
    if not qemu_can_open(model.header):
        return
    p = subprocess.run(["qemu-img", "check", "-f", "qed", path],
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT)
    assert p.returncode in (0, 3), p.stdout.decode(errors="replace")


def check_image(path, disk, leaks=False, qemu=True):
    """An image that no process has open is in order and has the disk's
    content.

    The model judges and, with QEMU, so does qemu-img, which finds the backing
    file by the name in the header.  LEAKS: leaked clusters are allowed.
    """
    refs = qedimg.References(path)
    refs.check_clean(leaks)
    model = qedimg.Model(path, disk.below)
    assert model.size == disk.size
    for start, end in disk.ranges():
        for offset in range(start, end, MiB):
            n = min(MiB, end - offset)
            check_bytes(model.read(offset, n), disk.read(offset, n), offset)
    # There is no data anywhere else.
    for part in model.runs():
        if part.kind == DATA:
            for s, t in model.data_segments(part.offset,
                                            part.end - part.start):
                offset = part.start + s - part.offset
                for pos in range(offset, offset + t - s, MiB):
                    n = min(MiB, offset + t - s - pos)
                    check_bytes(model.read(pos, n), disk.read(pos, n), pos)
    model.close()
    if not qemu:
        return
    qemu_check(path)
    # It dies on block status of tables with 16 clusters.
    if (qemu_can_open(refs.header) and refs.header["table_size"] < 16
            and disk.size <= 1 << 40):
        raw = os.path.join(TMP, "check.raw")
        run("qemu-img", "convert", "-f", "qed", "-O", "raw", path, raw)
        assert os.path.getsize(raw) == disk.size
        with open(raw, "rb") as f:
            for start, end in disk.ranges():
                for offset in range(start, end, MiB):
                    n = min(MiB, end - offset)
                    check_bytes(os.pread(f.fileno(), n, offset),
                                disk.read(offset, n), offset)
        os.unlink(raw)


def random_op(r, h, disk, offset, n):
    """Write, zero or trim N bytes from OFFSET on, on the server and in DISK.
    Returns the kind of request."""
    kind = r.choice(("write", "write", "write", "fua", "zero", "no_hole",
                     "trim"))
    if kind in ("write", "fua"):
        b = r.randbytes(n)
        h.pwrite(b, offset, nbd.CMD_FLAG_FUA if kind == "fua" else 0)
        disk.write(b, offset)
    elif kind == "trim":
        h.trim(n, offset)
        # Zeros, or what was there, as the host's filesystem likes it.
        got, old = h.pread(n, offset), disk.read(offset, n)
        assert all(g in (o, 0) for g, o in zip(got, old)), (offset, n)
        disk.write(got, offset)
    else:
        h.zero(n, offset, nbd.CMD_FLAG_NO_HOLE if kind == "no_hole" else 0)
        disk.zero(n, offset)
    return kind


class Crowd:
    """What the clients of random_clients share."""

    SLOT = 1789                     # odd, so that nothing is aligned

    def __init__(self, disk):
        self.disk = disk
        self.lock = threading.Lock()
        self.busy = set()           # slots with a request in flight
        self.failed = threading.Event()


class Client(threading.Thread):
    """One client of random_clients, with a connection of its own; it sends
    COUNT requests."""

    def __init__(self, uri, crowd, seed, count):
        super().__init__()
        self.h = connect(uri)
        self.crowd, self.disk, self.count = crowd, crowd.disk, count
        self.r = random.Random(seed)
        self.flying = {}        # cookie: (what to do when it's done, slots)

    def take(self):
        """Reserve a range of which no byte is in flight.

        Returns its slots, its offset and its length, both in bytes.
        """
        crowd, slot = self.crowd, self.crowd.SLOT
        n = 1 if self.r.random() < 0.5 else int(2 ** self.r.uniform(0, 6.5))
        slots = crowd.disk.size // slot
        while not crowd.failed.is_set():
            first = self.r.randrange(slots - n)
            # Often in the same few clusters.
            if self.r.random() < 0.5:
                first %= 400
            taken = range(first, first + n)
            with crowd.lock:
                if crowd.busy.isdisjoint(taken):
                    crowd.busy.update(taken)
                    break
        else:
            raise AssertionError("another client has failed")
        start = first * slot + self.r.randrange(100)
        return taken, start, (first + n) * slot - start

    def release(self, taken):
        """Give the slots back."""
        with self.crowd.lock:
            self.crowd.busy.difference_update(taken)

    def submit(self):
        """Send one request at random."""
        h, r, disk = self.h, self.r, self.disk
        kind = r.choice(("write",) * 6 + ("zero", "no_hole", "trim", "read",
                                          "read", "flush"))
        if kind == "flush":
            self.flying[h.aio_flush()] = (lambda: None), ()
            return
        taken, offset, n = self.take()
        if kind == "write":
            b = r.randbytes(n)
            flags = nbd.CMD_FLAG_FUA if r.random() < 0.05 else 0
            cookie = h.aio_pwrite(b, offset, flags=flags)
            done = lambda: disk.write(b, offset)
        elif kind in ("zero", "no_hole"):
            flags = nbd.CMD_FLAG_NO_HOLE if kind == "no_hole" else 0
            cookie = h.aio_zero(n, offset, flags=flags)
            done = lambda: disk.zero(n, offset)
        else:
            buf = nbd.Buffer(n)
            old = disk.read(offset, n)
            if kind == "read":
                cookie = h.aio_pread(buf, offset)
                def done():
                    check_bytes(bytes(buf.to_bytearray()), old, offset)
            else:
                cookie = h.aio_trim(n, offset)
                def done():
                    self.flying[h.aio_pread(buf, offset)] = trimmed, taken
                    return True
                def trimmed():
                    got = bytes(buf.to_bytearray())
                    assert all(g in (0, o) for g, o in zip(got, old))
                    disk.write(got, offset)
        self.flying[cookie] = done, taken

    def run(self):
        """The thread: send the requests, and check each answer."""
        try:
            while self.count > 0 or self.flying:
                while self.count > 0 and len(self.flying) < 16:
                    self.count -= 1
                    self.submit()
                self.h.poll(-1)
                for cookie in list(self.flying):
                    if self.h.aio_command_completed(cookie):
                        done, taken = self.flying.pop(cookie)
                        # Pages of the model are made on first use.
                        with self.crowd.lock:
                            more = done()
                        if not more:
                            self.release(taken)
            self.h.shutdown()
        except BaseException:
            self.crowd.failed.set()
            raise


def random_clients(uri, disk, seed, count):
    """Four connections with 16 requests in flight each, COUNT on each: writes,
    zeros, trims, reads and flushes in any mix.

    Each answer is checked, and DISK follows.  Requests in flight never share a
    byte; they share clusters, L2 slices and tables all the time.
    """
    crowd = Crowd(disk)
    clients = [Client(uri, crowd, f"{seed} {i}", count) for i in range(4)]
    for c in clients:
        c.start()
    for c in clients:
        c.join()
    assert not crowd.failed.is_set()


#----------------------------------------------------------------------
# Overlays.

def save_layer(r, path, disk, backing, raw, cs, ts):
    """Make an overlay of the file BACKING (with the flag for raw, if RAW),
    with clusters of all kinds at random.

    DISK, whose own backing file has BACKING's content, gets what the clusters
    contain.  CS, the cluster size, is in bytes; TS, the table size, is in
    clusters.
    """
    img = qedimg.Image(disk.size, cs, ts, backing=backing)
    if raw:
        img.header["features"] |= qedimg.F_BACKING_FORMAT_NO_PROBE
    for c in range(-(-disk.size // cs)):
        n = min(cs, disk.size - c * cs)
        kind = r.random()
        if kind < 0.2:
            b = r.randbytes(n)
            img.data(c, b)
            disk.write(b, c * cs)
        elif kind < 0.3:
            img.zero(c)
            disk.zero(n, c * cs)
    img.save(path)


class Overlay:
    """An empty overlay, its content so far (disk), and its backing files: one
    of KINDS, with data at random.  SIZE and CS, the cluster size, are in
    bytes; TS, the table size, is in clusters."""

    KINDS = ("full", "short", "long", "sparse", "odd", "chain")

    def __init__(self, r, kind, size, cs=65536, ts=4):
        self.path = TMP + "/overlay.qed"
        base = Disk({"short": size * 2 // 3 // 512 * 512,
                     "long": size + 123 * 512,
                     "odd": size // 2 // 512 * 512 + 77}.get(kind, size))
        if kind in ("sparse", "chain"):
            for _ in range(30):
                n = int(2 ** r.uniform(9, 17))
                base.write(r.randbytes(n), r.randrange(base.size - n))
        else:
            base.write(r.randbytes(base.size), 0)
        self.files = [TMP + "/base.raw"]
        base.save(self.files[0])
        if kind == "chain":
            # The one in the middle is the shortest.
            for layer_size, layer_cs in ((size * 3 // 4 // 512 * 512, 8192),
                                         (size, 16384)):
                path = TMP + f"/layer-{layer_cs}.qed"
                disk = Disk(layer_size, base)
                # A name without a slash is beside the image.
                save_layer(r, path, disk, os.path.basename(self.files[-1]),
                           len(self.files) == 1, layer_cs, 2)
                self.files.append(path)
                base = disk
        self.disk = Disk(size, base)
        self.image(cs, ts).save(self.path)
        self.before = self._state()

    def image(self, cs, ts):
        """Start again with an empty overlay, which the caller must save.  CS is
        in bytes, TS in clusters."""
        self.disk.pages = {}
        img = qedimg.Image(self.disk.size, cs, ts,
                           backing=os.path.basename(self.files[-1]))
        if len(self.files) == 1:
            img.header["features"] |= qedimg.F_BACKING_FORMAT_NO_PROBE
        return img

    def _state(self):
        result = []
        for path in self.files:
            st = os.stat(path)
            with open(path, "rb") as f:
                result.append((st.st_mtime_ns, st.st_ctime_ns, f.read()))
        return result

    def check_below(self):
        """The backing files are unchanged, as are their times."""
        assert self._state() == self.before

    def check(self, leaks=False):
        """All is as it must be, now that no process has the overlay open."""
        self.check_below()
        check_image(self.path, self.disk, leaks)
