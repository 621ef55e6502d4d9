#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Options of qemu-img have the long names of its version 10, too, and do the
# same.  What is left out is refused with the reason, and nothing changes.

source ./functions.sh

cd $d
truncate -s 1M base.raw

new ()
{
    qed-img create -q -b base.raw -F raw x.qed
}
# same ARGS... -- ARGS...: both do the same to a new x.qed, and print the same.
same ()
{
    local args=() status=0
    while [ "$1" != -- ]; do args+=("$1"); shift; done
    shift
    new
    qed-img "${args[@]}" >a.out || status=$?
    cp x.qed a.qed
    new
    qed-img "$@" >b.out || test $? = $status
    cmp a.out b.out
    cmp x.qed a.qed
}
same create -q -f qed -b base.raw -F raw -o table_size=2 x.qed -- \
     create --quiet --format qed --backing base.raw --backing-format=raw \
     --options table_size=2 x.qed
test ! -s a.out
same create -f qed x.qed 1M -- create --format=qed x.qed 1M
grep Formatting a.out
same info -f qed -U -t none x.qed -- \
     info --format qed --force-share --cache=none x.qed
same check -q -p -f qed -T none -U x.qed -- \
     check --quiet --progress --format qed --cache none --force-share x.qed
test ! -s a.out
same check -f qed -r all x.qed -- check --format=qed --repair=all x.qed
same map -f qed -U -s 4k -l 64k x.qed -- \
     map --format=qed --force-share --start-offset=4k --max-length=64k x.qed
same resize -f qed -q -p x.qed 2M -- \
     resize --format=qed --quiet --progress x.qed 2M
test ! -s a.out
same rebase -f qed -q -p -t none -T none -b '' x.qed -- \
     rebase --format=qed --quiet --progress --cache=none --source-cache=none \
     --backing '' x.qed
same rebase -u -U -b gone -F raw x.qed -- \
     rebase --backing-unsafe --force-share --backing=gone -F raw x.qed
same commit -f qed -q -p -t none -d -b base.raw x.qed -- \
     commit --format qed --quiet --progress --cache none --drop \
     --base base.raw x.qed

same create -u -b gone -F raw x.qed 1M -- \
     create --backing-unsafe -b gone -F raw x.qed 1M
same measure -f qed -U -O qed -o table_size=1 x.qed -- \
     measure --format=qed --force-share --target-format=qed \
     --options table_size=1 x.qed
same compare -f qed -F raw -T none -s -q -p -U x.qed base.raw -- \
     compare --a-format=qed --b-format=raw --cache=none --strict --quiet \
     --progress --force-share x.qed base.raw
same convert -f qed -O qed -o table_size=2 -B base.raw -S 8k -m 2 -p -q -U \
     -t none -T none -W x.qed y.qed -- \
     convert --source-format qed --target-format qed \
     --target-format-options table_size=2 --backing base.raw --sparse-size=8k \
     --parallel 2 --progress --quiet --force-share --target-cache=none \
     --source-cache=none --oob x.qed y.qed
same convert -n -O qed base.raw x.qed -- \
     convert --no-create --target-format=qed base.raw x.qed

# Their values are checked in the same way.
fails 1 "^qed-img: info: -t: cache mode 'x': must be none, " \
      qed-img info --cache x x.qed
fails 1 "^qed-img: rebase: -T: cache mode 'x': must be none, " \
      qed-img rebase --source-cache=x -b '' x.qed
fails 1 "^qed-img: rebase: -f: format 'raw': must be qed" \
      qed-img rebase --format=raw -b '' x.qed
fails 1 "^qed-img: commit: option '--base' needs a value" \
      qed-img commit --base
fails 1 "^qed-img: check: option '--quiet=1' is unknown or takes no value" \
      qed-img check --quiet=1 x.qed
# A verb has only those of its letters.
fails 1 "^qed-img: info: option '--quiet' is unknown or takes no value" \
      qed-img info --quiet x.qed
fails 1 "^qed-img: resize: option '--backing' is unknown or takes no value" \
      qed-img resize --backing x x.qed 2M

# What is left out.
verbs=$(qed-img --help | sed -n 's/^  qed-img \([a-z]*\) .*/\1/p')
new
state_of x.qed base.raw >before
for v in $verbs; do
    status=1
    if [ $v = compare ]; then status=2; fi
    for o in --image-opts --image-opts=; do
        fails $status "^qed-img: $v: --image-opts is left out: FILE is a name: .* \
NBD URI of a server, such as nbdkit: see qed-img $v --help\$" \
              qed-img $v $o driver=qed,file.filename=x.qed
    done
    for o in --object=secret,id=a,data=b '--object secret,id=a,data=b'; do
        fails $status "^qed-img: $v: --object is left out: an NBD URI has the keys .*\
nbds://HOST/\?tls-certificates=DIR.*luks" qed-img $v $o x.qed
    done
done
for o in -r --rate --rate=1M -qr; do
    fails 1 "^qed-img: commit: -(r|-rate) is left out: systemd-run .*rate" \
          qed-img commit $o 1M x.qed
done
for o in -c --compress -l --snapshot -r --rate-limit --bitmaps \
            --skip-broken-bitmaps --target-image-opts; do
    fails 1 "^qed-img: convert: $o is left out: (QED has no|nbdkit's filter|TARG)" \
          qed-img convert $o x.qed y.qed
done
for o in -l --snapshot; do
    fails 1 "^qed-img: measure: $o is left out: QED has no snapshots" \
          qed-img measure $o x.qed
done
for o in -c --compress; do
    fails 1 "^qed-img: rebase: $o is left out: QED has no compressed clusters" \
          qed-img rebase $o -b '' x.qed
done
fails 1 '^qed-img: info: --limits is left out: lsblk -t .*nbdinfo' \
      qed-img info --limits x.qed
for o in -T --trace --trace=enable=qed*; do
    fails 1 '^qed-img: -(T|-trace) is left out: strace shows' \
          qed-img $o info x.qed
done
for v in amend bench bitmap dd snapshot; do
    fails 1 "^qed-img: verb $v is left out: .*: see qed-img --help" \
          qed-img $v x.qed
    grep -E "=item .*C<$v>" "$abs_top_srcdir/tools/qed-img.pod"
done
# Only of the verb that has it in qemu-img.
fails 1 "^qed-img: resize: option '-c' is unknown" qed-img resize -c x.qed 2M
state_of x.qed base.raw | cmp - before
