#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# commit of what an NBD server exports, into a raw backing file, a QED image, and
# a base further down: the disk stays the same, and so it is below.

source ./functions.sh nbd libnbd qemu

cd $d
all=--backing-dir=$d

# make BACKING FORMAT: an overlay, exported, with more room.
make ()
{
    qed-img create -q -b $d/$1 -F $2 x.raw 4M
    qemu-io -f qed -c 'write -P 1 100k 300k' -c 'write -z 1M 128k' \
            -c 'write -P 3 3900k 100k' x.raw
    qemu-img convert -f qed -O raw x.raw want.raw
    head -c 2M /dev/urandom >>x.raw
    start_nbdkit file $d/x.raw
}

head -c 3M /dev/urandom >a.raw
make a.raw raw
fails 1 "an export has no directory for such files: .*--backing-dir=$d\$" \
      qed-img commit "$uri"
ends 0 qed-img commit -d $all "$uri"
cmp a.raw want.raw
qed-img map --totals --output=json $all "$uri" | grep '"data": 589824'
ends 0 qed-img commit $all "$uri"
cmp a.raw want.raw
qed-img map --totals --output=json $all "$uri" >map
absent '"depth": 0' map
qemu-img compare -f raw -F qed want.raw x.raw
stop_nbdkit

# Into an image, which grows.
qed-img create -q b.qed 1M
make b.qed qed
ends 0 qed-img commit $all "$uri"
for i in b.qed "$uri"; do
    ends 0 qed-img check "$i"
done
stop_nbdkit
for i in b.qed x.raw; do
    qemu-img compare -f raw -F qed want.raw $i
done

# Into a base.
head -c 3M /dev/urandom >a.raw
qed-img create -q -b a.raw -F raw b.qed
qemu-io -f qed -c 'write -P 4 2M 64k' b.qed
make b.qed qed
for i in nowhere.raw "$uri" nbd://localhost; do
    fails 1 'is not in the chain of the image, which has these' \
          qed-img commit $all -b $i "$uri"
done
ends 0 qed-img commit $all -b a.raw "$uri"
cmp a.raw want.raw
qemu-img compare -f raw -F qed want.raw x.raw
