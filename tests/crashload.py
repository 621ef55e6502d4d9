# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

"""A load of requests for servers and stores that are killed under it, and what
must be on the disk afterwards.

A History records each write, and each answer.  A Load, which is a thread, sends
random requests and adds to the history.  Once everything is up again,
History.check reads the whole disk.  Each sector must have the content of one of
the writes that may be there:

  - the last one that was durable before the crash, or a later one;
  - if only the NBD server was killed, the last one that was acknowledged, or a
    later one.

A write is durable if it had FUA and was acknowledged, or if a flush that was
sent after its acknowledgement has succeeded.  A request that failed, or got no
answer, may have happened or not.  No two requests in flight share a sector.

Each sector that a write number N leaves has N and the sector's number in it.
Write number 0 is that of zeros."""

import array
import collections
import errno
import random
import select
import struct
import threading

import nbd

SECTOR = 512
CHUNK = 4 << 20
UNKNOWN = (1 << 64) - 1         # in History.now: a failed write was here

_FIELDS = struct.Struct("<QQ")
_ZEROS = bytes(SECTOR)


class Lost(AssertionError):
    """Something else is on the disk than what must be there."""


def content(number, sector):
    """What write NUMBER leaves in a sector."""
    if number == 0:
        return _ZEROS
    return _FIELDS.pack(number, sector) * (SECTOR // _FIELDS.size)


def number_of(b, sector):
    """The write that left the bytes B in the sector, or None if none has."""
    number, _ = _FIELDS.unpack_from(b)
    return number if b == content(number, sector) else None


class Write:
    """A write, or a zeroing, of N sectors from START on."""

    __slots__ = ("number", "start", "n", "fua", "acknowledged", "durable")

    def __init__(self, number, start, n, fua):
        self.number, self.start, self.n, self.fua = number, start, n, fua
        self.acknowledged = self.durable = False


class History:
    """What has been written to a disk of SIZE bytes, which began with zeros."""

    def __init__(self, size):
        self.sectors = size // SECTOR
        # Since the last check: what was there then, what an uninterrupted disk
        # has now, and the writes, in the order in which they were sent.
        self.base = array.array("Q", bytes(8 * self.sectors))
        self.now = self.base[:]
        self.writes = []
        self.number = 0
        # In all.
        self.count = collections.Counter()
        self.errors = collections.Counter()

    def copy(self):
        """The same history, to be checked against another disk."""
        h = History(self.sectors * SECTOR)
        h.base, h.now, h.writes = self.base[:], self.now[:], self.writes[:]
        h.number = self.number
        return h

    def check(self, h, flushed_only):
        """Read the disk on the NBD handle H, and raise Lost if something that
        must be there is not.  FLUSHED_ONLY: the machine has crashed, so what
        was acknowledged but not flushed may be lost.

        Then go on with what is there.  Returns how many sectors had to have
        changed since the last check, and from how many an acknowledged write
        that was not flushed is gone.
        """
        must = self.base[:]
        may = {}                # sector: writes, any of which may be there
        unflushed = {}          # sector: the last acknowledged one of them
        for w in self.writes:
            number, sectors = w.number, range(w.start, w.start + w.n)
            if w.durable or w.acknowledged and not flushed_only:
                for s in sectors:
                    must[s] = number
                    may.pop(s, None)
                    unflushed.pop(s, None)
            else:
                for s in sectors:
                    may.setdefault(s, []).append(number)
                    if w.acknowledged:
                        unflushed[s] = number

        found = must[:]
        for first in range(0, self.sectors, CHUNK // SECTOR):
            n = min(CHUNK // SECTOR, self.sectors - first)
            got = h.pread(n * SECTOR, first * SECTOR)
            if got == b"".join(map(content, must[first:first + n],
                                   range(first, first + n))):
                continue
            for i in range(n):
                s = first + i
                b = got[i * SECTOR:(i + 1) * SECTOR]
                if b == content(must[s], s):
                    continue
                number = number_of(b, s)
                if number is None:
                    raise Lost(f"sector {s}: no write left what is there: "
                               f"{b[:32].hex()}...")
                if number not in may.get(s, ()):
                    raise Lost(f"sector {s}: it is as of write {number}; write "
                               f"{must[s]} is lost")
                found[s] = number

        wanted = {s for w in self.writes for s in range(w.start, w.start + w.n)
                  if must[s] != self.base[s]}
        gone = sum(found[s] == must[s] != number
                   for s, number in unflushed.items())
        self.base, self.now, self.writes = found, found[:], []
        return len(wanted), gone


class Load(threading.Thread):
    """Keep some random requests in flight on each of some connections, until
    stop is called or the server is gone.

    CHECK_READS: what is read must be what was acknowledged last.  It needn't
    be if the store fails, because it may have lost what was not flushed.
    FLUSHES: the share of flushes in the requests."""

    def __init__(self, uri, history, seed, check_reads=True, flushes=0.04,
                 connections=2, depth=8):
        super().__init__()
        self.history = history
        self.check_reads = check_reads
        self.flushes = flushes
        self.r = random.Random(seed)
        self.depth = depth
        self.busy = set()       # sectors of requests in flight
        self.stopping = False
        self.failure = None
        self.handles = []
        for _ in range(connections):
            h = nbd.NBD()
            h.connect_uri(uri)
            self.handles.append(h)

    # Thread.join would hide an exception.
    def join(self):
        super().join()
        if self.failure:
            raise self.failure

    def stop(self):
        """Send no more, wait for the answers, and end."""
        self.stopping = True
        self.join()
        for h in self.handles:
            if h.aio_is_ready():
                h.shutdown()

    def run(self):
        try:
            while not all(h.aio_is_dead() or h.aio_is_closed()
                          for h in self.handles):
                if self.stopping and not any(h.aio_in_flight()
                                             for h in self.handles):
                    break
                self.step()
        except BaseException as e:
            self.failure = e

    def step(self):
        readers, writers = [], []
        for h in self.handles:
            if h.aio_is_dead() or h.aio_is_closed():
                continue
            try:
                while not self.stopping and h.aio_in_flight() < self.depth:
                    self.submit(h)
                if h.aio_get_direction() & nbd.AIO_DIRECTION_WRITE:
                    writers.append(h)
                readers.append(h)
            except nbd.Error:
                if not h.aio_is_dead() and not h.aio_is_closed():
                    raise
        select.select([h.aio_get_fd() for h in readers],
                      [h.aio_get_fd() for h in writers], [], 0.1)
        for h in readers:
            try:
                h.poll(0)
            except nbd.Error:
                if not h.aio_is_dead() and not h.aio_is_closed():
                    raise

    def take(self):
        """A range of sectors with nothing in flight: where it starts, and how
        long it is."""
        while True:
            n = int(2 ** self.r.uniform(0, 7))
            start = self.r.randrange(self.history.sectors - n)
            # Often in the same few clusters.
            if self.r.random() < 0.3:
                start %= 4096
            if self.busy.isdisjoint(range(start, start + n)):
                self.busy.update(range(start, start + n))
                return start, n

    def answered(self, kind, error):
        """Count the answer.  Returns whether the request has succeeded."""
        if error == errno.ENOTCONN:
            return False        # no answer
        if error:
            name = errno.errorcode.get(error, error)
            self.history.errors[f"{kind}: {name}"] += 1
            return False
        self.history.count[kind] += 1
        return True

    def submit(self, h):
        """Send one request."""
        if self.r.random() < self.flushes:
            self.submit_flush(h)
            return
        x = self.r.random()
        if x < 0.1:
            self.submit_read(h)
        else:
            self.submit_write(h, fua=x > 0.97, zero=x < 0.2)

    def submit_flush(self, h):
        covered = [w for w in self.history.writes
                   if w.acknowledged and not w.durable]

        def done(e):
            if self.answered("flush", e.value):
                for w in covered:
                    w.durable = True
            return 1
        h.aio_flush(completion=done)

    def submit_read(self, h):
        start, n = self.take()
        want = self.history.now[start:start + n]
        buf = nbd.Buffer(n * SECTOR)

        def done(e):
            self.busy.difference_update(range(start, start + n))
            if self.answered("read", e.value) and self.check_reads:
                got = buf.to_bytearray()
                for i, number in enumerate(want):
                    b = got[i * SECTOR:(i + 1) * SECTOR]
                    if number != UNKNOWN and b != content(number, start + i):
                        self.failure = Lost(
                            f"sector {start + i}: write {number} was read as "
                            f"{b[:32].hex()}...")
                        self.stopping = True
            return 1
        h.aio_pread(buf, start * SECTOR, completion=done)

    def submit_write(self, h, fua, zero):
        history = self.history
        start, n = self.take()
        if zero:
            number = 0
        else:
            history.number += 1
            number = history.number
        w = Write(number, start, n, fua)
        history.writes.append(w)

        def done(e):
            self.busy.difference_update(range(start, start + n))
            now = number
            if self.answered("zero" if zero else "fua" if fua else "write",
                             e.value):
                w.acknowledged = True
                w.durable = fua
            else:
                now = UNKNOWN
            history.now[start:start + n] = array.array("Q", [now]) * n
            return 1
        if zero:
            h.aio_zero(n * SECTOR, start * SECTOR, completion=done,
                       flags=self.r.choice((0, nbd.CMD_FLAG_NO_HOLE)))
        else:
            b = b"".join(content(number, s) for s in range(start, start + n))
            h.aio_pwrite(b, start * SECTOR, completion=done,
                         flags=nbd.CMD_FLAG_FUA if fua else 0)
