#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A server that hangs, with requests under way, doesn't keep nbdkit from ending
# within ten seconds: that of a backing file, of uri=, and of command=.  What
# isn't durable is said.  As long as nbdkit isn't to end it waits.

source ./functions.sh nbd libnbd filter:delay

cd $d
export PYTHON
truncate -s 1M base
qed-img create -b base -F raw overlay.qed
qed-img create x.qed 1M
truncate -s 8M x.qed

# request CODE: a client, in the background.
request ()
{
    "$PYTHON" -m nbd -u "$uri" -c "$1" >client.log 2>&1 &
    client=$!
}

# ends_soon: nbdkit ends, with a request under way for three seconds already.
ends_soon ()
{
    sleep 3
    absent 'given up|hasn.t answered' $log
    local job=${_servers[nbdkit]} start=$SECONDS status=0
    unset "_servers[nbdkit]"
    kill "$(cat $pidfile)"
    wait $job || status=$?
    test $status = 0
    test $((SECONDS - start)) -le 10
    wait $client || :
    rm -f $pidfile $sock
}

# Backing servers: one that takes its time, and one that is stopped.
start_nbdkit -n slow --filter=delay file base rdelay=1000
slow=$(cat $pidfile)
start_nbdkit qed overlay.qed backing="$uri"
request 'h.pread(512, 0)'
ends_soon
grep 'error: .*slow.sock: read at 0: .*' $log
test "$(od -An -tu1 -j16 -N1 overlay.qed)" -eq 5 # clean
kill -KILL $slow
wait "${_servers[slow]}" || :
unset "_servers[slow]"

start_nbdkit -n store file base
store=$(cat $pidfile)
cleanup_fn eval "kill -CONT $store || :"
start_nbdkit qed overlay.qed backing="$uri"
kill -STOP $store
request 'h.pwrite(b"x", 0)'
ends_soon
grep 'error: .*store.sock: .*answer' $log
kill -CONT $store
stop_nbdkit store

# The image itself: a write and a flush are under way.
start_nbdkit -n store file x.qed
store=$(cat $pidfile)
cleanup_fn eval "kill -CONT $store || :"
start_nbdkit qed uri="$uri"
nbdsh -u "$uri" -c 'h.pwrite(b"a" * 4096, 0)' -c 'h.flush()'
kill -STOP $store
request '
h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(4096)), 0)
h.aio_flush()
while h.aio_in_flight() > 0: h.poll(-1)'
ends_soon
grep -E "error: .*store.sock: (write|flush) at [0-9]+: " $log
grep -E "error: .*store.sock: .*(not|nothing|lost|given up)" $log
kill -CONT $store
stop_nbdkit store
nbdkit -r -U - qed x.qed --run '"$PYTHON" -m nbd -u "$uri" -c \
    "assert h.pread(4096, 0) in (b\"a\" * 4096, bytes(4096))"'

# With --run, and nothing under way but what nbdkit does itself at the end.
start_nbdkit -n store file x.qed
store=$(cat $pidfile)
cleanup_fn eval "kill -CONT $store || :"
start=$SECONDS
nbdkit -U - qed uri="$uri" --run '"$PYTHON" -m nbd -u "$uri" -c \
    "h.pwrite (b\"b\" * 4096, 0)"; kill -STOP '$store 2>run.log
test $((SECONDS - start)) -le 13
grep "error: .*store.sock: " run.log
kill -CONT $store

# A program of its own: it is killed.
cp x.qed y.qed
start_nbdkit qed command=nbdkit arg=file arg=$d/y.qed
nbdsh -u "$uri" -c 'h.pread(1, 0)'
program=$(pgrep -P "$(cat $pidfile)")
kill -STOP $program
request 'h.pwrite(b"c" * 4096, 0)'
ends_soon
grep -E "error: .*nbdkit file $d/y.qed: write" $log
gone $program
