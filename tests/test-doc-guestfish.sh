#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# guestfish, with the man page's options, boots a small guest and reads a file
# from the filesystem in the disk.

source ./functions.sh nbd mke2fs sfdisk nbdcopy
# 300 MB of packages with a kernel, which CI installs for one of its stages.
if ! command -v guestfish; then skip "no guestfish here"; fi
skip_if_instrumented "booting libguestfs's appliance"

cd $d
mkdir tree
seq 20000 >tree/numbers
mke2fs -q -t ext4 -d tree plain.raw 8M
truncate -s 12M disk.raw
echo 'start=2048, size=16384, type=83' | sfdisk -q disk.raw
dd if=plain.raw of=disk.raw bs=1M seek=1 conv=notrunc
qed-img create -q disk.qed 12M
nbdkit -U - qed disk.qed --run 'nbdcopy disk.raw "$uri"'

# Without KVM, which not every host has, nor libvirt.
export LIBGUESTFS_BACKEND=direct LIBGUESTFS_BACKEND_SETTINGS=force_tcg
export LIBGUESTFS_CACHEDIR=$d
start_nbdkit -r qed disk.qed
command=$(doc_block plugin/nbdkit-qed-plugin.pod 'The format is that of' |
              sed -n "/^guestfish/s,/tmp/qed.sock,$sock,p")
test "${command% -i}" != "$command"     # which is for a whole system's disk
timeout 600 bash -c "${command% -i} -m /dev/sda1 download /numbers got" \
        </dev/null
cmp tree/numbers got
