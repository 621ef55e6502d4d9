#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The order of system calls on the image file.  NEED_CHECK is durable before
# anything else changes.  Data is written before the entry that points to it.
# An in-place write is one call.  Flush and FUA sync.  At the end all is
# durable before the mark is cleared.  (I3, I5, I6)

source ./functions.sh nbd strace

cat >$d/client.py <<'END'
import os, sys
import nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
log = open(sys.argv[2], "a")

def mark(what):
    # Seen in the trace.
    os.pwrite(log.fileno(), what.encode(), 0)

for what, call in (
        ("first", lambda: h.pwrite(b"1" * 100, 5)),
        ("in place", lambda: h.pwrite(b"2" * 1000, 7)),
        ("second", lambda: h.pwrite(b"3" * 100, 65536 * 3 + 5)),
        ("run", lambda: h.pwrite(b"4" * 65536 * 10, 65536 * 10)),
        ("flush", h.flush),
        ("nothing", h.flush),
        ("fua", lambda: h.pwrite(b"5", 9, nbd.CMD_FLAG_FUA)),
        ("zero", lambda: h.zero(4096, 4096)),
        ("zero fua", lambda: h.zero(4096, 4096, nbd.CMD_FLAG_FUA)),
        ("trim", lambda: h.trim(4096, 4096)),
        ("read", lambda: h.pread(70000, 0)),
        ("end", h.shutdown)):
    mark(what)
    call()
END
"$PYTHON" -c '
import qedimg, sys
qedimg.Image (1 << 30, 65536, 4).save (sys.argv[1])' $d/x.qed
ASAN_OPTIONS=detect_leaks=0 strace -f -y -s 32 -o $d/trace \
    -e trace=pwrite64,pwritev,fsync,fdatasync,ftruncate,fallocate,close \
    "$abs_top_builddir/nbdkit" -U - qed $d/x.qed --run \
    "'$PYTHON' $d/client.py \"\$uri\" $d/marks"
grep -E 'x.qed|marks' $d/trace

"$PYTHON" - <<'END'
import os, re

# [(mark, [(call, offset or length)])]
d = os.environ["d"]
steps = [("open", [])]
for line in open(d + "/trace"):
    # Match the start of each call.  Its end may be in a line of its own.
    m = re.match(r"\d+ +(\w+)\(\d+<([^>]*)>(.*)(\) += \d+| <unfinished)",
                 line)
    if m is None:
        assert "x.qed" not in line or "close" in line, line
        continue
    call, path, args, _ = m.groups()
    if path.endswith("/marks") and call == "pwrite64":
        steps.append((re.search(r'"([^"]*)"', args)[1], []))
    elif path.endswith("/x.qed") and call != "close":
        numbers = [int(n) for n in re.findall(r", (\d+)", args)]
        if call == "fsync":
            call = "fdatasync"
        steps[-1][1].append((call, *numbers))
steps = dict(steps)
for step in steps.items():
    print(*step)

HEADER = ("pwrite64", 64, 0)
SYNC = ("fdatasync",)
assert steps["open"] == []
first = steps["first"]
assert first[:2] == [HEADER, SYNC], first
assert HEADER not in first[1:]
# The L1 entry of the new table, the data, and then the L2 entry.
rest = [c for c in first[2:] if c[0] == "pwrite64"]
l1, data, entry = rest
assert l1 == ("pwrite64", 8, 65536), l1
assert data[1] == 100 and data[2] % 65536 == 5, data
assert entry[1] == 8 and entry[2] % 65536 == 0, entry
at = data[2] - 5

assert steps["in place"] == [("pwrite64", 1000, at + 7)]
second = steps["second"]
assert [c[:2] for c in second] == [("pwrite64", 100), ("pwrite64", 8)]
assert second[1][2] == entry[2] + 3 * 8
run = steps["run"]
assert [c[:2] for c in run] == [("pwrite64", 655360), ("pwrite64", 80)]
assert run[1][2] == entry[2] + 10 * 8
assert steps["flush"] == [SYNC]
assert steps["nothing"] == []
assert steps["fua"] == [("pwrite64", 1, at + 9), SYNC]
[(call, *_, where, n)] = steps["zero"]
assert (call, where, n) == ("fallocate", at + 4096, 4096)
assert steps["zero fua"] == [*steps["zero"], SYNC]
assert [c[0] for c in steps["trim"]] == ["fallocate"]
assert steps["read"] == []

end = steps["end"]
assert end.count(HEADER) == 1
i = end.index(HEADER)
assert SYNC in end[:i] and end[i + 1:] == [SYNC], end
cut = [k for k, c in enumerate(end) if c[0] == "ftruncate"]
assert len(cut) == 1 and cut[0] < i and SYNC in end[cut[0]:i], end
assert all(c[0] != "pwrite64" for c in end[:i]), end
END
