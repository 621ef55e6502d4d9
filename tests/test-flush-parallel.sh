#!/usr/bin/env bash
# nbdkit-qed
# Copyright (C) 2026 nbdkit-qed authors
#
# Redistribution and use in source and binary forms, with or without
# modification, are permitted provided that the following conditions are
# met:
#
# * Redistributions of source code must retain the above copyright
# notice, this list of conditions and the following disclaimer.
#
# * Redistributions in binary form must reproduce the above copyright
# notice, this list of conditions and the following disclaimer in the
# documentation and/or other materials provided with the distribution.
#
# * Neither the name of nbdkit-qed nor the names of its contributors may be
# used to endorse or promote products derived from this software without
# specific prior written permission.
#
# THIS SOFTWARE IS PROVIDED BY THE AUTHORS AND CONTRIBUTORS ''AS IS'' AND
# ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO,
# THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A
# PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE AUTHORS OR
# CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
# SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT
# LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF
# USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND
# ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY,
# OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT
# OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF
# SUCH DAMAGE.


source ./functions.sh
set -e
set -x
requires_nbd
requires_program strace
skip_if_instrumented "a trace"

# Flushes of many connections share syncs, and syncs that run at the same time
# never share a descriptor: the kernel reports what it could not write once to
# each, so one of the two would hear nothing of it.
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
