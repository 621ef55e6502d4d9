#!/usr/bin/env bash
# nbdkit-qed
# Copyright (C) 2026 nbdkit-qed authors
#
# Redistribution and use in source and binary forms, with or without
# modification, are permitted provided that the following conditions are
# met:
#
# * Redistributions of source code must retain the above copyright
# notice, this list of conditions and the following disclaimer.
#
# * Redistributions in binary form must reproduce the above copyright
# notice, this list of conditions and the following disclaimer in the
# documentation and/or other materials provided with the distribution.
#
# * Neither the name of nbdkit-qed nor the names of its contributors may be
# used to endorse or promote products derived from this software without
# specific prior written permission.
#
# THIS SOFTWARE IS PROVIDED BY THE AUTHORS AND CONTRIBUTORS ''AS IS'' AND
# ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO,
# THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A
# PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE AUTHORS OR
# CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
# SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT
# LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF
# USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND
# ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY,
# OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT
# OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF
# SUCH DAMAGE.

source ./functions.sh
set -e
set -x
requires_nbd
requires_qemu

# Four connections with 16 requests in flight each, writes, zeros, trims,
# reads and flushes in any mix: each answer and in the end each byte is as in
# the model.  Requests in flight never share a byte, but clusters, L2 slices
# and tables all the time.  (I1, I8)
"$PYTHON" - <<'END'
import random, threading
import nbd, qedimg, qedtest

path = qedtest.TMP + "/c.qed"
SLOT = 1789                     # odd, so that nothing is aligned
lock = threading.Lock()
busy = set()                    # slots with a request in flight
failed = threading.Event()

class Client(threading.Thread):
    def __init__(self, uri, disk, seed, count):
        super().__init__()
        self.h = qedtest.connect(uri)
        self.disk, self.count = disk, count
        self.r = random.Random(seed)
        self.flying = {}        # cookie: (what to do when it's done, slots)

    def take(self):
        """A range of which no byte is in flight."""
        n = 1 if self.r.random() < 0.5 else int(2 ** self.r.uniform(0, 6.5))
        slots = self.disk.size // SLOT
        while not failed.is_set():
            first = self.r.randrange(slots - n)
            # Often in the same few clusters.
            if self.r.random() < 0.5:
                first %= 400
            taken = range(first, first + n)
            with lock:
                if busy.isdisjoint(taken):
                    busy.update(taken)
                    break
        else:
            raise AssertionError("another client has failed")
        start = first * SLOT + self.r.randrange(100)
        return taken, start, (first + n) * SLOT - start

    def release(self, taken):
        with lock:
            busy.difference_update(taken)

    def submit(self):
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
                    qedtest.check_bytes(bytes(buf.to_bytearray()), old,
                                        offset)
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
        try:
            while self.count > 0 or self.flying:
                while self.count > 0 and len(self.flying) < 16:
                    self.count -= 1
                    self.submit()
                self.h.poll(-1)
                for cookie in list(self.flying):
                    if self.h.aio_command_completed(cookie):
                        done, taken = self.flying.pop(cookie)
                        # Pages of the model are made by whoever needs them.
                        with lock:
                            more = done()
                        if not more:
                            self.release(taken)
            self.h.shutdown()
        except BaseException:
            failed.set()
            raise

for cs, ts in qedtest.some(((4096, 1), (65536, 4), (1 << 20, 2)), 1):
    size = 24 << 20
    qedimg.Image(size, cs, ts).save(path)
    disk = qedtest.Disk(size)
    for round in qedtest.some(range(3), 2):
        with qedtest.Server("qed", path, "cache-size=64k") as s:
            n = len(qedtest.some(range(500), 100))
            clients = [Client(s.uri, disk, f"{cs} {round} {i}", n)
                       for i in range(4)]
            for c in clients:
                c.start()
            for c in clients:
                c.join()
            assert not failed.is_set()
            qedtest.check_disk(s.connect(), disk)
        qedtest.check_image(path, disk)
END
