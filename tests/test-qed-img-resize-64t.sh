#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Growing, rebasing and shrinking a sparse disk of 64 TiB takes as little time
# and memory as a small disk.  This holds with and without a sparse backing
# file of that size.

source ./functions.sh nbd

cd $d
qed-img create -q huge.qed 64T
on_disk huge.qed "h.pwrite (b'data', 16 << 40)"
for below in none huge; do
    if [ $below = none ]; then
        qed-img create -q x.qed 1M
    else
        qed-img create -q -b huge.qed -F qed x.qed 1M
    fi
    qed-img resize x.qed 64T
    on_disk x.qed "
h.pwrite (b'end', (64 << 40) - 3)
assert h.pread (4, 16 << 40) == bytes (4)"
    qed-img rebase -b '' x.qed
    qed-img rebase -b huge.qed -F qed x.qed
    on_disk x.qed "
assert h.pread (3, (64 << 40) - 3) == b'end'
assert h.pread (4, 16 << 40) == bytes (4)" -r
    qed-img resize --shrink x.qed 1M
    qed-img check x.qed
    test $(stat -c %s x.qed) -eq 327680
done
# A rebase copies the backing file's data, which is one cluster.
qed-img create -q -b huge.qed -F qed x.qed
qed-img rebase -b '' x.qed
on_disk x.qed "
assert h.pread (4, 16 << 40) == b'data'" -r
test $(stat -c %s x.qed) -lt 1000000
