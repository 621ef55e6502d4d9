#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A backing file's name may look like a protocol.  qed-img opens the file of
# that name beside the image if there is one.  It follows no URI unless it is
# told to.

source ./functions.sh qemu

cd $d
mkdir imgs
make ()
{
    qemu-img create -q -f qed imgs/$1 1M
    qemu-img rebase -u -f qed -b "$2" -F raw imgs/$1
}
make uri.qed nbd://localhost:1/
make file.qed pre:fix.raw
truncate -s 1M imgs/pre:fix.raw

qed-img info imgs/uri.qed | grep -x 'backing file: nbd://localhost:1/'
fails 1 '^qed-img: imgs/uri.qed: backing file: nbd://localhost:1/: an NBD URI is not followed .* add --backing-uri' \
      qed-img info --backing-chain imgs/uri.qed
grep -F ': qed-img rebase -u -b NAME' fails.log
test ! -s fails.out
absent 'write ./' fails.log

qed-img info --backing-chain imgs/file.qed >out
grep -x 'backing file: pre:fix.raw (actual path: imgs/pre:fix.raw)' out
grep -x 'image: imgs/pre:fix.raw' out
qed-img map imgs/file.qed
# The name is relative to the image, so a file in the current directory is not
# the backing file.
mv imgs/pre:fix.raw .
fails 1 'pre:fix.raw: there is no such file' \
      qed-img info --backing-chain imgs/file.qed

# create refuses such a name, because QEMU would take it for a protocol.  The
# name must start with "./".
fails 1 'must name a file or an NBD server: if it is a file write ./' \
      qed-img create -b pre:fix.raw -F raw x.qed
qed-img create -b ./pre:fix.raw -F raw x.qed
qed-img info --backing-chain x.qed | grep -x 'image: ./pre:fix.raw'
qemu-img info --backing-chain x.qed
