#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Data clusters are data.  Unallocated clusters and zero clusters are holes
# that read as zeros.  Unsound clusters are reported as data, so that a copy
# reads them and fails.  Neighbours of a kind are one extent.

source ./functions.sh nbd nbdinfo

"$PYTHON" - <<'END'
import qedimg, qedtest
img = qedimg.Image(6 * (512 << 12), 4096, 1)
full = b"\1" * 4096
for c in (0, 1, 3, 7, 511, 512):
    img.data(c, full)
img.zero(4)
img.entry(8, 4095)              # unsound
img.entry(9, 1 << 60)
img.zero(1023)
img.l1_entry(2, 8)              # 1024 to 1535
img.zero(2560)
img.save(qedtest.TMP + "/k.qed")
END
start_nbdkit qed $d/k.qed
nbdinfo --map "$uri" | tee $d/map
"$PYTHON" - <<'END' >$d/expected
for start, end, flags, words in ((0, 2, 0, "data"), (2, 3, 3, "hole,zero"),
                                 (3, 4, 0, "data"), (4, 7, 3, "hole,zero"),
                                 (7, 10, 0, "data"),
                                 (10, 511, 3, "hole,zero"),
                                 (511, 513, 0, "data"),
                                 (513, 1024, 3, "hole,zero"),
                                 (1024, 1536, 0, "data"),
                                 (1536, 3072, 3, "hole,zero")):
    print("%10d  %10d  %3d  %s" % (start * 4096, (end - start) * 4096, flags,
                                   words))
END
diff -u $d/expected $d/map
