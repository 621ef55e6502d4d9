#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The program that command= starts is gone when nbdkit is: after a signal, at
# the end of --run, and if the image can't be opened.  Nothing keeps a pipe open
# that nbdkit has closed by going into the background.  A program that hangs is
# killed.

source ./functions.sh nbd nbdinfo libnbd

cd $d
qed-img create x.qed 1M
truncate -s 8M x.qed
truncate -s 1M raw
cat >server <<END
#!/bin/bash
echo \$\$ >>$d/pids
exec nbdkit "\$@"
END
chmod +x server
none_left ()
{
    local pid
    test -s pids || return 1
    for pid in $(cat pids); do gone $pid || return 1; done
}
arguments=(qed command=./server arg=file arg="$d/x.qed")
write () { nbdsh -u "$uri" -c 'h.pwrite(b"x" * 512, 0)'; }

# In the foreground.  nbdkit waits for it.
for signal in TERM INT KILL; do
    rm -f pids
    start_nbdkit "${arguments[@]}"
    job=${_servers[nbdkit]}
    unset "_servers[nbdkit]"
    write
    kill -$signal "$(cat $pidfile)"
    if [ $signal = KILL ]; then
        wait $job || test $? = 137
        wait_for 30 none_left
    else
        wait $job
        none_left
    fi
done

# With --run.  The server that runs until nbdkit has forked ends at once.
cat >client <<END
nbdinfo --size "\$uri"
for i in \$(seq 600); do
    n=0
    for pid in \$(cat $d/pids); do
        if readlink /proc/\$pid/exe >/dev/null; then n=\$((n + 1)); fi
    done
    if [ \$n -eq 1 ]; then exit \$1; fi
    sleep 0.05
done
exit 99
END
for status in 0 7; do
    rm -f pids
    nbdkit -U - "${arguments[@]}" --run 'export uri; bash client '$status \
           2>run.log || test $? = $status
    test ! -s run.log
    none_left
done

# The image can't be opened.
for args in "file $d/raw" "null" "nosuchplugin"; do
    rm -f pids
    refused "error: .*server ${args%% *}" qed command=./server \
            $(printf 'arg=%s ' $args)
    none_left
done

# In the background: the server that runs is another one.
start_background ()
{
    nbdkit -U $d/bg.sock -P $d/bg.pid "${arguments[@]}" 2>&1
}
uri="nbd+unix:///?socket=$d/bg.sock"
for signal in TERM KILL; do
    rm -f pids bg.sock
    if [ -n "$NBDKIT_VALGRIND" ]; then
        start_background
    else
        timeout 60 cat < <(start_background)
    fi
    pid=$(cat bg.pid)
    cleanup_fn eval "kill $pid || :"
    wait_for 30 none_left
    write
    test "$(wc -l <pids)" = 2
    kill -$signal $pid
    wait_for 60 gone $pid
    wait_for 30 none_left
    rm -f bg.pid
done

# A server that doesn't answer any more.
rm -f pids
start_nbdkit "${arguments[@]}"
job=${_servers[nbdkit]}
unset "_servers[nbdkit]"
write
kill -STOP $(cat pids)
start=$SECONDS
kill "$(cat $pidfile)"
wait $job || :
test $((SECONDS - start)) -le 12
grep "error: .*server file $d/x.qed: flush" $log
none_left
