#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Block status of any range starts at the offset of the request, to the byte.
# With REQ_ONE the answer is a single extent inside the request.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import random
import qedimg, qedtest

path = qedtest.TMP + "/r.qed"
img = qedimg.Image(8 * (512 << 12) + 1536, 4096, 1)
r = random.Random(4)
for c in range(5 * 512):
    k = r.random()
    if k < 0.3:
        img.data(c)
    elif k < 0.5:
        img.zero(c)
    elif k < 0.52:
        img.entry(c, 0x1001)
img.data(8 * 512)
img.save(path)
model = qedimg.Model(path)
size = model.size

with qedtest.Server("qed", path) as s:
    h = s.connect()
    whole = qedtest.extents(h)
    qedtest.check_extents(h, model, got=whole)
    ends = {e.end for e in whole}
    assert qedtest.extents(h, req_one=True) == whole
    for i in range(1500):
        n = min(size, int(2 ** r.uniform(0, 25)))
        start = r.choice((r.randrange(size), r.choice(whole).start,
                          r.choice(whole).end - 1, size - n))
        n = min(n, size - start)
        one = qedtest.block_status(h, start, n, req_one=True)
        assert len(one) == 1 and one[0].start == start
        assert one[0].end <= start + n
        # An answer to REQ_ONE may be shorter, but is correct.
        qedtest.check_extents(h, model, start, one[0].end, one)
        many = qedtest.block_status(h, start, n)
        assert many[0].start == start
        for a, b in zip(many, many[1:]):
            assert a.end == b.start and a.flags != b.flags
            assert a.end in ends, a
        got = qedtest.extents(h, start, start + n)
        assert [e.flags for e in got] == \
            [e.flags for e in whole if e.end > start and e.start < start + n]
        assert {e.end for e in got[:-1]} <= ends
END
