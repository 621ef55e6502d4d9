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
nbdkit qed --dump-plugin | grep -x qed_libnbd=yes || skip "no libnbd"

# A server that goes away is an error for those who read, and is used again
# when it is back.  Not if it has another size.
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
kill_base
read_fails
read_fails
grep -F "error: $base_uri: read at 65536: the connection to the server is lost" \
     $xlog

# What doesn't come from there is served nevertheless.
nbdsh -u "nbd+unix:///?socket=$d/x.sock" -c 'h.pread(1 << 20, 3 << 20)'

start_nbdkit -n base pattern 2M
wait_for 30 read_one
read_one

# Another size.
kill_base
read_fails
start_nbdkit -n base pattern 3M
sees_size () { ! read_one && grep "the size was 2097152 bytes .*3145728" $xlog; }
wait_for 30 sees_size
kill_base
start_nbdkit -n base pattern 2M
wait_for 30 read_one

# Nobody is asked more than once a second, whatever the clients want.
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
