#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A file that is cut is refused if its header or L1 table is incomplete.
# Otherwise what is left reads right, and the rest gives EIO.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import os, re
import qedimg, qedtest

path = qedtest.TMP + "/c.qed"
CS = 4096
img = qedimg.Image(4 * 1024 * CS, CS, 2, header_size=2)
for c in (0, 1, 1024, 2, 1025, 2048, 3):
    img.data(c)
img.zero(4)
img.save(path)
whole = img.end * CS
l1_end = (img.l1_at + 2) * CS

lengths = {64, 65, 512, CS - 1, CS + 1, whole + 1, whole + CS}
for c in range(1, img.end + 1):
    lengths |= {c * CS - 512, c * CS - 1, c * CS}
    if c % 4 == 0:
        lengths |= {c * CS + 1, c * CS + 2048}
for length in qedtest.some(sorted(lengths), 15):
    print("cut at", length)
    img.length = length
    img.save(path)
    if length < l1_end:
        qedtest.refused(re.escape(f"{path}: header: l1_table_offset 8192: "
                                  "the L1 table of 8192 bytes must lie "
                                  f"inside the file of {length} bytes"),
                        "qed", path)
    else:
        qedtest.serve_and_check(path)
END
