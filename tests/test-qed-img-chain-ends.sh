#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The qemu-nbd that qed-img starts ends with it: when it is done, when it fails,
# and when it is interrupted or killed.  No socket is left.

source ./functions.sh nbd libnbd qemu

cd $d
head -c 8M /dev/urandom >base.raw
qemu-img convert -f raw -O qcow2 base.raw q.qcow2
qed-img create -q -b q.qcow2 -F qcow2 x.qed
with=--backing-format=qcow2

# libnbd makes the sockets' directories in /tmp, whatever TMPDIR says.
directories ()
{
    find /tmp -maxdepth 1 -name 'libnbd??????' -user "$(id -u)" | sort
}
servers ()
{
    local p
    for p in /proc/[0-9]*; do
        if tr '\0' '\n' <$p/cmdline | grep -q -x -F "$PWD/q.qcow2"; then
            echo ${p##*/}
        fi
    done 2>/dev/null
}
none_left ()
{
    [ -z "$(servers)" ] && [ -z "$(comm -13 before <(directories))" ]
}
directories >before
ends 0 qed-img info --backing-chain $with x.qed
test -z "$(servers)"
ends 0 qed-img create -q -b q.qcow2 -F qcow2 y.qed
fails 1 'neither raw nor QED' qed-img commit $with x.qed
fails 1 'q.qcow2: qemu-nbd doesn.t serve this file as vdi' \
      qed-img info --backing-chain --backing-format=vdi x.qed
test -z "$(servers)"

# Ended while it waits for the reader of a pipe.
{ declare -f servers; echo servers; } >servers.sh
export with
"$PYTHON" - <<'END'
import os, signal, subprocess
import qedtest

def servers():
    return subprocess.run(["bash", "servers.sh"],
                          capture_output=True).stdout.split()

for sig in qedtest.some([signal.SIGINT, signal.SIGTERM, signal.SIGHUP,
                         signal.SIGKILL], 2):
    p = subprocess.Popen(
        [*os.environ["QED_IMG"].split(), "convert", os.environ["with"],
         "x.qed", "-"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert len(p.stdout.read(65536)) == 65536
    assert servers()
    p.send_signal(sig)
    # A signal lets it end in order: the write under way ends with the pipe.
    p.stdout.close()
    assert p.wait(60) != 0
    qedtest.wait_until(lambda: not servers(), 30)
END
wait_for 30 none_left
