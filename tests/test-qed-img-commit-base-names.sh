#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# commit -b takes the name in a header, the name by which the file is reached,
# or any other name of that file.  A file that is not in the chain, an
# ambiguous name and a file in use are refused.  Then nothing is written.

source ./functions.sh nbd qemu

cd $d
mkdir dir dir/sub far
make ()
{
    rm -f dir/*.* dir/sub/*
    truncate -s 1M dir/sub/base.raw
    qed-img create -q -b sub/base.raw -F raw dir/b.qed
    qed-img create -q -b b.qed -F qed dir/m.qed
    qed-img create -q -b m.qed -F qed dir/x.qed
    qemu-io -f qed -c 'write -P 1 0 64k' dir/m.qed >/dev/null
    qemu-io -f qed -c 'write -P 2 32k 64k' dir/x.qed >/dev/null
    qemu-img convert -f qed -O raw dir/x.qed want.raw
}
files='dir/*.qed dir/sub/*'
all_of () { state_of $files; }

make
ln dir/b.qed far/hard.qed
ln -s ../dir/b.qed far/soft.qed
for name in b.qed dir/b.qed ./dir/../dir/b.qed $d/dir/b.qed far/hard.qed \
            far/soft.qed; do
    make
    ln -f dir/b.qed far/hard.qed
    qed-img commit -b $name dir/x.qed | grep -x 'Image committed.'
    qemu-img compare -f qed -F raw dir/b.qed want.raw
    test $(stat -c %b dir/sub/base.raw) -eq 0
done
for name in sub/base.raw dir/sub/base.raw; do
    make
    qed-img commit -b $name dir/x.qed
    cmp dir/sub/base.raw want.raw
done

make
unchanged ()
{
    local re=$1
    shift
    all_of >before
    fails 1 "^qed-img: $re" qed-img commit "$@"
    test ! -s fails.out
    all_of | cmp - before
}
touch dir/other.qed other.raw
for name in none.qed other.raw base.raw dir/x.qed x.qed '' dir; do
    unchanged "dir/x.qed: backing file '$name': is not in the chain of the \
image, which has these: dir/m.qed, dir/b.qed, dir/sub/base.raw\$" \
              -b "$name" dir/x.qed
done
unchanged "dir/m.qed: backing file 'dir/m.qed': is not in the chain" \
          -b dir/m.qed dir/m.qed

# Two files that have the same name in headers.
mkdir -p twice/n/n
truncate -s 1M twice/n/n/base
qed-img create -q -b n/base -F raw twice/n/base
qed-img create -q -b n/base -F qed twice/m.qed
qed-img create -q -b m.qed -F qed twice/x.qed
files='twice/*.qed twice/n/base twice/n/n/base'
unchanged "twice/x.qed: backing file 'n/base': is both twice/n/base and \
twice/n/n/base: write the directory too\$" -b n/base twice/x.qed
qed-img commit -q -b twice/n/base twice/x.qed

# In use, or damaged.
make
files='dir/*.qed dir/sub/*'
for file in dir/x.qed dir/m.qed dir/b.qed; do
    start_qemu_nbd -f qed $PWD/$file
    unchanged "(dir/[xm].qed: backing file: )?$file: locked: " \
              -b b.qed dir/x.qed
    stop_qemu_nbd
done
start_qemu_nbd -r -f qed $PWD/dir/b.qed
unchanged 'dir/b.qed: locked: ' -b b.qed dir/x.qed
stop_qemu_nbd
start_qemu_nbd -r -f qed $PWD/dir/m.qed
unchanged 'dir/b.qed: locked: ' -b b.qed dir/x.qed
stop_qemu_nbd

"$PYTHON" - <<'END'
import qedimg
img = qedimg.Image(1 << 20, backing="b.qed")
img.entry(5, 12345)
img.save("dir/m.qed")
END
unchanged 'dir/m.qed: .*nothing was committed.*qed-img check -r all' \
          -b b.qed dir/x.qed
