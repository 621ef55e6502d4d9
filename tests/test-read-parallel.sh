#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Four connections with many requests in flight each read an image with many
# more tables than the smallest cache holds.  Each answer is right.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import errno, random
import nbd, qedimg, qedtest

path = qedtest.TMP + "/p.qed"
CS = 4096
SPAN = 512 * CS
img = qedimg.Image(400 * SPAN, CS, 1)
r = random.Random(2)
for i in range(400):
    for j in r.sample(range(512), 12):
        img.data(i * 512 + j)
    img.data(i * 512 + 511)
    img.data(i * 512)
    img.zero(i * 512 + 1)
    if i % 10 == 0:
        img.entry(i * 512 + 2, img.end * CS + 512)
img.save(path)
model = qedimg.Model(path)

N = 1500
with qedtest.Server("qed", path, "cache-size=64k") as s:
    handles = [s.connect() for _ in range(4)]
    tasks = {}

    def submit(k, i):
        """A request for something that table I maps."""
        h = handles[k]
        n = int(2 ** r.uniform(0, 16))
        j = r.choice((0, 0, 2, 510, r.randrange(512)))
        offset = (i * 512 + j) * CS + r.randrange(-CS, CS)
        offset = min(max(offset, 0), model.size - n)
        buf = nbd.Buffer(n)
        cookie = h.aio_pread(buf, offset)
        tasks[k, cookie] = (offset, n, buf)

    def reap(k):
        h = handles[k]
        while True:
            try:
                cookie = h.aio_peek_command_completed()
            except nbd.Error:       # nothing is under way
                return
            if cookie == 0:
                return
            offset, n, buf = tasks.pop((k, cookie))
            try:
                h.aio_command_completed(cookie)
                got = bytes(buf.to_bytearray())
            except nbd.Error as e:
                assert e.errnum == errno.EIO, e
                got = None
            try:
                want = model.read(offset, n)
            except qedimg.Unsound:
                want = None
            if got is None or want is None:
                assert got == want, (offset, n)
            else:
                qedtest.check_bytes(got, want, offset)

    def answer(k, left):
        while handles[k].aio_in_flight() > left:
            handles[k].poll(1000)
            reap(k)

    # All connections want the same table at once, which is not in the
    # cache, or each another one; and then the next, while answers are
    # still to come.
    for round in range(N):
        i = r.randrange(400)
        for _ in range(4):
            for k in range(4):
                submit(k, i if round % 2 else r.randrange(400))
        for k in range(4):
            answer(k, 12)
    for k in range(4):
        answer(k, 0)
    assert not tasks
END
