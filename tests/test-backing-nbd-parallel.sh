#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Many concurrent requests use several connections, but no more than four, if
# the server says that all connections see the same data; otherwise they use
# one.  Few requests, and sequential ones, use one.

source ./functions.sh nbd filter:delay,log libnbd

qed-img create $d/x.qed 16M
read_with ()                    # HOW PLUGIN ARGS...: sets $connections
{
    local how=$1
    shift
    rm -f $d/base.txt
    start_nbdkit -n base --filter=log --filter=delay "$@" \
                 delay-read=20ms logfile=$d/base.txt
    start_nbdkit -n x --threads=40 qed $d/x.qed \
                 backing="nbd+unix:///?socket=$d/base.sock"
    "$PYTHON" - "$uri" "$how" <<'END'
import sys
import qedtest
h, how = qedtest.connect(sys.argv[1]), sys.argv[2]
if how == "serial":
    for i in range(20):
        h.pread(4096, i << 16)
else:
    import nbd
    bufs = [nbd.Buffer(4096) for _ in range(200 if how == "parallel" else 8)]
    cookies = {h.aio_pread(b, i << 16) for i, b in enumerate(bufs)}
    while cookies:
        h.poll(-1)
        cookies = {c for c in cookies if not h.aio_command_completed(c)}
    for i, b in enumerate(bufs):
        assert b.to_bytearray()[:8] == (i << 16).to_bytes(8, "big"), i
END
    stop_nbdkit x
    stop_nbdkit base
    connections=$(grep -c ' Connect ' $d/base.txt)
}

read_with parallel pattern 16M
[ "$connections" -eq 4 ]
read_with few pattern 16M
[ "$connections" -eq 1 ]
read_with serial pattern 16M
[ "$connections" -eq 1 ]
# This plugin doesn't promise anything about connections.
read_with parallel eval get_size='echo 16M' pread='
    perl -e "print pack (\"Q>\", $4), \"\0\" x ($3 - 8)"'
[ "$connections" -eq 1 ]
