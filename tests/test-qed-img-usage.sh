#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# qed-img without a verb, or with one that is unknown, fails with a hint.
# --help and --version print what they say.  Output that cannot be written is an
# error.

source ./functions.sh

version=$(sed -n "s/^PACKAGE_VERSION='\(.*\)'/\1/p" \
              "$abs_top_builddir/config.log")
qed-img --version >$d/out
grep -F "$version" $d/out
qed-img -V | cmp - $d/out
qed-img --help >$d/out
grep '^  qed-img create ' $d/out
grep '^  qed-img info ' $d/out
qed-img -h | cmp - $d/out
qed-img create -o help >$d/out
grep cluster_size $d/out
grep table_size $d/out

fails 1 '^qed-img: .*see qed-img --help' qed-img
fails 1 "^qed-img: .*'frobnicate' is unknown.*create, info, check" qed-img frobnicate
fails 1 '^qed-img: .*--frobnicate' qed-img --frobnicate

# Output that can't be written is a failure.
qed-img create $d/x.qed 1M
for args in "info $d/x.qed" "info --output=json $d/x.qed" --help --version; do
    if qed-img $args >/dev/full 2>$d/err; then
        fail "$args: success on a full device"
    fi
    grep 'No space left' $d/err
done
