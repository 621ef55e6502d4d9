#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Damage is listed as ranges of the disk with neighbours merged, the first
# hundred of each kind.  With JSON the list goes to stderr, and with -q it is
# left out.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import json
import qedcheck, qedimg, qedtest
from qedcheck import BAD_ENTRY

path = qedtest.TMP + "/r.qed"

def ranges(entries, *args, size=256 << 20):
    img = qedimg.Image(size, 4096, 16)
    for i in range(-(-size // 4096 // img.n) - 1, -1, -1):
        img.table(i)                # in the file the last one is first
    for c in entries:
        img.entry(c, 7)
    img.save(path)
    out, err, r, beyond = qedcheck.check(path, *args, status=2)
    return (err if args else out), r.get(BAD_ENTRY), beyond

for args in ([], ["--output=json"]):
    # Over the border of tables, too.
    text, got, _ = ranges(range(5, 8192 * 3 + 2), *args)
    assert got == [(5 * 4096, (8192 * 3 + 2) * 4096)], got
    assert f"length {100651008:#x} (96 MiB)" in text, text
    assert f"{BAD_ENTRY}: what they map can't be read: 24573\n" in text, text

    entries = range(1000, 60000, 50)
    text, got, _ = ranges(entries, *args)
    assert got == [(c * 4096, c * 4096 + 4096) for c in entries[:100]], got
    assert f"    and {len(entries) - 100} more, from offset " \
        f"{entries[100] * 4096:#x} on\n" in text, text
    assert f": {len(entries)}\n" in text, text

    # More ranges than the list keeps.
    entries = range(1, 65536, 2)
    text, got, _ = ranges(entries, *args)
    assert got == [(c * 4096, c * 4096 + 4096) for c in entries[:100]], got
    assert f"    and more, from offset {201 * 4096:#x} on\n" in text, text
    assert f": {len(entries)}\n" in text, text
    assert len(text) < 10000

# The end of the disk is in the middle of a cluster, and of a table.
text, got, beyond = ranges([100, 101, 102, 8191], size=101 * 4096 + 512)
assert got == [(100 * 4096, 101 * 4096 + 512)], got
assert beyond == {BAD_ENTRY: 2}, beyond
assert "length 0x1200 (4.5 KiB)" in text, text
assert ranges([1], "-q")[:2] == ("", None)
END
