#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# resize checks and repairs an image that was not closed cleanly, and leaves it
# clean.  It refuses an image that cannot be repaired without loss.

source ./functions.sh nbd qemu

cd $d
"$PYTHON" - <<'END'
import qedimg
def image(name, *entries, twice=False):
    i = qedimg.Image(1 << 20, features=qedimg.F_NEED_CHECK)
    i.data(3)
    if twice:
        i.entry(5, i.entries[max(i.entries)])
    for c, v in entries:
        i.entry(c, v)
    i.save(name)
image("x.qed", (5, 1 << 30), (40, 1 << 30))
image("twice.qed", twice=True)
END
qemu-img convert -f qed -O raw x.qed want.raw || :
cp x.qed y.qed
qed-img resize x.qed 10M
qed-img resize --shrink y.qed 500k
for i in x y; do
    qed-img check $i.qed
    test "$(od -An -tx8 -j16 -N8 $i.qed)" = " 0000000000000000"
    on_disk $i.qed "
assert h.pread (65536, 3 * 65536) != bytes (65536)
assert h.pread (65536, 5 * 65536) == bytes (65536)
" -r
done

state_of twice.qed >before
fails 1 'twice.qed: .*referenced twice.*: run qed-img check -r all' \
      qed-img resize twice.qed 10M
fails 1 'twice.qed: .*referenced twice.*: run qed-img check -r all' \
      qed-img resize --shrink twice.qed 500k
state_of twice.qed | cmp - before
