#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The backing file's name goes into the header clusters, of which there are more
# if it doesn't fit.  A rebase keeps all other bytes there.

source ./functions.sh qemu

cd $d
name ()
{
    printf "%0$1d" 0
}
# named LENGTH: QEMU reads a name of this length.  It refuses a long name if
# the file does not exist.
named ()
{
    qemu-img info x.qed | grep -x "backing file: $(name $1)"
}
new ()
{
    qed-img create -q -o cluster_size=4k x.qed 1M
}

new
qed-img rebase -u -b $(name 1023) -F raw x.qed
named 1023
for n in 1024 2000 3000; do
    qed-img rebase -u -b $(name 10) -F raw x.qed
    qed-img rebase -u -b $(name $n) -F raw x.qed
    qed-img info x.qed | grep -x "backing file: $(name $n)"
done
qed-img rebase -u -b $(name 10) -F raw x.qed
qed-img rebase -u -b $(name 4032) -F raw x.qed
qed-img info x.qed | grep -x "backing file: $(name 4032)"
new
clusters ()
{
    qed-img info x.qed | grep -x "    header size: $1"
}
qed-img rebase -u -b $(name 4032) -F raw x.qed
clusters 1
qed-img rebase -u -b '' x.qed
qed-img rebase -u -b $(name 4033) -F raw x.qed
clusters 5
qed-img info x.qed | grep -x "backing file: $(name 4033)"
fails 1 'x.qed: .*4096 bytes: must have 1 to 4095' \
      qed-img rebase -u -b $(name 4096) -F raw x.qed
qed-img create -q y.qed 1M
qed-img rebase -u -b $(name 4095) -F raw y.qed

# A long name does not fit beside an old one of 3000 bytes.  It fits after a
# short one.
new
qed-img rebase -u -b $(name 3000) -F raw x.qed
cp x.qed y.qed
qed-img rebase -u -b $(name 3001) -F raw x.qed
clusters 5
qed-img info x.qed | grep -x "backing file: $(name 3001)"
cp y.qed x.qed
qed-img rebase -u -b $(name 3) -F raw x.qed
qed-img rebase -u -b $(name 3001) -F raw x.qed
clusters 1

# Unknown bytes after the header fields are kept.
new
printf mine | dd of=x.qed bs=1 seek=70 conv=notrunc
printf mine | dd of=x.qed bs=1 seek=2000 conv=notrunc
for n in 6 7 500 1926; do
    qed-img rebase -u -b $(name $n) -F raw x.qed
    test "$(dd if=x.qed bs=1 skip=70 count=4)$(
            dd if=x.qed bs=1 skip=2000 count=4)" = minemine
    qed-img info x.qed | grep -x "backing file: $(name $n)"
done
qed-img rebase -u -b '' x.qed
qed-img rebase -u -b $(name 2092) -F raw x.qed
clusters 1
qed-img rebase -u -b $(name 2093) -F raw x.qed
clusters 5
qed-img rebase -u -b '' x.qed
test "$(tail -c +65 x.qed | head -c 4032 | tr -d '\0')" = minemine

# With an unknown bit in compat_features any byte may belong to an extension,
# so a rebase is refused.
new
printf '\1' | dd of=x.qed bs=1 seek=31 conv=notrunc
cp x.qed y.qed
truncate -s 1M a.raw
for args in "-u -b a.raw" "-b a.raw -F raw"; do
    fails 1 'x.qed: header: compat_features 0x100000000000000: .*unknown' \
          qed-img rebase $args x.qed
    cmp x.qed y.qed
done
fails 1 'x.qed: header: compat_features' qed-img rebase -u -b '' x.qed
cmp x.qed y.qed
