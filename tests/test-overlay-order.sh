#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The order of system calls on an overlay.  Data and the bytes around it go
# into a new cluster in one call.  No entry is written before a sync that came
# after the data.  A flush returns after a sync that came after the entry.
# Links that wait together are committed together.  (I3, I5, I6)

source ./functions.sh nbd strace punch-hole

cat >$d/client.py <<'END'
import os, sys
import nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
log = open(sys.argv[2], "a")

def mark(what):
    # Seen in the trace.
    os.pwrite(log.fileno(), what.encode(), 0)

def several():
    for c in range(20, 30):
        h.pwrite(b"3" * 100, 65536 * c + 5)

for what, call in (
        ("first", lambda: h.pwrite(b"1" * 100, 5, nbd.CMD_FLAG_FUA)),
        ("partial", lambda: h.pwrite(b"2" * 1000, 65536 * 3 + 1000)),
        ("again", lambda: h.pwrite(b"2" * 1000, 65536 * 3 + 1000)),
        ("flush", h.flush),
        ("nothing", h.flush),
        ("several", several),
        ("flush all", h.flush),
        ("run", lambda: h.pwrite(b"4" * 65536 * 3, 65536 * 10)),
        ("fua", lambda: h.pwrite(b"5", 65536 * 14, nbd.CMD_FLAG_FUA)),
        ("in place", lambda: h.pwrite(b"6" * 1000, 9)),
        ("zero", lambda: h.zero(65536 * 2, 65536 * 40)),
        ("into zero", lambda: h.pwrite(b"7" * 10, 65536 * 40 + 10)),
        ("beyond", lambda: h.pwrite(b"8" * 10, 65536 * 70 + 10)),
        ("hole", lambda: h.pwrite(b"8" * 10, 65536 * 55 + 10)),
        ("half", lambda: h.pwrite(b"8" * 10, 65536 * 56 + 40000)),
        ("pending", lambda: h.pwrite(b"9" * 10, 65536 * 50 + 10)),
        ("end", h.shutdown)):
    mark(what)
    call()
END
"$PYTHON" - <<'END'
import os
import qedimg, qedtest
qedimg.Image(1 << 30, 65536, 4, backing="base.raw",
             features=qedimg.F_BACKING_FORMAT_NO_PROBE).save(
                 qedtest.TMP + "/x.qed")
with open(qedtest.TMP + "/base.raw", "wb") as f:
    f.write(os.urandom(65536 * 55))
    # A hole, up to the middle of a cluster.
    f.seek(65536 * 56 + 32768)
    f.write(os.urandom(65536 * 4 - 32768))
END
# One thread for requests.
trace ()
{
    rm -f $d/marks
    cp $d/x.qed $d/trace.qed
    ASAN_OPTIONS=detect_leaks=0 strace -f -y -s 32 -o $d/trace \
        -e trace=pread64,pwrite64,pwritev,fsync,fdatasync,ftruncate,fallocate \
        "$abs_top_builddir/nbdkit" -t 1 -U - qed $d/trace.qed --run \
        "'$PYTHON' $d/client.py \"\$uri\" $d/marks"
    grep -E 'trace.qed|base.raw|marks' $d/trace
}

cat >$d/look.py <<'END'
import os, re, sys

# steps: the calls that change or sync the overlay after each mark, as (call,
# bytes, offset).  below: the reads of the backing file, as (bytes, offset).
d = os.environ["d"]
steps = [("open", [])]
below = {}
for line in open(d + "/trace"):
    m = re.match(r"(\d+) +(\w+)\(\d+<([^>]*)>(.*?)(\) += \d+| <unfinished)",
                 line)
    if m is None:
        assert "trace.qed" not in line, line
        continue
    thread, call, path, args, _ = m.groups()
    if path.endswith("/marks") and call == "pwrite64":
        steps.append((re.search(r'"([^"]*)"', args)[1], []))
    elif path.endswith("/base.raw"):
        assert call == "pread64", line
        n, offset = re.findall(r", (\d+)", args)[-2:]
        below.setdefault(steps[-1][0], []).append((int(n), int(offset)))
    elif path.endswith("/trace.qed") and call != "pread64":
        if steps[-1][0] == "first":
            worker = thread
        elif steps[-1][0] != "end" and thread != worker:
            sys.exit(3)
        if call == "fsync":
            call = "fdatasync"
        numbers = [int(n) for n in re.findall(r", (\d+)", args)]
        if call == "pwritev":
            lengths = re.findall(r"iov_len=(\d+)", args)
            numbers = [sum(int(n) for n in lengths), numbers[-1]]
            call = "write"
        elif call == "pwrite64":
            call = "write"
        steps[-1][1].append((call, *numbers))
steps = dict(steps)
for name, calls in steps.items():
    print(name, calls, below.get(name))

SYNC = ("fdatasync",)
HEADER = ("write", 64, 0)

def kinds(name):
    """The calls of a step, without the file's growth: d(ata), e(ntries),
    s(ync)."""
    return "".join("s" if c == SYNC else "e" if c[1] <= 4096 else "d"
                   for c in steps[name] if c[0] in ("write", "fdatasync"))

assert steps["open"] == []
first = steps["first"]
assert first[:2] == [HEADER, SYNC], first
assert HEADER not in first[2:]
# A new L2 table is linked first, because it has no entries yet.
first = kinds("first")[2:].lstrip("e")
assert first == "dses", first
assert below["first"] and sum(n for n, _ in below["first"]) <= 65536

# One call writes the whole cluster.  The overwritten part is not read from the
# backing file.
[(call, n, at)] = [c for c in steps["partial"] if c[0] == "write"]
assert (n, at % 65536) == (65536, 0)
assert sorted(below["partial"]) == [(1000, 65536 * 3),
                                    (65536 - 2000, 65536 * 3 + 2000)]
assert steps["again"] == [("write", 1000, at + 1000)]
assert "again" not in below
assert kinds("flush") == "ses"
assert steps["nothing"] == []
assert kinds("several") == "d" * 10
assert kinds("flush all") == "ses"
# A write of whole clusters reads nothing from the backing file.
assert kinds("run") == "d" and "run" not in below
assert kinds("fua") == "dses"
assert steps["in place"][0][:2] == ("write", 1000)
assert len(steps["in place"]) == 1
# The entry of a zero cluster is written at once.  A write into one needs no
# sync, and nothing from the backing file.
assert kinds("zero") == "e" and "zero" not in below
assert "s" not in kinds("into zero") and "into zero" not in below
assert [c[1] for c in steps["into zero"] if c[0] == "write"][0] == 10
# Beyond the end of the backing file there is no copy-up.
assert [c[1] for c in steps["beyond"] if c[0] == "write"] == [10]
assert "beyond" not in below
# Nor is there a copy-up in a hole.
assert [c[1] for c in steps["hole"] if c[0] == "write"] == [10]
assert "hole" not in below
[(call, n, at)] = [c for c in steps["half"] if c[0] == "write"]
assert (n, at % 65536) == (32768, 32768)
assert sorted(below["half"]) == [
    (40000 - 32768, 65536 * 56 + 32768),
    (65536 - 40010, 65536 * 56 + 40010)]

end = steps["end"]
i = end.index(HEADER)
assert end.count(HEADER) == 1 and end[i + 1:] == [SYNC], end
cut = [k for k, c in enumerate(end) if c[0] == "ftruncate"]
assert len(cut) == 1 and cut[0] < i and SYNC in end[cut[0]:i], end
assert re.match("ses+es$", kinds("end")), kinds("end")
END

# On a slow machine a commit in the background may come in between, or the mark
# be cleared.
for try in 1 2 3 4 5; do
    trace
    status=0
    "$PYTHON" $d/look.py || status=$?
    if [ $status -ne 3 ]; then exit $status; fi
done
fail "commits in the background come in between each time"
