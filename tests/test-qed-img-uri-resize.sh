#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# resize of what an NBD server exports: the disk is what it would be in a file.
# An image that shrinks gives its space to what it holds later.

source ./functions.sh nbd libnbd qemu

cd $d
head -c 3M /dev/urandom >base.raw
qed-img create -q -b $d/base.raw -F raw local.qed 2M
qemu-io -f qed -c 'write -P 1 100k 300k' -c 'write -P 2 1900k 148k' local.qed
cp local.qed x.raw
head -c 8M /dev/urandom >>x.raw
start_nbdkit file $d/x.raw

# both ARGS...: resize both, and compare them.
both ()
{
    ends 0 qed-img resize --backing-dir=$d $1 local.qed $2
    mv ends.out want
    ends 0 qed-img resize --backing-dir=$d $1 "$uri" $2
    cmp ends.out want
    ends 0 qed-img check "$uri"
    nbdcopy -- [ nbdkit -r qed local.qed ] local.raw
    nbdcopy -- [ nbdkit -r qed uri="$uri" backing-dir=$d ] got.raw
    cmp local.raw got.raw
    ends 0 qed-img info "$uri"
    grep 'disk size: unavailable' ends.out
}
both -q +2M             # past the end of the backing file
both -q 1G
both --shrink 2500k
both --shrink 64k
both -q 5M

fails 1 "backing file: $d/base.raw: .*an export has no directory" \
      qed-img resize "$uri" +1M
fails 1 'if that is wanted add --shrink' \
      qed-img resize --backing-dir=$d "$uri" 1M
