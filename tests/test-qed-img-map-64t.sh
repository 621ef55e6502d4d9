#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A chain of sparse 64 TiB disks is mapped as quickly as one of small disks.  A
# million entries are printed as they are found, in little memory.

source ./functions.sh qemu nbd

cd $d
truncate -s 8T base.raw ||
    skip "this filesystem has no files of 8T"
qemu-img create -q -f qed -b base.raw -F raw one.qed 64T
qemu-io -f qed -c 'write -P 1 40T 64k' one.qed >/dev/null
qemu-img create -q -f qed -b one.qed -F qed two.qed 64T
qemu-io -f qed -c 'write -P 1 1T 64k' -c 'write -z 50T 1M' two.qed >/dev/null
qemu-img map --output=json two.qed >want
timeout 60 $QED_IMG map --output=json two.qed | diff -u want -

skip_if_instrumented "the size of memory"
"$PYTHON" - <<'END'
import struct
import qedimg
cs, n = 4096, 8192
img = qedimg.Image(1 << 32, cs, 16)
for i in range(64):
    img.table(i)
img.save("x.qed")
with open("x.qed", "r+b") as f:
    for i in range(64):
        f.seek(img.tables[i] * cs)
        f.write(b"".join(struct.pack("<Q", (img.end + 2 * (i * n + j)) * cs)
                         for j in range(n)))
    f.truncate((img.end + 2 * 64 * n) * cs)
END
(ulimit -v 200000; $QED_IMG map --output=json x.qed) >got
test "$(wc -l <got)" = 524289
tail -n 1 got | grep '}]$'
(ulimit -v 200000; $QED_IMG map x.qed) | wc -l | grep -x 524289
