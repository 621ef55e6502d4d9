#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# map of an NBD URI prints what it does for a file.  What the image names is
# only read with --backing-dir, because an export has no directory.

source ./functions.sh nbd libnbd

cd $d
"$PYTHON" - <<'END'
import os
import qedimg
with open("base.raw", "wb") as f:
    f.write(bytes(1 << 20) + b"b" * (1 << 20))
for name, cs, ts in (("a", 4096, 1), ("b", 65536, 4)):
    img = qedimg.Image(3 << 20, cs, ts, backing=os.path.abspath("base.raw"))
    for c in range(0, (3 << 20) // cs, 3):
        img.data(c)
    img.zero(1)
    img.save(name + ".qed")
img = qedimg.Image(1 << 20)
img.data(0)
img.entry(3, 4097)
img.save("bad.qed")
END
for i in a b; do
    cp $i.qed $i.raw
    head -c 1M /dev/urandom >>$i.raw
    start_nbdkit file $d/$i.raw
    fails 1 "backing file: $d/base.raw: is the file .*an export has no directory .* add --backing-dir=$d\$" \
          qed-img map "$uri"
    for o in --output=human --output=json --totals "-s 100k -l 1M"; do
        ends 0 qed-img map $o --backing-dir=$d $i.qed
        mv ends.out want
        ends 0 qed-img map $o --backing-dir=$d "$uri"
        sed "s|$uri|$i.qed|" ends.out | diff - want
    done
    stop_nbdkit
done

# Damage is told.
start_nbdkit file $d/bad.qed
fails 1 "offset 0x30000, length 0x10000 of the disk can't be read" \
      qed-img map "$uri"
