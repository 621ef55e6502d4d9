#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Streaming from a server that is slow, dies, returns and hangs.  That is said
# once.  Meanwhile clients read what was copied, and write.  With the server
# back streaming goes on and completes.  nbdkit ends within ten seconds also
# while the server hangs, and the image is in order.

source ./functions.sh nbd libnbd qemu filter:delay

cd $d
"$PYTHON" -c '
import random
open("base", "wb").write(random.Random(5).randbytes(4 << 20))'
cp base want
base ()                         # start the server
{
    start_nbdkit -n base --filter=delay file $d/base rdelay=50ms
    base_uri=$uri
}
kill_base ()                    # a nicer end would wait for its client
{
    kill -KILL "$(cat base.pid)"
    wait "${_servers[base]}" || :
    unset "_servers[base]"
}
create ()
{
    rm -f x.qed
    qed-img create x.qed 4M
    qed-img rebase -u -b "$base_uri" -F raw x.qed
}
serve ()
{
    start_nbdkit -n x -v -D qed.stream=1 -D nbdkit.backend.datapath=0 \
                 qed x.qed backing-uri=true stream=true "$@"
    x_uri=$uri
    xlog=$log
}
progress () { grep -E "streaming: ($1)[0-9] %" $xlog; }
complete () { grep 'streaming is complete' $xlog; }
said () { grep -c 'error: .*is tried again' $xlog; }
said_again () { grep 'has failed again' $xlog; }
client ()
{
    "$PYTHON" -m nbd -u "$x_uri" -c 'want = open("want", "rb").read()' "$@"
}
# write OFFSET: all of a cluster.
write ()
{
    client -c "offset = $1" -c '
b = b"w" * 65536
h.pwrite(b, offset)
h.flush()
assert h.pread(65536, offset) == b
f = open("want", "r+b")
f.seek(offset)
f.write(b)'
}
check_offline ()
{
    qed-img info --output=json x.qed >info
    absent backing-filename info
    qed-img check x.qed
    qemu-img compare -f qed -F raw x.qed want
}

# It is slow, and dies.
base
create
serve stream-rate=1M
wait_for 60 progress '[2-5]'
kill_base
write $((3 << 20))
wait_for 60 said
# What was copied is there.
client -c 'assert h.pread(512 << 10, 0) == want[:512 << 10]'
wait_for 60 said_again
write $((3 << 20 | 1 << 19))
write 65536
client -c 'assert h.pread(512 << 10, 0) == want[:512 << 10]' \
       -c 'assert h.pread(65536, 3 << 20) == want[3 << 20:][:65536]'
absent 'streaming is complete' $xlog
base
wait_for 90 complete
test "$(said)" -eq 1
client -c 'assert h.pread(4 << 20, 0) == want'
# The server isn't needed any more.
stop_nbdkit base
write 131072
client -c 'assert h.pread(4 << 20, 0) == want'
stop_nbdkit x
check_offline

# It hangs: while nothing else happens, and with a client that reads.
for reads in false true; do
    cp base want
    base
    create
    serve stream-rate=1M
    wait_for 60 progress '[2-5]'
    pid=$(cat base.pid)
    cleanup_fn eval "kill -CONT $pid || :"
    kill -STOP $pid
    write $((3 << 20))
    client -c 'assert h.pread(256 << 10, 0) == want[:256 << 10]'
    reader=
    if $reads; then
        client -c 'h.pread(65536, (4 << 20) - 65536)' >reader.log 2>&1 &
        reader=$!
    fi
    sleep 1
    job=${_servers[x]}
    unset "_servers[x]"
    start=$SECONDS status=0
    kill "$(cat x.pid)"
    wait $job || status=$?
    test $status = 0
    test $((SECONDS - start)) -le 10
    if [ "$reader" ]; then wait $reader || :; fi
    qed-img info --output=json x.qed | grep backing-filename
    qed-img check x.qed
    # It goes on, and streaming goes on.
    kill -CONT $pid
    serve
    client -c 'assert h.pread(4 << 20, 0) == want'
    wait_for 60 complete
    test "$(said || :)" -eq 0
    stop_nbdkit base
    stop_nbdkit x
    check_offline
done
