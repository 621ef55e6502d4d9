#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# info --backing-chain prints each image of the chain as qemu-img does.  A
# missing layer or a loop is an error.  The message names the image and its
# backing file.

source ./functions.sh qemu

cd $d
truncate -s 1M base.raw
qemu-img create -q -f qed -b base.raw -F raw one.qed
qemu-img create -q -f qed -b one.qed -F qed two.qed
qemu-img create -q -f qed -b two.qed -F qed three.qed
qemu-img info --backing-chain three.qed >a
qed-img info --backing-chain three.qed >b
sed '/^Format specific/d; /^ /d' b | diff -u a -
test "$(grep -c ^image: b)" = 4

mv one.qed other.qed
fails 1 'qed-img: two.qed: backing file: .*one.qed: .*No such file' \
      qed-img info --backing-chain three.qed
test ! -s fails.out
qed-img info three.qed
qemu-img create -q -f qed one.qed 1M
qemu-img rebase -u -f qed -b three.qed -F qed one.qed
fails 1 'qed-img: one.qed: backing file: .*three.qed: is the file three.qed a' \
      timeout 60 "$abs_top_builddir/tools/qed-img" info --backing-chain \
      three.qed
qed-img info one.qed | grep -x 'backing file: three.qed'
