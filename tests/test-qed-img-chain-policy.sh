#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# What a header names is followed beneath the image's directory only, or beneath
# those of --backing-dir, by each verb; also where a link leads, and while files
# are swapped.  info of the image alone needs no backing file.

source ./functions.sh nbd qemu

mkdir $d/dir
cd $d/dir
mkdir imgs other
head -c 1M /dev/urandom >other/base.raw
qed-img create -q -b ../other/base.raw -F raw imgs/x.qed
qed-img create -q -b imgs/x.qed -F qed top.qed
ln -s ../other/base.raw imgs/link.raw
qed-img create -q -b link.raw -F raw imgs/y.qed
# create doesn't refuse what others would, but says so.
qed-img create -q -b imgs/x.qed -F qed other.qed
fails 0 'warning: imgs/x.qed: backing file: .* add --backing-dir=.*/dir/other$' \
      qed-img create -b imgs/x.qed -F qed other.qed
ends 0 qed-img create --backing-dir=other -b imgs/x.qed -F qed other.qed
rm other.qed

where="is the file $PWD/other/base.raw, not beneath the image's directory $PWD/imgs: if that is wanted add --backing-dir=$PWD/other\$"
chain_refused "^qed-img: imgs/x.qed: backing file: imgs/../other/base.raw: $where" imgs/x.qed
chain_refused "^qed-img: imgs/x.qed: backing file: imgs/../other/base.raw: $where" top.qed
chain_refused "^qed-img: imgs/y.qed: backing file: imgs/link.raw: $where" \
              imgs/y.qed
fails 1 "$where" qed-img commit imgs/x.qed
fails 1 "$where" qed-img commit imgs/x.qed --backing-dir=imgs
for i in imgs/x.qed top.qed imgs/y.qed; do
    qed-img info --backing-dir=other --backing-chain $i >info
    grep -E '^image: imgs/(../other/base|link).raw$' info
    ends 0 qed-img map --backing-dir=other $i
    ends 0 qed-img convert --backing-dir=other $i got.raw
    cmp got.raw other/base.raw
done
ends 0 qed-img rebase --backing-dir=other -b '' imgs/y.qed
qemu-img compare -f raw -F qed other/base.raw imgs/y.qed
ends 0 qed-img resize --backing-dir=other imgs/x.qed 2M
ends 0 qed-img commit --backing-dir=other imgs/x.qed

# A loop, and a chain that is too long, are found from each side.
qed-img create -q one.qed 1M
qed-img create -q -b one.qed -F qed two.qed
qed-img rebase -u -b two.qed -F qed one.qed
chain_refused 'one.qed: backing file: two.qed: is the file two.qed again' two.qed
fails 0 'warning: .* a chain of backing files can.t be a loop' \
      qed-img create -b two.qed -F qed new.qed
fails 1 'one.qed: backing file: two.qed: needs the file that would be replaced' \
      qed-img create -b two.qed -F qed one.qed
fails 1 'two.qed: backing file: two.qed: is the same file: choose another' \
      qed-img create -b two.qed -F qed two.qed
fails 1 'two.qed again: .*loop' qed-img rebase -u -b two.qed two.qed
"$PYTHON" - <<'END'
import qedimg
for i in range(66):
    qedimg.Image(1 << 20, backing=f"{i + 1}.qed" if i < 65 else None).save(
        f"{i}.qed")
END
chain_refused '63.qed: backing file: 64.qed: would be layer 65 of the chain' 0.qed
ends 0 qed-img create -q -b 3.qed -F qed new.qed
test $(qed-img info --backing-chain new.qed | grep -c ^image:) = 64
fails 1 'new2.qed: backing file: 2.qed: has a chain of 64 layers already: merge' \
      qed-img create -b 2.qed -F qed new2.qed
test ! -e new2.qed
fails 1 'would be layer 65 of the chain' qed-img rebase -b new.qed -F qed two.qed
fails 1 'would be layer 65' qed-img convert 1.qed got.raw
ends 0 qed-img convert 2.qed got.raw

# info without the chain looks at no backing file.
for name in missing.raw ../../../etc/passwd nbd://localhost:1/ json:{} one.qed; do
    qed-img rebase -q -u -b $name -F raw one.qed
    ends 0 qed-img info one.qed
    grep -F "backing file: $name" $d/ends.out
    ends 0 qed-img info --output=json one.qed
done

# Whoever swaps files gains nothing.
mkdir swap
echo inside >swap/inside
echo PRIVATE >private
truncate -s 4k private swap/inside
qed-img create -q -u -b base -F raw swap/x.qed 4k
ln -s inside swap/base
"$PYTHON" - <<'END'
import os, subprocess, threading
import qedtest
stop = threading.Event()

def swap():
    while not stop.is_set():
        for target in "../private", "inside":
            os.symlink(target, "swap/new")
            os.rename("swap/new", "swap/base")

swapper = threading.Thread(target=swap)
swapper.start()
try:
    for i in qedtest.some(range(40), 5):
        p = subprocess.run([*os.environ["QED_IMG"].split(), "convert",
                            "swap/x.qed", "-"], capture_output=True)
        if p.returncode == 0:
            assert p.stdout.startswith(b"inside\n"), p
        else:
            assert b"swap/x.qed: backing file: " in p.stderr, p
            assert not p.stdout, p
finally:
    stop.set()
    swapper.join()
END
