#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# qed-img compare takes NBD URIs, of images and of raw disks.  A range that the
# server can't read is a failure that names the range, unless a difference comes
# before it.  With -p there is progress on a terminal.

source ./functions.sh nbd libnbd

cd $d
"$PYTHON" - <<'END'
import os
import random
import re
import qedimg, qedtest

size = 8 << 20
data = random.Random(1).randbytes(size)
changed = bytearray(data)
changed[3333333] ^= 1
for name, content in ("a.raw", data), ("b.raw", changed):
    with open(name, "wb") as f:
        f.write(content)
img = qedimg.Image(size)
for c in range(size >> 16):
    img.data(c, data[c << 16:(c + 1) << 16])
img.save("a.qed")

def compare(*args, status):
    return qedtest.qed_img("compare", *args, status=status)

same, differs = "Images are identical.\n", \
    f"Content mismatch at offset {3333333 // 512 * 512}!\n"
with qedtest.Server("file", qedtest.TMP + "/a.qed") as qed, \
     qedtest.Server("file", qedtest.TMP + "/b.raw") as raw:
    assert compare(qed.uri, "a.raw", status=0)[0] == same
    assert compare("a.raw", qed.uri, status=0)[0] == same
    assert compare(raw.uri, "b.raw", status=0)[0] == same
    assert compare(qed.uri, raw.uri, status=1)[0] == differs
    assert compare("-F", "raw", "a.raw", qed.uri, status=1)[0] == \
        "Content mismatch at offset 0!\n"

# 64 KiB that can't be read.
def unreadable(at, delayed="false"):
    with open("sh", "w") as f:
        f.write(f"""case $1 in
    get_size) echo {size};;
    pread) if [ $4 -lt {at + 65536} ] && [ $(($4 + $3)) -gt {at} ]; then
               echo EIO damaged >&2; exit 1; fi
           if {delayed} && [ $4 -ge {6 << 20} ]; then sleep 0.5; fi
           dd if={qedtest.TMP}/a.raw bs=1M iflag=skip_bytes,count_bytes \\
              count=$3 skip=$4 2>/dev/null;;
    thread_model) echo parallel;;
    *) exit 2;;
esac
""")
    os.chmod("sh", 0o755)
    return qedtest.Server("sh", qedtest.TMP + "/sh")

with unreadable(5 << 20) as s:
    for args in (s.uri, "a.raw"), ("a.raw", s.uri):
        out, err = compare(*args, status=4)
        assert not out and s.uri in err and str(5 << 20) in err, (out, err)
    # It is behind the difference.
    assert compare(s.uri, "b.raw", status=1)[0] == differs
# It is in front of it, in the same piece, and in front of all others.
with unreadable(3 << 20) as s:
    out, err = compare(s.uri, "b.raw", status=4)
    assert not out and str(3 << 20) in err, (out, err)

# A difference that is found later, and is behind the first one.
changed[7000000] ^= 1
with open("b.raw", "wb") as f:
    f.write(changed)
with unreadable(size, "true") as s:
    assert compare(s.uri, "b.raw", status=1)[0] == differs

with open("large.raw", "wb") as f:
    for i in range(16):
        f.write(data)
step = r"    \(\d+\.\d\d/100%\)\r"
status, out = qedtest.on_terminal("compare", "-p", "large.raw", "large.raw")
assert status == 0, out
m = re.fullmatch(f"((?:{step})+)\r\nImages are identical.\r\n", out)
assert m and m[1].endswith("(100.00/100%)\r"), out
status, out = qedtest.on_terminal("compare", "-pq", "large.raw", "a.raw")
assert (status, out) == (1, ""), out
assert compare("-p", "a.raw", "a.qed", status=0) == (same, "")
END
