#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# cache-size takes sizes as nbdkit writes them.  A bad or too small one is
# refused with a message that says so.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import qedimg, qedtest
img = qedimg.Image(1 << 20)
img.data(7, b"seven")
img.save(qedtest.TMP + "/x.qed")
END
for v in '' none 1x -1 -64k 0.5M 99999999999999999999; do
    refused 'size' qed $d/x.qed cache-size="$v"
done
for v in 0 1 65535; do
    refused "cache-size.*$v" qed $d/x.qed cache-size=$v
done
for v in 65536 64k 1M 32M 1G 1T 7E; do
    start_nbdkit qed $d/x.qed cache-size=$v
    nbdsh -u "$uri" -c 'assert h.pread (5, 7 * 65536) == b"seven"'
    stop_nbdkit
done
