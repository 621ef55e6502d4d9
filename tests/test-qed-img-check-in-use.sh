#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The space that a program reserves at the end of an image it writes is no leak
# while the program runs.  Leaked clusters before that are leaks, and the
# reserved space is one after the program was killed.

source ./functions.sh nbd qemu

cd $d

# key NAME: its value in the JSON on standard input.
key ()
{
    "$PYTHON" -c 'import json, sys
print(json.load(sys.stdin).get(sys.argv[1]))' "$1"
}

# check_use STATUS LEAKS: check the reserved space, in human and JSON output.
check_use ()
{
    local end reserved bytes
    bytes=$(stat -c %s x.qed)
    ends $1 qed-img check -U x.qed
    end=$(sed -n 's/^Image end offset: //p' ends.out)
    reserved=$((bytes - end))
    test $reserved -gt 0
    grep -E "^[0-9.]+ [KMG]iB \($reserved bytes\) at the end of the file are \
reserved by the program that has the image open\.\$" ends.out
    if [ $2 -eq 0 ]; then
        grep -x 'No errors were found on the image.' ends.out
        absent 'leaked|open for writing' ends.out
    else
        grep -x "$2 leaked clusters were found on the image." ends.out
        grep -x "The image is open for writing: what is being changed may look \
like an error." ends.out
    fi
    ends $1 qed-img check -U --output=json x.qed
    if [ $2 -eq 0 ]; then
        test "$(key leaks <ends.out)" = None
    else
        test "$(key leaks <ends.out)" = $2
    fi
    ends $1 qed-img check -q --force-share x.qed
    test ! -s ends.out
}

# not_reserved LEAKS [-U]: check an image that no program has open for writing.
not_reserved ()
{
    ends 3 qed-img check $2 x.qed
    cat ends.out
    grep -x "$1 leaked clusters were found on the image." ends.out
    absent reserved ends.out
    ends 3 qed-img check $2 --output=json x.qed
    test "$(key leaks <ends.out)" = $1
}

go_on () { kill -CONT "$(cat nbdkit.pid)" 2>/dev/null || :; }

# write_and_stop OFFSET: nbdkit has the file grown ahead, and would cut it when
# it has been idle for some seconds, however long the checks take here.
write_and_stop ()
{
    cleanup_fn go_on            # before the server is told to end
    nbdsh -u "$uri" -c "
import os, signal
h.pwrite(b'x' * 65536, $1)
h.flush()
os.kill($(cat nbdkit.pid), signal.SIGSTOP)"
}

qed-img create -q x.qed 1G
start_nbdkit qed x.qed
write_and_stop $((5 << 20))
check_use 0 0
kill -KILL "$(cat nbdkit.pid)"
wait ${_servers[nbdkit]} || :
unset "_servers[nbdkit]"
leaks=$((($(stat -c %s x.qed) - $(qed-img check --output=json x.qed |
                                      key image-end-offset)) / 65536))
test $leaks -gt 0
not_reserved $leaks
not_reserved $leaks -U

# A reader of the image reserves nothing.
start_nbdkit -r qed x.qed
not_reserved $leaks -U
stop_nbdkit

# QEMU has the image open, and there is a leak in the middle.
qemu-img create -q -f qed x.qed 1G
qemu-io -f qed -c 'write -P 1 0 64k' x.qed >/dev/null
truncate -s +192k x.qed
qemu-io -f qed -c 'write -P 2 64k 64k' x.qed >/dev/null
truncate -s +1M x.qed
not_reserved 19
start_qemu_nbd -f qed $PWD/x.qed
check_use 3 3
stop_qemu_nbd
not_reserved 19 -U
start_nbdkit qed x.qed
write_and_stop $((9 << 20))
check_use 3 19
go_on
stop_nbdkit
