#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Files that are no QED images, some of them too short to tell, are refused.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import qedimg, qedtest

path = qedtest.TMP + "/x.qed"
img = qedimg.Image(1 << 20)
img.save(path)
good = open(path, "rb").read()

def refused(contents, regex):
    with open(path, "wb") as f:
        f.write(contents)
    qedtest.refused(regex, "qed", path)

# Cut inside the header.
for n in (0, 1, 3, 4, 8, 16, 63):
    refused(good[:n], f"{path}: header: the file has {n} bytes: .*not a QED")
# Each byte of the magic counts.
for i in range(4):
    bad = bytearray(good)
    bad[i] ^= 0x20
    refused(bad, f"{path}: header: magic {bad[:4].hex(' ')}: .*not a QED")
for start in (b"a text, say", b"QFI\xfa\0\0\0\3", b"\0" * 64, b"\xff" * 64, b"\0DEQ"):
    refused(start.ljust(65536, b"\0"),
            f"{path}: header: magic {start[:4].hex(' ')}: .*not a QED")
END
