#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# qed-img map marks what two ranges of the disk share.  A shared data cluster
# is marked in both ranges.  A shared L2 table is marked in the second range,
# and its entries are listed only once.

source ./functions.sh nbd

cd $d
"$PYTHON" - <<'END'
import qedimg

img = qedimg.Image(2 << 30, 65536, 1)   # a table maps 512 MiB
at = [img.data(c) * 65536 for c in range(8)]
img.entry(100, at[3])
img.l1_entry(2, img.table(0) * 65536)
img.save("x.qed")
END

qed-img map x.qed >out
cat >want <<'END'
Offset          Length          Mapped to       File
0               0x30000         0x30000         x.qed
0x30000         0x10000         0x60000         x.qed (shared with another range)
0x40000         0x40000         0x70000         x.qed
0x640000        0x10000         0x60000         x.qed (shared with another range)
END
diff want out

qed-img map --output=json x.qed >json
"$PYTHON" - <<'END'
import json

entries = json.load(open("json"))
shared = [(e["start"], e["length"], e.get("offset")) for e in entries
          if e.get("shared")]
assert shared == [(0x30000, 65536, 0x60000), (0x640000, 65536, 0x60000),
                  (1 << 30, 512 << 20, None)], shared
assert all(e["present"] and e["data"] for e in entries if e.get("shared"))
END

LC_ALL=C.UTF-8 qed-img map --totals x.qed >out
grep -E '^ +512 MiB +25.0% +shared with another range in x.qed$' out
grep -F '================' out

# Reads are not affected: both ranges have the content.
start_nbdkit -r qed x.qed
nbdsh -u "$uri" -c '
a = h.pread (65536, 0x30000)
assert any (a) and a == h.pread (65536, 0x640000)
assert a == h.pread (65536, (1 << 30) + 0x30000)'
stop_nbdkit

# salvage=true lists the damage of a shared table only once, and says so.
nbdkit -U - qed x.qed salvage=true --run true 2>err
grep "x.qed: $((512 << 20)) bytes of the disk share their L2 table with \
another range: " err
