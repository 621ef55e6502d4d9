#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Zero clusters read as zeros: between data clusters, in whole L2 tables, and
# in the last cluster, which is partial.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import qedimg, qedtest

path = qedtest.TMP + "/z.qed"
img = qedimg.Image(5 * (512 << 12) + 512, 4096, 1)
for c in (0, 1, 2, 5, 6, 511, 512, 1535, 2048):
    img.data(c)
for c in (3, 4, 7, 510, 513, *range(1024, 1535), *range(1536, 2048), 2560):
    img.zero(c)
img.save(path)
qedtest.serve_and_check(path)
END
