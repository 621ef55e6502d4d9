#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The space by which an overlay grows reads as zeros, even where the backing
# file has data.  (qemu-img refuses such a resize.)

source ./functions.sh nbd qemu nbdcopy

cd $d
"$PYTHON" - <<'END'
import random
r = random.Random(1)
with open("base.raw", "wb") as f:
    f.write(r.randbytes(3 << 20))
    f.seek(10 << 20)
    f.write(r.randbytes(1 << 20))
    f.truncate((20 << 20) + 700)
END
qemu-img create -q -f qed -b base.raw -F raw base.qed 9M
qemu-io -f qed -c 'write -P 3 2M 3M' base.qed

grow_and_check ()               # BACKING FORMAT OPTIONS OLD NEW
{
    rm -f x.qed old.raw new.raw
    qed-img create -q -b $1 -F $2 -o $3 x.qed $4
    qemu-io -f qed -c 'write -P 5 70k 100k' -c 'write -z 300k 200k' x.qed
    qemu-img convert -f qed -O raw x.qed old.raw
    sha256sum base.* >before
    qed-img resize -q x.qed $5
    sha256sum -c before
    truncate -s $5 old.raw
    qemu-img convert -f qed -O raw x.qed new.raw
    cmp old.raw new.raw
    qemu-img check -q x.qed
    nbdkit -U - qed x.qed --run 'nbdcopy "$uri" new.raw'
    cmp old.raw new.raw
}
grow_and_check base.raw raw cluster_size=64k 1M 2M
grow_and_check base.raw raw cluster_size=64k 1000k 30M
grow_and_check base.raw raw cluster_size=4k,table_size=2 2049.5k 25M
grow_and_check base.qed qed cluster_size=64k 2049.5k 25M
grow_and_check base.qed qed cluster_size=1M 9M 25M
grow_and_check base.qed qed cluster_size=64k 12M 25M

# After a shrink and a growth neither the image's old data nor the backing
# file's data reappears.
qed-img resize -q --shrink x.qed 2M
qed-img resize -q x.qed 25M
truncate -s 2M old.raw
truncate -s 25M old.raw
qemu-img convert -f qed -O raw x.qed new.raw
cmp old.raw new.raw

# A hole in the backing file needs no zero clusters, so the image stays small
# although it grows by 2 TiB.
truncate -s 2T base.raw
qed-img create -q -b base.raw -F raw z.qed 1M
qed-img resize -q z.qed 2T
test $(stat -c %s z.qed) -lt 2000000

# A backing file in another directory needs --backing-dir.
mkdir dir
mv base.raw dir
qed-img create -q -b $d/dir/base.raw -F raw dir/y.qed 1M
mkdir other
mv dir/y.qed other
fails 1 "y.qed: backing file: .*backing-dir=$d/dir" \
      qed-img resize other/y.qed 2M
qed-img resize --backing-dir=$d/dir other/y.qed 2M
fails 1 'qed-img: base.qed: backing file: base.raw: .*No such file' \
      qed-img resize x.qed 100M
