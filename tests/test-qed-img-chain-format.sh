#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A backing file in another format: each verb refuses it with advice that works,
# and reads it through qemu-nbd with --backing-format, which reaches no further
# than the image's own backing file.

source ./functions.sh nbd libnbd qemu

mkdir $d/dir
cd $d/dir
head -c 3M /dev/urandom >base.raw
head -c 2M /dev/urandom >other.raw
qemu-img convert -f raw -O qcow2 base.raw q.qcow2
qemu-img create -q -f vpc empty.vpc 2M
with=--backing-format=qcow2
same ()                         # [OPTION...]
{
    qed-img convert "$@" x.qed got.raw
    cmp want.raw got.raw
    rm got.raw
}

# A new image.
has='q.qcow2: has the magic of format qcow2'
fails 1 "^qed-img: x.qed: backing file: $has: add -F qcow2, or -F raw if it is a raw disk anyway\$" \
      qed-img create -b q.qcow2 x.qed
test ! -e x.qed
ends 0 qed-img create -b q.qcow2 -F qcow2 x.qed
grep "'x.qed', fmt=qed size=3145728 backing_file=q.qcow2 backing_fmt=qcow2 " \
     $d/ends.out
test $(od -An -tu8 -j16 -N8 x.qed) -eq 1
fails 1 "y.qed: backing file: .*base.raw: qemu-nbd doesn't serve this file as vdi" \
      qed-img create -b base.raw -F vdi y.qed
qemu-io -f qed -c 'write -P 1 100k 300k' x.qed
cp base.raw want.raw
qemu-io -f raw -c 'write -P 1 100k 300k' want.raw
fails 0 "warning: x.qed: backing file: $has: it can be read only right below" \
      qed-img create -b x.qed above.qed

# Without the option, and where it doesn't reach.
chain_refused "^qed-img: x.qed: backing file: $has: add --backing-format=qcow2, or --backing-format=raw if it is a raw disk anyway\$" \
              x.qed
chain_refused "^qed-img: x.qed: backing file: $has: it can be read only right below the image: convert it; if it is a raw disk anyway, qed-img rebase -u -b NAME -F raw" \
              above.qed
chain_refused "x.qed: qemu-nbd doesn't serve this file as qcow2" above.qed $with
chain_refused "$has: it can be read only right" above.qed --backing-format=qed
fails 1 "$has: only a raw or QED file can be committed to: convert it; if it is a raw disk anyway, add --backing-format=raw\$" \
      qed-img commit x.qed
fails 1 'q.qcow2: is neither raw nor QED: only such a file can be committed' \
      qed-img commit $with x.qed

# With it.
qed-img info --backing-chain $with x.qed | sed '1,/^$/d' >got
qemu-img info q.qcow2 | sed '/^disk size/q' | diff - got
"$PYTHON" - <<'END'
import json
import qedtest
args = "--output=json", "--backing-format=qcow2", "x.qed"
got = json.loads(qedtest.qed_img("info", "--backing-chain", *args)[0])
want = json.loads(qedtest.run("qemu-img", "info", "--output=json", "q.qcow2"))
for key in list(want):
    if key not in ("virtual-size", "filename", "format", "actual-size",
                   "dirty-flag"):
        del want[key]
assert got[1] == want, (got, want)
m = json.loads(qedtest.qed_img("map", *args)[0])
assert [(e["start"], e["length"]) for e in m if e["depth"] == 0] == \
    [(65536, 6 * 65536)], m
END
same $with
ends 0 qed-img resize $with x.qed 4M
truncate -s 4M want.raw
same $with
state_of q.qcow2 >q

# To another backing file and back; and -u.
ends 0 qed-img rebase $with -b other.raw -F raw x.qed
qemu-img compare -f raw -F qed want.raw x.qed
fails 1 "^qed-img: x.qed: backing file: $has: add -F qcow2, or -F raw if" \
      qed-img rebase -b q.qcow2 x.qed
ends 0 qed-img rebase -b q.qcow2 -F qcow2 x.qed
test $(od -An -tu8 -j16 -N8 x.qed) -eq 1
same $with
ends 0 qed-img rebase $with -b empty.vpc -F vpc x.qed
same --backing-format=vpc
ends 0 qed-img rebase -u -b q.qcow2 -F qcow2 x.qed
test $(od -An -tu8 -j16 -N8 x.qed) -eq 1
ends 0 qed-img map $with x.qed

# The file is a raw disk to whoever says so.
qed-img create -q -u -b q.qcow2 -F qcow2 new.qed 64k
qed-img create -q -f qed -b q.qcow2 -F qcow2 all.qed
ends 0 qed-img map $with all.qed
grep -E '^0(x[0-9a-f]+)? +0x[0-9a-f]+ +- +.*qcow2$' $d/ends.out
ends 0 qed-img convert --backing-format=raw new.qed got.raw
head -c 64k q.qcow2 | cmp - got.raw
state_of q.qcow2 | diff q -
