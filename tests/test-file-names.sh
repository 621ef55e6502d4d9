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

# Names with spaces, with what nbdkit or QEMU would take for more than a
# name, and with bytes which are no characters.
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
    # All can be named with the key; and a path that starts with / always
    # works without it, and so does any that has no =.
    args = [b"file=" + full, full, b"file=" + name]
    if b"=" not in name and not name.startswith(b"-"):
        args.append(name)
    os.chdir(qedtest.TMP)
    for arg in args:
        with qedtest.Server("qed", arg) as s:
            assert s.connect().pread(5, 3 * 65536) == b"three"
    # In messages, too, which say where the file is, but for what would confuse a terminal or a log.
    with open(full, "wb") as f:
        f.write(b"x" * 65536)
    p = subprocess.run([b"nbdkit", b"-U", b"sock", b"qed", b"file=" + name],
                       capture_output=True, timeout=60)
    assert (full.replace(b"\n", b"?").replace(b"\x1b", b"?") + b": header: magic 78"
            in p.stderr), p.stderr
    os.unlink(full)
END
