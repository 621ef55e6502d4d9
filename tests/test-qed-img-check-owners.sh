#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A range of shared clusters is listed with its other owners, ranges of the
# disk or L2 tables.  A repair lists the same, and gives each owner its own
# copy.

source ./functions.sh nbd

cd $d
"$PYTHON" - <<'END'
import qedimg

img = qedimg.Image(1 << 30, 65536, 1)   # a table maps 512 MiB
at = [img.data(c) * 65536 for c in range(16)]
for c in range(3):                      # three in a row have others' data
    img.entry(100 + c, at[4 + c])
for c in range(6):                      # one cluster has seven owners
    img.entry(200 + 2 * c, at[15])
img.entry(300, img.table(0) * 65536)    # its own table: unsound
img.data(8192 + 5)
img.entry(301, img.table(1) * 65536)    # the other table
img.save("data.qed")

img = qedimg.Image(2 << 30, 65536, 1)
img.data(0)
img.save("table.qed")
with open("table.qed", "r+b") as f:     # the third range has the first's table
    f.seek(img.l1_at * 65536 + 16)
    f.write(qedimg.ENTRY.pack(img.table(0) * 65536))
END

cat >want <<'END'
Data clusters inside a table: 1
    offset 0x12d0000, length 0x10000 (64 KiB): also the L2 table of offset 0x20000000, length 0x20000000

Data clusters with another owner: 9
    offset 0x640000, length 0x30000 (192 KiB): also offset 0x40000, length 0x30000
    offset 0xc80000, length 0x10000 (64 KiB): also offset 0xf0000, length 0x10000, offset 0xca0000, length 0x10000, offset 0xcc0000, length 0x10000, and 3 more
END
listed ()
{
    sed -n '/^Data clusters inside/,/^$/p; /^Data clusters with/,/0xc80000/p' |
        sed 's/, copied: .*:/:/'
}
qed-img check data.qed >out || test $? -eq 2
listed <out >got
diff want got
qed-img check --output=json data.qed 2>err >json || test $? -eq 2
listed <err >got
diff want got
cp data.qed copy.qed
qed-img check -r all copy.qed >out
listed <out >got
diff want got

qed-img check table.qed >out || test $? -eq 2
grep -x "    offset 0x40000000, length 0x20000000 (512 MiB): also the L2 table of \
offset 0, length 0x20000000" out
