#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A commit that is refused writes nothing.

source ./functions.sh nbd qemu

cd $d
mkdir other
truncate -s 1M base.raw other/base.raw
"$PYTHON" - <<'END'
import qedimg

def make(path, backing, bad=False):
    img = qedimg.Image(1 << 20, backing=backing)
    img.data(1, b"x")
    if bad:
        img.entry(5, 12345)
    img.save(path)

make("none.qed", None)
make("x.qed", "base.raw")
make("y.qed", "x.qed")
make("z.qed", "y.qed")
make("far.qed", "other/base.raw")
make("other/far.qed", "../base.raw")
make("uri.qed", "nbd://localhost:1/")
make("gone.qed", "missing")
make("loop.qed", "loop.qed")
make("bad.qed", "base.raw", True)
make("on-bad.qed", "bad.qed")
make("qcow2.qed", "q.qcow2")
make("small.qed", None)
for path, backing in ("twice.qed", "base.raw"), ("on-twice.qed", "twice.qed"):
    img = qedimg.Image(1 << 30, 4096, 16, backing=backing)
    img.data(1, b"x")
    if path == "twice.qed":
        img.l1_entry(3, img.table(0) * 4096)
    img.save(path)
img = qedimg.Image(2 << 30, backing="tiny.qed")
img.data(32767, b"x")
img.save("large.qed")
qedimg.Image(1 << 20, 4096, 1).save("tiny.qed")
END
qemu-img create -q -f qcow2 q.qcow2 1M
unchanged ()
{
    local re=$1
    shift
    state_of *.qed *.raw other/* q.qcow2 >before
    fails 1 "^qed-img: $re" qed-img commit "$@"
    test ! -s fails.out
    state_of *.qed *.raw other/* q.qcow2 | diff -u before -
}
unchanged 'none.qed: has no backing file' none.qed
unchanged 'missing: open: No such file' missing
unchanged 'base.raw: .*not a QED image' base.raw
unchanged 'other/far.qed: backing file: .* --backing-dir=' other/far.qed
unchanged 'uri.qed: .*NBD URI is not followed.*add --backing-uri' uri.qed
unchanged 'gone.qed: backing file: missing: .*rebase -u' gone.qed
unchanged 'loop.qed: .*loop' loop.qed
unchanged 'bad.qed: .*nothing was committed.*qed-img check -r all' bad.qed
unchanged 'bad.qed: .*nothing was committed.*qed-img check -r all' on-bad.qed
unchanged 'twice.qed: .*L2 tables overlap: .*qed-img check -r all' twice.qed
unchanged 'twice.qed: .*L2 tables overlap: .*qed-img check -r all' on-twice.qed
unchanged 'qcow2.qed: .*qcow2: only a raw or QED file can be committed to' \
          qcow2.qed
unchanged 'commit: expected one file name'
unchanged "commit: .*'raw'" -f raw x.qed
qed-img commit --backing-dir=. other/far.qed
qed-img commit far.qed

# The backing file cannot grow to the size of the disk.
fails 1 'tiny.qed: size 2147483648: must be at most 1073741824' \
      qed-img commit large.qed
qemu-img check -q tiny.qed || test $? = 1

# A commit is refused if another program has the image or a QED backing file
# open, even for reading.  It is refused if another program writes a raw
# backing file.  Layers further down may be in use.
start_qemu_nbd -f qed $PWD/x.qed
unchanged 'x.qed: locked' x.qed
stop_qemu_nbd
start_qemu_nbd -r -f qed $PWD/x.qed
unchanged 'x.qed: locked' x.qed
unchanged 'x.qed: locked' y.qed
qed-img commit z.qed
stop_qemu_nbd
start_qemu_nbd -f raw $PWD/base.raw
unchanged 'base.raw: locked' x.qed
stop_qemu_nbd
# The files are unlocked again.
qed-img commit x.qed

# A backing file without permission to write.
if [ "$(id -u)" != 0 ]; then
    "$PYTHON" -c 'import qedimg
img = qedimg.Image(1 << 20, backing="base.raw")
img.data(1)
img.save("x.qed")'
    chmod 444 base.raw
    unchanged 'base.raw: open for writing: Permission denied' x.qed
    chmod 444 x.qed
    chmod 644 base.raw
    unchanged 'x.qed: open for writing: Permission denied' x.qed
    qed-img commit -d x.qed
fi
