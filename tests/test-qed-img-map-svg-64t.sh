#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The drawing of a disk of 64 TiB is below 300 KB, and takes little time and
# memory.  One damaged, one shared, one leaked cluster is seen.  An image whose
# tables are shared a thousand times takes no longer.

source ./functions.sh nbd

cd $d
truncate -s 8T probe ||
    skip "this filesystem has no files of 8T"
"$PYTHON" - <<'END'
import random, struct
import qedimg

CS, TIB = 65536, 1 << 40

def image(**args):
    return qedimg.Image(64 * TIB, CS, 4, **args)

img = image()
img.data(0)
img.alloc(1)
img.table(16384)
img.entry(16384 * 32768 + 5, 77)        # at 32 TiB + 320 KiB
img.entry(20000 * 32768, img.data(1) * CS)
img.length = 8 * TIB                    # of which nearly all is leaked
img.save("one.qed")

# All that makes a drawing large: data of five layers, zeros, damage, sharing
# and leaks, all of them spread.
backing = None
for layer in range(5):
    r = random.Random(layer)
    img = image(backing=backing)
    for i in r.sample(range(32768), 1500):
        at = img.alloc(2)
        img.entry(i * img.n + r.randrange(img.n), r.choices(
            (at * CS, 1, 7, (at - 3) * CS), (20, 5, 1, 1))[0])
    backing = f"many{layer}.qed"
    img.save(backing)

# One table for all of the disk, of one cluster for all of its entries.
img = image()
at = img.table(0)
cluster = img.data(0)
for i in range(img.n):
    img.l1_entry(i, at * CS)
img.save("hostile.qed")
with open("hostile.qed", "r+b") as f:
    f.seek(at * CS)
    f.write(struct.pack("<Q", cluster * CS) * img.n)
END

skip_if_instrumented "the size of memory"
draw ()
{
    local name=$1 status=0
    (ulimit -v 400000; timeout 60 $QED_IMG map --output=svg $name) \
        >$name.svg 2>$name.err || status=$?
    test $status = $2 || fail "$name: status $status"
    test $(stat -c %s $name.svg) -lt 300000
}
draw one.qed 1
draw many4.qed 1
test $(stat -c %s many4.qed.svg) -gt 50000
draw hostile.qed 0

"$PYTHON" - <<'END'
import svgmap

def load(name):
    with open(name + ".svg", "rb") as f:
        return svgmap.Drawing(f.read())

m = load("one.qed")
cells = m.cells("disk")
SHARED = "shared with another range"
want = {0: (SHARED, 2, "data in one.qed"), 2048: ("damaged", 2, None),
        2500: (SHARED, 2, None)}
assert {i: c for i, c in enumerate(cells) if c[0] or c[2]} == want
assert m.legend("disk")["damaged"] == ("64 KiB", "<0.1%")
cells = m.cells("file")
assert cells[0] == ("damaged table entries", 2, "shared"), cells[0]
assert all(c == ("leaked", 2, None) for c in cells[1:])
assert "8 TiB, 100.0% of the file" in m.text()

m = load("hostile.qed")
assert m.legend("disk") == {SHARED: ("64 TiB", "100.0%")}
assert m.legend("file")["shared"] == ("320 KiB", "50.0%"), m.legend("file")
END
