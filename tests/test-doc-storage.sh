#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The README's commands for an image in a block device, in an export, and for
# all images in a directory work.

source ./functions.sh nbd nbdinfo libnbd loop

cd $d
ln -s "$abs_top_builddir/nbdkit" nbdkit
mkdir tools images
ln -s "$abs_top_builddir/tools/qed-img" tools/qed-img

truncate -s 80M device
head -c 80M /dev/urandom >exported
losetup --find --show device >loop
loop=$(cat loop)
cleanup_fn losetup -d $loop
start_nbdkit -n base file exported

write ()                        # one cluster, and read it
{
    nbdsh -u "$uri" -c 'h.pwrite(b"x" * 65536, 1 << 30)' -c 'h.flush()' \
        -c 'assert h.pread(65536, 1 << 30) == b"x" * 65536' \
        -c 'assert h.pread(1 << 20, (1 << 30) + 65536) == bytes(1 << 20)' \
        -c 'assert h.get_size() == 100 << 30'
}
text=$(doc_block README "takes space there until that is full:")
text=${text//\/dev\/vg\/disk/$loop}
text=${text//nbd:\/\/server\/disk/nbd+unix:///disk?socket=$d/base.sock}
i=0
while read -r line; do
    case $line in
        tools/*) eval "${line/disk?/disk\\?}";;
        ./nbdkit*)
            read -r -a words <<<"${line#* -U /tmp/qed.sock }"
            start_nbdkit -n x "${words[@]}"
            write
            stop_nbdkit x
            i=$((i + 1));;
    esac
done <<<"$text"
[ $i -eq 2 ]

qed-img create images/a.qed 1M
qed-img create images/b.qed 2M
text=$(doc_block README "each as an export of its name:")
grep -F 'qed dir=/var/lib/images' <<<"$text"
start_nbdkit -n y qed dir=$d/images
list=$(tail -n 1 <<<"$text")
eval "${list/\/tmp\/qed.sock/$d/y.sock}" >list.txt
grep 'export="a.qed"' list.txt
grep 'export="b.qed"' list.txt
