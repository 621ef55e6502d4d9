#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# An image in another format, as its own programs make it, is refused unread.
# The message names the format and says what to do.

source ./functions.sh nbd qemu bzip2 gzip tar xz zip zstd

cd $d
qed-img create -q disk.qed 4M
on_disk disk.qed 'h.pwrite (bytearray (range (256)) * 1000, 1 << 20)'

is ()
{
    # The content decides, not the file's name.
    mv "$2" file
    local re="file: header: has the magic of format $1[:,] .*$3"
    refused "$d/$re" qed file
    for verb in info check map 'resize -q' 'commit -q'; do
        # Each of them takes a second under valgrind.
        if [ -n "$NBDKIT_VALGRIND" ] && [ "$verb" = check ]; then break; fi
        local args=file
        if [ "$verb" = 'resize -q' ]; then args='file 8M'; fi
        # shellcheck disable=SC2086 # several words
        fails 1 "^qed-img: $re" qed-img $verb $args
        test ! -s fails.out
    done
    fails 1 "^qed-img: $re" qed-img rebase -u -b x -F raw file
    # A backing file which the image says to be QED.
    fails 1 "$re" qed-img create -b file -F qed over.qed
}

for format in $(some qcow qcow2 vmdk vdi vhdx vpc parallels); do
    qemu-img create -q -f $format x 4M
    is $format x "qemu-nbd -f $format .*qemu-img convert -f $format "
done
qemu-img create -q -f vmdk -o subformat=monolithicFlat x.vmdk 4M
is vmdk x.vmdk 'qemu-img convert -f vmdk '
qemu-img create -q -f luks --object secret,id=s,data=x \
         -o key-secret=s,iter-time=10 x 1M
is luks x 'qemu-img convert -f luks '
{ printf 'Bochs Virtual HD Image'; head -c 4096 /dev/zero; } >x
is bochs x 'qemu-img convert -f bochs '

# packed FORMAT COMMAND [FILTER]: test a packed file, read from stdin.
packed ()
{
    local advice="unpack it first with $2"
    if [ "$3" ]; then
        advice+=", or read it through nbdkit's $3 filter .PACKED IMAGES"
    fi
    cat >x
    is "$1" x "$advice"
}
gzip -c disk.qed | packed gzip 'gunzip -k' gzip
bzip2 -c disk.qed | packed bzip2 'bunzip2 -k'
xz -c disk.qed | packed xz 'xz -dk' xz
zstd -q -c disk.qed | packed zstd 'zstd -d'
zip -q - disk.qed | packed zip unzip
tar -cf - disk.qed | packed tar 'tar -xf' tar
tar -cf - --format=posix disk.qed | packed tar 'tar -xf' tar
# These programs may be missing.
if command -v 7z; then
    7z a x.7z disk.qed
    packed 7z '7z x' <x.7z
fi
if command -v lz4; then lz4 -q -c disk.qed | packed lz4 'lz4 -d'; fi
if command -v lzip; then lzip -c disk.qed | packed lzip 'lzip -dk'; fi
if command -v lzop; then lzop -c disk.qed | packed lzop 'lzop -d'; fi
# A file that is shorter than QED's header, too.
printf 'x' | xz -c >x
is xz x 'xz -dk'
printf 'x' | gzip -c >x
is gzip x 'gunzip -k'

# The file has not changed.
gunzip -c file | cmp - <(printf x)
