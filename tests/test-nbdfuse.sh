#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# nbdfuse makes the disk a file, for programs that do not speak NBD.

source ./functions.sh nbd fuse

"$PYTHON" - <<'END'
import qedimg, qedtest
path = qedtest.TMP + "/x.qed"
img = qedimg.Image(4 << 20)
for c in (0, 5, 7, 63):
    img.data(c)
img.save(path)
with open(qedtest.TMP + "/x.raw", "wb") as f:
    f.write(qedimg.Model(path).read(0, 4 << 20))
END
start_nbdkit qed $d/x.qed
start_nbdfuse $d/mnt/disk -r
cmp $d/mnt/disk $d/x.raw
