#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# create -u stores the name of the backing file as it is, and opens nothing, as
# in qemu-img.

source ./functions.sh qemu

cd $d
truncate -s 1M base.raw
mkfifo fifo                     # opening it would wait

for args in '-b missing.raw -F raw' '-b no/dir/x.qed -F qed' \
            '-b missing.qcow2 -F qcow2' '-b base.raw -F qed' \
            '-b fifo -F raw' '-b nbd://localhost:1/x -F raw' \
            '-o backing_file=missing.raw,backing_fmt=raw'; do
    rm -f a.qed b.qed
    qemu-img create -u -f qed $args a.qed 1234k >want
    timeout 60 $QED_IMG create -u -f qed $args b.qed 1234k >got
    sed 's/b\.qed/a.qed/' got | diff want -
    cmp a.qed b.qed
done
for args in '' '-b base.raw -F raw'; do
    qemu-img create -q -f qed $args a.qed 1M
    ends 0 qed-img create -q -u $args b.qed 1M
    cmp a.qed b.qed
done

# A format that isn't given isn't probed either.
rm b.qed
fails 0 'b.qed: backing file: base.raw: is not opened with -u, so its format will be probed when it is opened: add -F to set it' \
      qed-img create -u -b base.raw b.qed 1M
grep -x "Formatting 'b.qed', fmt=qed size=1048576 backing_file=base.raw cluster_size=65536" \
     fails.out
test $(od -An -tu8 -j16 -N8 b.qed) -eq 1
ends 0 qed-img create -q -u -b base.raw b.qed 1M
ends 0 qed-img create -q -u -b json:{} b.qed 1M
qed-img info b.qed | grep -x 'backing file: json:{}'

# What it needs.
rm b.qed
for n in b.qed $PWD/b.qed; do
    fails 1 'b.qed: backing file: .*b.qed: is the same file: choose another' \
          qed-img create -u -b $n -F qed $n 1M
done
fails 1 '^qed-img: b.qed: a size is missing: add it after the name, because -u doesn.t open the backing file$' \
      qed-img create -u -b base.raw -F raw b.qed
fails 1 '^qed-img: b.qed: a size is missing: add it after the name$' \
      qed-img create -u b.qed
fails 1 "b.qed: backing file '': the name must not be empty" \
      qed-img create -u -b '' -F raw b.qed 1M
fails 1 'b.qed: a backing format needs a backing file' \
      qed-img create -u -F raw b.qed 1M
fails 1 "create: -F: backing format 'Raw': must be raw, qed or the name of a" \
      qed-img create -u -b base.raw -F Raw b.qed 1M
test ! -e b.qed

# By any name, and what was there stays.
qed-img create -q b.qed 2M
ln b.qed c.qed
for n in ./b.qed c.qed; do
    fails 1 'b.qed: backing file: .*: is the same file: choose another name' \
          qed-img create -u -b $n -F qed b.qed 1M
done
qed-img info b.qed | grep -x 'virtual size: 2 MiB (2097152 bytes)'

# What an NBD server exports is raw.
ends 0 qed-img create -q -u -b nbd://localhost/x b.qed 1M
qed-img info b.qed | grep -x 'backing file format: raw'
qed-img create -q b.qed 1M
ends 0 qed-img rebase -u -b nbd://localhost/x b.qed
qed-img info b.qed | grep -x 'backing file format: raw'
