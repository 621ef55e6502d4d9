#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# -s and -l limit the range that map prints.  A range beyond the end of the
# disk and an empty disk are no errors.

source ./functions.sh qemu

cd $d
qemu-img create -q -f qed x.qed 1234k
qemu-io -f qed -c 'write -P 1 64k 128k' -c 'write -z 512k 64k' x.qed >/dev/null
qemu-img create -q -f qed empty.qed 0
compare ()
{
    local output
    for output in json human; do
        qemu-img map --output=$output "$@" >want
        qed-img map --output=$output "$@" >got
        diff -u want got
    done
}
compare x.qed
compare -s 64k x.qed
compare -s 0.5k -l 96.5k x.qed
compare --start-offset=100 --max-length=70001 x.qed
compare -l 1 x.qed
compare -s 1234k x.qed
compare -s 1235k -l 1 x.qed
compare -l 0 x.qed
compare -s 1M -l 1G x.qed
compare -s 7E -l 7E x.qed
compare empty.qed
compare -s 1 -l 1 empty.qed

for bad in -s -l --start-offset --max-length; do
    fails 1 "qed-img: map: -[sl]: 'x'" qed-img map $bad x x.qed
    fails 1 "qed-img: map: -[sl]: '-1'" qed-img map $bad -1 x.qed
    fails 1 "qed-img: map: -[sl]: '8E'.*below 8E" qed-img map $bad 8E x.qed
done
fails 1 'expected one file name' qed-img map
fails 1 'expected one file name' qed-img map x.qed x.qed
fails 1 "must be human, json or svg" qed-img map --output=xml x.qed
fails 1 'nonexistent: open: No such file' qed-img map nonexistent
test ! -s fails.out
fails 1 'not a QED image' qed-img map got
