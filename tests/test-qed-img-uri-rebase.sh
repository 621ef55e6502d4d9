#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# rebase of what an NBD server exports: the disk stays the same.  The server
# needs to take only one connection at a time.

source ./functions.sh nbd libnbd qemu

cd $d
head -c 3M /dev/urandom >a.raw
cp a.raw b.raw
head -c 200k /dev/urandom | dd of=b.raw bs=1k seek=700 conv=notrunc
mkdir sub
qed-img create -q -b ../a.raw -F raw sub/c.qed
qemu-io -f qed -c 'write -P 7 1M 64k' sub/c.qed
qed-img create -q -b $d/a.raw -F raw x.raw 4M
qemu-io -f qed -c 'write -P 1 100k 300k' x.raw
qemu-img convert -f qed -O raw x.raw want.raw
head -c 8M /dev/urandom >>x.raw

# qemu-nbd takes one client, and others wait.
start_qemu_nbd -f raw $d/x.raw

same ()
{
    stop_qemu_nbd
    qemu-img compare -f raw -F qed want.raw x.raw
    start_qemu_nbd -f raw $d/x.raw
}
all=--backing-dir=$d
ends 0 qed-img rebase $all -b $d/b.raw -F raw "$uri"
qed-img info "$uri" | grep -x "backing file: $d/b.raw"
same
ends 0 qed-img rebase $all -b $d/sub/c.qed -F qed "$uri"
same
ends 0 qed-img rebase $all -b '' "$uri"
qed-img info "$uri" >info
absent 'backing' info
same
ends 0 qed-img check "$uri"

# A relative name means nothing there, but with -u any name is stored.
fails 1 'file: b.raw: is a relative name, and an export has no directory' \
      qed-img rebase -b b.raw -F raw "$uri"
fails 0 'relative name.*will be probed when it is opened: add -F' \
      qed-img rebase -u -b b.raw "$uri"
ends 0 qed-img rebase -u -b b.raw -F raw "$uri"
qed-img info "$uri" | grep 'file: b.raw (cannot determine actual path)'
fails 1 'file: b.raw: is relative .* export has none: qed-img rebase -u' \
      qed-img rebase -b $d/b.raw -F raw "$uri"
ends 0 qed-img rebase -u -b nbd://localhost/x -F raw "$uri"
qed-img info "$uri" | grep -x 'backing file: nbd://localhost/x'
ends 0 qed-img rebase -u -b '' "$uri"
same
