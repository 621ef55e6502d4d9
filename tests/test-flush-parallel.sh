#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Flushes on many connections share syncs.  Syncs that run at the same time
# never share a descriptor: the kernel reports a failed write-back once to each
# descriptor, so one of the two would not see the error.

source ./functions.sh nbd strace
skip_if_instrumented "a trace"

$QED_IMG create $d/x.qed 1G
requires strace -o $d/requires.trace -f true
cat >$d/flush.py <<'END'
import threading
def work(n):
    c = nbd.NBD()
    c.connect_uri(uri)
    for i in range(40):
        c.pwrite(bytes([n + 1]) * 4096, (i * 16 + n) * 65536)
        c.flush()
threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
for t in threads:
    t.start()
for t in threads:
    t.join()
END
strace -f -e trace=fdatasync -e inject=fdatasync:delay_enter=2000 \
       -o $d/trace nbdkit -f -U $d/sock -P $d/pid qed $d/x.qed &
job=$!
wait_for 60 test -s $d/pid
cleanup_fn eval "kill $(cat $d/pid) 2>/dev/null || :"
nbdsh -c "uri = 'nbd+unix:///?socket=$d/sock'" -c - <$d/flush.py
kill $(cat $d/pid)
wait $job

"$PYTHON" - $d/trace <<'END'
import re, sys
under_way, syncs, most = {}, 0, 0
for line in open(sys.argv[1]):
    m = re.match(r"(\d+) +fdatasync\((\d+)", line)
    if m:
        pid, fd = m.groups()
        assert fd not in under_way.values(), line
        syncs += 1
        if "unfinished" in line:
            under_way[pid] = fd
            most = max(most, len(under_way))
    elif "fdatasync resumed" in line:
        del under_way[line.split()[0]]
print(syncs, "syncs, at most", most, "at a time")
assert not under_way
assert 1 < most <= 4
assert 40 < syncs < 16 * 40
END
