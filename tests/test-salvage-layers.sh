#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# salvage=true on a chain: damage in a lower layer is reported with that
# layer's file, unless a layer above hides it.  Damage in an upper layer hides
# the layers below: the disk reads as zeros there.

source ./functions.sh nbd nbdcopy nbdinfo

cd $d
"$PYTHON" - <<'END'
import qedimg
base = qedimg.Image(2 << 20)
for c in range(20):
    base.data(c, b"b" * 65536)
for c in (3, 4, 5, 10):
    base.entry(c, 12345)
base.save("base.qed")
top = qedimg.Image(3 << 20, backing="base.qed")
top.data(4, b"t" * 65536)
top.zero(10)
top.entry(12, 1 << 50)
top.save("top.qed")
END
state_of top.qed base.qed >before
nbdkit -U - qed top.qed salvage=true --run 'nbdcopy "$uri" copy.raw' 2>err
cat err
cat >want <<END
$d/top.qed: offset 0x30000, length 0x10000 of the disk read as zeros: $d/base.qed is corrupt there
$d/top.qed: offset 0x50000, length 0x10000 of the disk read as zeros: $d/base.qed is corrupt there
$d/top.qed: offset 0xc0000, length 0x10000 of the disk read as zeros: $d/top.qed is corrupt there
$d/top.qed: 196608 bytes in 3 ranges read as zeros in total: see qed-img check
END
sed 's/^nbdkit: error: //' err | diff -u want -
"$PYTHON" - <<'END'
want = bytearray(b"b" * 65536 * 20 + bytes(65536 * 28))
for c, b in (3, b"\0"), (4, b"t"), (5, b"\0"), (10, b"\0"), (12, b"\0"):
    want[c * 65536:(c + 1) * 65536] = b * 65536
with open("copy.raw", "rb") as f:
    assert f.read() == want
END
state_of top.qed base.qed | diff before -

# Damage in a layer that backing=none leaves out is not reported.
nbdkit -U - qed top.qed backing=none salvage=true --run true 2>err
grep -c 'read as zeros:' err | grep -x 1
# An undamaged image gives no message, and is read-only, too.
qed-img create -q good.qed 1M
nbdkit -U - qed good.qed salvage=true --run 'nbdinfo --size "$uri"' 2>err
test ! -s err
