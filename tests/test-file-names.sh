#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# File names may have spaces, characters that mean more than a name to nbdkit
# or QEMU, and bytes that are no characters.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import os, subprocess
import qedimg, qedtest

img = qedimg.Image(1 << 20)
img.data(3, b"three")
NAMES = (b"a b.qed", b" x", b"key=value.qed", b"a:b.qed", b"nbd:x",
         b"json:{}", b"-x.qed", b"file=", b"file=x", b"a\nb",
         "\N{SNOWMAN}\N{LATIN SMALL LETTER E WITH ACUTE}.qed".encode(),
         b"\xff\xfe\x80.qed", b"%s%n.qed", b"'\"$x`y`", b"\x1b[31mred",
         b"n" * 255)
for name in qedtest.some(NAMES, 4):
    print(name)
    full = os.fsencode(qedtest.TMP) + b"/" + name
    img.save(full)
    # file= takes any name.  Without it, so does a path that starts with / or
    # has no =.
    args = [b"file=" + full, full, b"file=" + name]
    if b"=" not in name and not name.startswith(b"-"):
        args.append(name)
    os.chdir(qedtest.TMP)
    for arg in args:
        with qedtest.Server("qed", arg) as s:
            assert s.connect().pread(5, 3 * 65536) == b"three"
    # Messages name the file, too, without the characters that would confuse a
    # terminal or a log.
    with open(full, "wb") as f:
        f.write(b"x" * 65536)
    p = subprocess.run([b"nbdkit", b"-U", b"sock", b"qed", b"file=" + name],
                       capture_output=True, timeout=60)
    assert (full.replace(b"\n", b"?").replace(b"\x1b", b"?") + b": header: magic 78"
            in p.stderr), p.stderr
    os.unlink(full)
END
