#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A create that is refused exits with code 1 and leaves no file in the
# directory.  The message starts with the file's name and says what is wrong.

source ./functions.sh nbd

mkdir $d/dir
cd $d/dir
truncate -s 1M $d/base.raw

bad ()
{
    fails 1 "^qed-img: $1" qed-img create "${@:2}"
    test -z "$(ls -A)"
}

for v in 0 1 2048 4095 4097 3000 128M 65535; do
    bad "x.qed: .*cluster_size.*: must be a power of 2 from 4096 to 67108864" \
        -o cluster_size=$v x.qed 1M
done
for v in 0 3 5 17 32; do
    bad "x.qed: .*table_size $v: must be a power of 2 from 1 to 16" \
        -o table_size=$v x.qed 1M
done
for v in 4294967296 8G 16E; do
    bad "x.qed: cluster_size '$v'" -o cluster_size=$v x.qed 1M
    bad "x.qed: table_size '$v'" -o table_size=$v x.qed 1M
done
# A value above 2^32 is not truncated to 32 bits.
bad "x.qed: cluster_size" -o cluster_size=4294971392 x.qed 1M

# A size is refused one sector above the limit.
bad 'x.qed: .*image_size 70368744178176: must be at most 70368744177664' \
    x.qed 70368744177665
bad 'x.qed: .*image_size 1073742336: must be at most 1073741824' \
    -o cluster_size=4k,table_size=1 x.qed 1073742336
bad 'x.qed: .*must be at most 9223372036854775296' \
    -o cluster_size=64M,table_size=16 x.qed 8E

# The message names a geometry that is large enough.
too_large ()
{
    local size=$1 advice=$2
    shift 2
    bad "x.qed: image_size .*: make it with larger clusters or tables: \
$advice\$" "$@" x.qed $size
    qed-img create -q $advice x.qed $size
    rm x.qed
}
too_large 100T '-o cluster_size=64k,table_size=8'
too_large 300T '-o cluster_size=64k,table_size=16'
too_large 1025T '-o cluster_size=128k,table_size=16'
too_large 7E '-o cluster_size=2048k,table_size=16'
too_large 1025M '-o cluster_size=4k,table_size=2' \
          -o cluster_size=4k,table_size=1
bad 'x.qed: .*must be at most 9223372036854775296' \
    -o cluster_size=64M,table_size=16 x.qed 18446744073709551615
for v in -1 '' x 1x 1kk k 1.5 1..5k 0x1000 1e3 ' 1' '1 ' +1 16E \
         18446744073709551616 99999999999999999999; do
    bad "(x.qed: )?.*('|.)$v" -- x.qed "$v"
done

bad '.*x.qed: .*size.*add it' x.qed
bad '.*name' -o cluster_size=4k
bad '.*one file name' x.qed 1M 2M
bad '.*two sizes' -o size=1M x.qed 1M
bad ".*'nonsense' is unknown" -o nonsense=1 x.qed 1M
bad ".*'cluster_size' needs a value" -o cluster_size x.qed 1M
bad '.*-o: preallocation=full: must be off: a QED image allocates' \
    -o preallocation=full x.qed 1M
bad '.*-o: preallocation=: must be off' -o preallocation x.qed 1M
bad '.*-o: nocow=on: must be off: chattr \+C' -o nocow=on x.qed 1M
bad '.*-z' -z x.qed 1M
bad '.*qcow2' -f qcow2 x.qed 1M

bad 'x.qed: .*none.raw: .*No such file' -b none.raw -F raw x.qed
bad 'x.qed: .*none.raw: .*No such file' -b none.raw -F raw x.qed 1M
bad 'x.qed: .*base.raw: .*magic 00' -b ../base.raw -F qed x.qed
bad "create: -F: backing format '-v': must be raw, qed or the name of" \
    -b ../base.raw -F -v x.qed
bad "create: -F: backing format 'auto': must be" \
    -b ../base.raw -o backing_fmt=auto x.qed
bad '.*x.qed: .*a backing format.* backing file' -F raw x.qed 1M
bad 'x.qed: .*protocol' -b json:{} -F raw x.qed 1M
bad 'x.qed: .*empty' -b '' -F raw x.qed 1M
bad 'x.qed: .*is a directory' -b . -F raw x.qed 1M
mkfifo $d/fifo
bad 'x.qed: .*is a FIFO' -b ../fifo -F raw x.qed 1M

bad 'none/x.qed: .*No such file' none/x.qed 1M
bad '../base.raw/x.qed: .*Not a directory' ../base.raw/x.qed 1M
bad '\.: .*is a directory|\.: .*Is a directory' . 1M
bad '../fifo: .*is a FIFO|../fifo: ' ../fifo 1M
bad '/dev/null: .*character device' /dev/null 1M
long=$(printf '%0300d' 0)
bad "$long: .*File name too long" $long 1M

ln -s nowhere ../dangling
bad '../dangling: create: the name is a dangling symbolic link' \
    ../dangling 1M
bad "'': create: the name is empty" '' 1M

# A name that is too long for any path.
bad 'x.qed: .*File name too long' -b $(printf '%05000d' 0) -F raw x.qed
