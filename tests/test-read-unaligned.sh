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

# Requests of any length at any byte: in a cluster, over borders of clusters
# and of L2 tables, up to the end of a disk which ends inside a cluster, and
# as large as NBD clients send them.
"$PYTHON" - <<'END'
import random
import qedimg, qedtest

CS = 4096
SPAN = 512 * CS                 # of an L2 table
SIZE = 66 * qedtest.MiB + 3 * 512
path = qedtest.TMP + "/u.qed"
r = random.Random(1)

# Stretches that are contiguous in the file, and jumps.
img = qedimg.Image(SIZE, CS, 1)
clusters = -(-SIZE // CS)
places = list(range(100, 100 + clusters))
for i in range(0, clusters - 64, 64):
    if r.random() < 0.5:
        places[i:i + 64] = r.sample(places[i:i + 64], 64)
# Tables where no data is.
for i in range(-(-clusters // 512)):
    img.table(i, at=100 + clusters + i)
for c in range(clusters):
    if c // 32 % 5 == 1:
        continue
    elif c // 32 % 5 == 2 and r.random() < 0.5:
        img.zero(c)
    else:
        img.data(c, at=places[c])
img.save(path)

model = qedimg.Model(path)
with qedtest.Server("qed", path) as s:
    h = s.connect()
    def check(offset, n):
        qedtest.check_read(h, model, offset, n)

    # Around borders.
    for border in (2 * CS, 31 * CS, 32 * CS, SPAN, 2 * SPAN, 7 * SPAN):
        for start in (-CS - 1, -513, -512, -1, 0, 1):
            for n in (1, 2, 511, 513, CS - 1, CS, CS + 1, 3 * CS):
                check(border + start, n)
    # The end.
    for n in (1, 511, 512, 513, 1536, 1537, CS, 10 * CS + 1):
        check(SIZE - n, n)
    # Large: 32 MiB as all servers take, 64 MiB as nbdkit does at most.
    for n in (32 << 20, 64 << 20):
        for offset in (0, 1, SPAN - 513, SIZE - n):
            check(offset, n)
    # Anywhere.
    for _ in range(500):
        n = int(2 ** r.uniform(0, 22))
        check(r.randrange(SIZE - n), n)
END
