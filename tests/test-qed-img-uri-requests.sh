#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# map of what an NBD server exports reads tables ahead: it takes few requests,
# not one for each slice of a table.

source ./functions.sh nbd libnbd filter:log

cd $d
"$PYTHON" - <<'END'
import qedimg
img = qedimg.Image(8 << 30)
for t in range(4):
    for c in range(0, img.n, 64):
        img.data(t * img.n + c, b"x")
img.save("x.qed")
END
start_nbdkit --filter=log file $d/x.qed logfile=$d/requests
for i in map check; do
    : >requests
    ends 0 qed-img $i "$uri"
    # Four tables of 64 slices.
    n=$(grep -c ' Read id=' requests)
    echo "$i: $n reads"
    test $n -le 40
done
