#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The README and the man page copy a disk into a new image.  Their commands
# take the size from the disk, whatever it is.

source ./functions.sh nbdcopy nbdinfo qemu-img qemu-nbd

cd $d
ln -s "$abs_top_builddir/nbdkit" nbdkit
ln -s "$abs_top_builddir/tools" tools

# into FILE TEXT: run the commands after the text.  The disk to copy is sdb,
# disk.raw or disk.qcow2.
into ()
{
    local block
    block=$(doc_block "$1" "$2")
    rm -f disk.qed
    # The device of the document is a file here.
    eval "${block//\/dev\/sdb/$d\/sdb}"
    nbdkit -r -U - qed disk.qed --run 'nbdcopy "$uri" got.raw'
    cmp disk.raw got.raw
}

pod=plugin/nbdkit-qed-plugin.pod

for size in 3145728 12345344 70000128; do
    rm -f disk.raw
    "$PYTHON" -c '
import random, sys
size = int(sys.argv[1])
with open("disk.raw", "wb") as f:
    f.write(random.Random(size).randbytes(1 << 20))
    f.seek(size - 4096)
    f.write(b"e" * 4096)' $size
    ln -sf disk.raw sdb
    qemu-img convert -f raw -O qcow2 disk.raw disk.qcow2
    into README 'Copy a raw file, or a block device'
    into README 'From a file in another format'
    into $pod '=item Copy a disk into a new image'
    into $pod '=item Copy a block device'
    into $pod '=item Copy a disk in another format'
done
