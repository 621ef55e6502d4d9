#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Reads fail when the connection is lost and while the server is away.  They
# work again when it is back, unless its size has changed.

source ./functions.sh nbd libnbd

kill_base ()                    # a nicer end would wait for its client
{
    kill -KILL "$(cat $d/base.pid)"
    wait "${_servers[base]}" || :
    unset "_servers[base]"
}

qed-img create $d/x.qed 4M
start_nbdkit -n base pattern 2M
base_uri=$uri
start_nbdkit -n x qed $d/x.qed backing="$base_uri"
xlog=$log
read_one ()
{
    nbdsh -u "nbd+unix:///?socket=$d/x.sock" -c - <<'END'
import errno, sys
import nbd
try:
    b = h.pread(4096, 65536)
except nbd.Error as e:
    assert e.errnum == errno.EIO, e
    sys.exit(1)
assert b[:8] == bytes([0, 0, 0, 0, 0, 1, 0, 0]), b
END
}
read_fails ()
{
    if read_one; then fail "it was read without a server"; fi
}
read_one
kill -STOP "$(cat $d/base.pid)"
read_fails & reader=$!
sleep 1
kill_base
wait $reader
grep -F "error: $base_uri: read at 65536: the connection to the server is lost" \
     $xlog
read_fails
grep -F "error: $base_uri: " $xlog | grep 'Connection refused'

# Data that the image itself has is served nevertheless.
nbdsh -u "nbd+unix:///?socket=$d/x.sock" -c 'h.pread(1 << 20, 3 << 20)'

start_nbdkit -n base pattern 2M
wait_for 30 read_one
read_one

# The export has another size.
kill_base
read_fails
start_nbdkit -n base pattern 3M
sees_size () { ! read_one && grep "the size was 2097152 bytes .*3145728" $xlog; }
wait_for 30 sees_size
kill_base
start_nbdkit -n base pattern 2M
wait_for 30 read_one

# The plugin tries to connect at most once a second, however many requests the
# clients send.
kill_base
read_fails
: >$xlog
start=$(date +%s)
for i in 1 2 3 4 5 6 7 8 9 10; do
    nbdsh -u "nbd+unix:///?socket=$d/x.sock" -c '
for _ in range(100):
    try:
        h.pread(1, 0)
        assert False
    except nbd.Error:
        pass'
done
seconds=$(($(date +%s) - start + 2))
[ "$(grep -c 'error: .*: nbd_' $xlog)" -le $seconds ]
[ "$(grep -c 'error: .*lost a moment ago' $xlog)" -ge $((1000 - seconds)) ]
