#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The qemu-nbd that nbdkit starts ends with nbdkit, however that ends, and
# leaves nothing behind.  When qemu-nbd dies reads under way fail, and later
# ones go on with a new one.

source ./functions.sh nbd qemu-img qemu-nbd libnbd nbdcopy

nbdkit -U - pattern 4M --run 'nbdcopy "$uri" $d/base.raw'
qemu-img convert -f raw -O qcow2 $d/base.raw $d/base.qcow2
qed-img create $d/x.qed 4M
arguments=(qed "$d/x.qed" backing="$d/base.qcow2" backing-format=qcow2)

cat >$d/processes.py <<'END'
import os
import re
import qedtest

def processes(parent=None):
    """Those that serve our file, or all children of the process, with
    their states."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as f:
                state, ppid = f.read().rsplit(")", 1)[1].split()[:2]
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                args = f.read().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent is not None:
            if int(ppid) == parent:
                found[int(pid)] = state
        elif (args[0].endswith(b"/qemu-nbd")
              and qedtest.TMP.encode() + b"/base.qcow2" in args):
            found[int(pid)] = state
    return found
END
export PYTHONPATH="$d:$PYTHONPATH"
# The directories of libnbd's sockets.  Those of other tests come and go.
directories ()
{
    find /tmp -maxdepth 1 -name 'libnbd??????' | sort
}
none_left ()
{
    "$PYTHON" -c 'import processes; assert not processes.processes()' &&
        [ -z "$(comm -13 $d/directories <(directories))" ]
}
read_disk ()
{
    "$PYTHON" - "$uri" <<'END'
import sys
import processes, qedtest
h = qedtest.connect(sys.argv[1])
qedtest.check_raw(h, qedtest.TMP + "/base.raw")
assert 1 <= len(processes.processes()) <= 4, processes.processes()
END
}
directories >$d/directories

# In the foreground.
for signal in TERM KILL; do
    start_nbdkit -n x "${arguments[@]}"
    read_disk
    if [ $signal = TERM ]; then
        stop_nbdkit x
        "$PYTHON" -c 'import processes; assert not processes.processes()'
    else
        kill -KILL "$(cat $d/x.pid)"
        wait "${_servers[x]}" || :
        unset "_servers[x]"
    fi
    wait_for 30 none_left
done

# In the background.  Nothing may keep the shell's pipe open (but valgrind
# does).
start_background ()
{
    nbdkit -U $d/background.sock -P $d/background.pid "${arguments[@]}" 2>&1
}
stop_background ()
{
    if [ -s $d/background.pid ]; then kill -KILL "$(cat $d/background.pid)"; fi
}
cleanup_fn stop_background
uri="nbd+unix:///?socket=$d/background.sock"
for signal in TERM KILL; do
    rm -f $d/background.sock
    if [ -n "$NBDKIT_VALGRIND" ]; then
        start_background
    else
        timeout 60 cat < <(start_background)
    fi
    wait_for 30 none_left
    read_disk
    pid=$(cat $d/background.pid)
    kill -$signal "$pid"
    rm -f $d/background.pid
    wait_for 60 gone "$pid"
    wait_for 30 none_left
done

# A server that refuses the file is gone, too.
refused 'as vdi' "${arguments[@]}" backing-format=vdi
wait_for 30 none_left

# Several clients read at once while their backing servers are killed.
start_nbdkit -n x "${arguments[@]}"
"$PYTHON" - "$uri" "$(cat $d/x.pid)" <<'END'
import errno
import os
import signal
import sys
import nbd
import processes, qedtest

pid = int(sys.argv[2])
h = qedtest.connect(sys.argv[1])

def read_all():
    """The number of reads that failed."""
    bufs = [nbd.Buffer(4096) for _ in range(256)]
    done = []
    for i, b in enumerate(bufs):
        h.aio_pread(b, i * 4096, lambda e: done.append(e.value) or 1)
    while len(done) < len(bufs):
        h.poll(-1)
    return sum(1 for e in done if e)

assert read_all() == 0
children = processes.processes(pid)
assert 1 <= len(children) <= 4, children
for _ in range(3):
    for p in processes.processes():
        # libnbd ends a server with this signal, so it must not be blocked.
        os.kill(p, signal.SIGTERM)
    qedtest.wait_until(lambda: not processes.processes())
    assert read_all() == 0
    children = processes.processes(pid)
    assert "Z" not in children.values(), children
    qedtest.check_raw(h, qedtest.TMP + "/base.raw")

# A read that is under way fails.
for p in processes.processes():
    os.kill(p, signal.SIGSTOP)
error = []
h.aio_pread(nbd.Buffer(1), 0, lambda e: error.append(e.value) or 1)
h.poll(1000)
assert not error
for p in processes.processes():
    os.kill(p, signal.SIGKILL)
while not error:
    h.poll(-1)
assert error == [errno.EIO], error
qedtest.check_raw(h, qedtest.TMP + "/base.raw")
END
grep -F "$d/base.qcow2: read at 0: qemu-nbd has ended" $log
stop_nbdkit x
wait_for 30 none_left
