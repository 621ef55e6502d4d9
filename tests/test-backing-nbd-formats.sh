#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# qemu-nbd serves the formats that the library does not read.  Their holes are
# holes.

source ./functions.sh nbd nbdcopy nbdinfo qemu-img qemu-io qemu-nbd libnbd

qemu-img create -q -f raw $d/base.raw 20M
qemu-io -f raw -c 'write -q -P 1 0 64k' -c 'write -q -P 2 1M 1M' \
        -c 'write -q -P 3 10001k 3k' -c 'write -q -P 4 20479k 1k' $d/base.raw
cp $d/base.raw $d/expected
truncate -s 30M $d/expected
for format in raw qcow2 vmdk vdi vhdx; do
    file="$d/a file:$format"
    qemu-img convert -f raw -O $format $d/base.raw "$file"
    state_of "$file" >$d/before
    rm -f $d/x.qed
    qed-img create $d/x.qed 30M
    start_nbdkit -n x qed $d/x.qed backing="$file" backing-format=$format
    nbdcopy "$uri" - | cmp - $d/expected
    if [ $format = qcow2 ]; then
        nbdinfo --map "$uri" | tee $d/map
        grep -x ' *65536 *983040 *3 *hole,zero' $d/map
        grep -x ' *2097152 .* 3  hole,zero' $d/map
    fi
    nbdsh -u "$uri" -c 'h.pwrite(b"x", 1050000)' -c 'h.flush()' \
          -c 'assert h.pread(3, 1049999) == b"\2x\2"'
    stop_nbdkit x
    # The file has not changed.
    state_of "$file" | diff -u $d/before -
done

# A file that the header names, with the format from the user.
mv "$d/a file:qcow2" $d/q.img
"$PYTHON" - <<'END'
import qedimg, qedtest
img = qedimg.Image(30 << 20, features=qedimg.F_BACKING_FILE)
img.header["backing_filename_offset"] = 64
img.header["backing_filename_size"] = 5
img.poke(64, b"q.img")
img.save(qedtest.TMP + "/x.qed")
END
start_nbdkit -n x qed $d/x.qed backing-format=qcow2
nbdcopy "$uri" - | cmp - $d/expected

# Others may read the file at the same time.
qed-img create $d/y.qed 30M
start_nbdkit -n y qed $d/y.qed backing=$d/q.img backing-format=qcow2
nbdcopy "$uri" - | cmp - $d/expected
stop_nbdkit y
stop_nbdkit x
refused "$d/x.qed: .*backing-format=" qed $d/x.qed

# Refused by qemu-nbd, which says why; no such format; no such program.
refused "$d/q.img: qemu-nbd doesn't serve this file as vdi" \
        qed $d/x.qed backing-format=vdi
refused "$d/q.img: qemu-nbd doesn't serve this file as a_format" \
        qed $d/x.qed backing-format=a_format
grep -F "a_format" $d/refused.log | grep -F qemu-nbd:
mkdir $d/bin
for p in bash cat dirname env grep readlink sed; do
    ln -s "$(type -P $p)" $d/bin
done
fails 1 'qemu-nbd \(on Debian in the package qemu-utils\)' \
      env PATH=$d/bin "$abs_top_builddir/nbdkit" -U $d/x.sock \
      qed $d/x.qed backing-format=qcow2
