#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A rebase that is refused exits with code 1 and a message, and changes
# nothing.

source ./functions.sh nbd qemu

mkdir $d/dir
cd $d/dir
truncate -s 1M base.raw
qed-img create -q -b base.raw -F raw x.qed
qed-img create -q -b x.qed -F qed above.qed
qed-img create -q -b above.qed -F qed above2.qed
qemu-img create -q -f qcow2 y.qcow2 1M
bad ()
{
    state_of * >$d/before
    fails 1 "^qed-img: $1" qed-img rebase "${@:2}"
    state_of * | cmp - $d/before
}

# Loops.
ln -s x.qed link.qed
for n in x.qed ./x.qed $d/dir/x.qed link.qed; do
    bad 'x.qed: backing file: .*x.qed again: .*loop' -b $n x.qed
    bad 'x.qed: backing file: .*x.qed again: .*loop' -b $n -F qed x.qed
done
bad 'above.qed: backing file: x.qed: is the file x.qed again: .*loop' \
    -b above.qed -F qed x.qed
bad 'above.qed: backing file: .*x.qed again: .*loop' -b above2.qed -F qed x.qed
bad 'x.qed: backing file: .*x.qed again: .*loop' -u -b x.qed x.qed

# Names of no usable file, wrong formats, and protocols.
bad 'x.qed: backing file: ./none: .*No such file' -b none x.qed
bad 'x.qed: backing file: ./none: .*No such file' -b none -F raw x.qed
bad 'x.qed: backing file: .*must be a regular file' -b .. -F raw x.qed
for u in '' -u; do
    bad 'x.qed: backing file: y.qcow2: has the magic of format qcow2: add -F qcow2, or -F raw if it is' $u -b y.qcow2 x.qed
done
bad 'x.qed: backing file: base.raw: .*this is not a QED image' \
    -b base.raw -F qed x.qed
bad 'x.qed: backing file: json:.}: .*if it is a file write ./json:' \
    -b 'json:{}' x.qed
qed-img rebase -b y.qcow2 -F raw x.qed
qed-img rebase -b base.raw -F raw x.qed

# L2 tables that overlap, in the image or in a new backing file.
"$PYTHON" - <<'END'
import qedimg

img = qedimg.Image(1 << 30, 4096, 16, backing="base.raw")
img.l1_entry(3, img.table(0) * 4096)
img.save("twice.qed")
END
bad 'twice.qed: .*L2 tables overlap: .*qed-img check -r all' -b '' twice.qed
bad 'twice.qed: .*L2 tables overlap: .*qed-img check -r all' \
    -b twice.qed -F qed x.qed

# A rebase reads the old backing file, so the file must exist and be allowed.
mkdir $d/far
truncate -s 1M $d/far/old.raw
qed-img rebase -u -b $d/far/old.raw -F raw x.qed
bad "x.qed: backing file: .*backing-dir=$d/far" -b base.raw -F raw x.qed
qed-img rebase --backing-dir=$d/far -b base.raw -F raw x.qed
# The new backing file may be anywhere, as the user names it.  Its own backing
# file may not.
qed-img rebase -b $d/far/old.raw -F raw x.qed
qed-img rebase -u -b base.raw -F raw x.qed
mkdir $d/far/further
qed-img create -q -b $d/dir/base.raw -F raw $d/far/further/new.qed
bad "$d/far/further/new.qed: backing file: .*base.raw.*backing-dir=$d/dir" \
    -b $d/far/further/new.qed -F qed x.qed
qed-img rebase -u -b gone.raw -F raw x.qed
bad 'x.qed: backing file: .*gone.raw: .*No such file' -b base.raw -F raw x.qed

# The command line.
bad 'rebase: -b is missing' x.qed
bad 'rebase: expected one file name' -b base.raw
bad 'rebase: expected one file name' -b base.raw x.qed y.qed
bad "rebase: -F: backing format 'QCOW2': must be raw, qed or the name of" \
    -b y.qcow2 -F QCOW2 x.qed
bad 'rebase: -F needs a backing file' -b '' -F raw x.qed
bad "rebase: -f: format 'raw'" -f raw -b base.raw x.qed
bad 'y.qcow2: .*this is not a QED image' -b base.raw -F raw y.qcow2

# An image that was not closed cleanly is checked first.  If it cannot be
# repaired without loss, it does not change.
"$PYTHON" - <<'END'
import qedimg
for name, twice in ("dirty.qed", False), ("twice.qed", True):
    i = qedimg.Image(1 << 20, features=qedimg.F_NEED_CHECK)
    i.data(3)
    if twice:
        i.entry(5, i.entries[max(i.entries)])
    i.entry(8, 1 << 30)
    i.save(name)
END
bad 'twice.qed: .*referenced twice' -b base.raw -F raw twice.qed
bad 'twice.qed: .*referenced twice' -u -b base.raw -F raw twice.qed
cp dirty.qed d2.qed
qed-img rebase -b base.raw -F raw dirty.qed
qed-img rebase -u -b base.raw -F raw d2.qed
qed-img check dirty.qed
qed-img check d2.qed
