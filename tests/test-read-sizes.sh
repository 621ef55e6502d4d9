#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Disks of many sizes that QEMU wrote read the same as in QEMU, from the first
# byte to the last.  A read beyond the end gives EINVAL.

source ./functions.sh nbd qemu nbdinfo

for size in 512 1024 65024 65536 66048 1234944 2147483136 2147484160 64T; do
    f=$d/$size.qed
    qemu-img create -q -f qed $f $size
    bytes=$(qemu-img info --output=json $f |
            "$PYTHON" -c 'import json, sys
print (json.load (sys.stdin)["virtual-size"])')
    qemu-io -f qed -c "write -P 1 $((bytes - 512)) 512" \
            -c "write -P 2 0 512" $f
    start_nbdkit -r qed $f
    test "$(nbdinfo --size "$uri")" = $bytes
    export f uri
    "$PYTHON" - <<'END'
import os
import qedimg, qedtest
h = qedtest.connect(os.environ["uri"])
model = qedimg.Model(os.environ["f"])
qedtest.check_all(h, model)
size = h.get_size()
assert h.pread(512, 0) == bytearray(b"\2" * 512)
if size > 512:
    assert h.pread(512, size - 512) == bytearray(b"\1" * 512)

# A request that ends beyond the disk.
for offset, n in ((size, 1), (size - 1, 2), (size - 512, 1024),
                  (size + (1 << 40), 512), ((1 << 63) - 512, 512)):
    qedtest.expect_error("EINVAL", h.pread, n, offset)
    qedtest.expect_error("EINVAL", h.cache, n, offset)
END
    # Compare the whole disk.  This is fast because both sides report holes.
    qemu-img compare -f qed -F raw $f "$uri"
    stop_nbdkit
    rm $f
done
