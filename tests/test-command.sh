#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# With command= nbdkit starts the image's server itself, in the foreground and
# in the background: its name, and names in its arguments, may be relative, and the
# arguments come in order.
# It has nothing open but what nbdkit was started with, and the socket.  It
# serves on when the client goes away for which it was started.

source ./functions.sh nbd nbdinfo libnbd qemu-nbd

cd $d
qed-img create x.qed 1M
truncate -s 8M x.qed
cat >server <<END
#!/bin/bash
readlink /proc/\$\$/fd/* >>$d/fds
echo \$\$ "\$@" >>$d/args
exec nbdkit file "\$1" "\${@:3}"
END
chmod +x server
mkdir bin
cp server bin/by-path
write ()
{
    nbdsh -u "$uri" -c "h.pwrite(b'$1' * 65536, $2)" -c 'h.flush()'
}
reads () { nbdsh -u "$uri" -c "assert h.pread(65536, $2) == b'$1' * 65536"; }

# In the foreground it is started once.
start_nbdkit qed command=./server arg=$d/x.qed arg='two words' arg=fadvise=random
write a 0
write b 65536
reads a 0
stop_nbdkit
absent 'error' $log
test "$(wc -l <args)" = 1
grep -E "^[0-9]+ $d/x.qed two words fadvise=random$" args

# In the background, where the directory is another one; and found by PATH.
for command in ./server by-path; do
    rm -f args fds bg.sock
    PATH=$d/bin:$PATH nbdkit -U $d/bg.sock -P $d/bg.pid \
        qed command=$command arg=x.qed arg=x 2>bg.log </dev/null
    pid=$(cat bg.pid)
    cleanup_fn eval "kill $pid || :"
    uri="nbd+unix:///?socket=$d/bg.sock"
    reads a 0
    write c 131072
    write d 131072
    # Neither the client that it was started for, nor the others, take it along.
    for i in 1 2 3; do reads d 131072; done
    reads b 65536
    kill $pid
    wait_for 30 gone $pid
    absent 'error' bg.log
    test "$(wc -l <args)" = 2
    # Its own script, sockets, and what this shell has.
    cat fds
    test "$(grep -c '^socket:' fds)" = 2
    absent 'eventfd|eventpoll|x.qed|/proc' fds
done
"$PYTHON" - <<'END'
import os
import qedimg, qedtest
path = qedtest.TMP + "/x.qed"
disk = qedtest.Disk(1 << 20)
for b, at in (b"a", 0), (b"b", 65536), (b"d", 131072):
    disk.write(b * 65536, at)
os.truncate(path, qedimg.References(path).used_end)
qedtest.check_image(path, disk, leaks=True, qemu=False)
os.truncate(path, 8 << 20)
END

# qemu-nbd is such a server.
nbdkit -U - qed command=qemu-nbd arg=-f arg=raw arg=$d/x.qed \
       --run 'nbdinfo --size "$uri"' | grep -x 1048576

# A server that dies is started again, and is as good as the first.
start_nbdkit qed command=./server arg=$d/x.qed arg=y
reads a 0
kill -KILL "$(tail -n 1 args | cut -d' ' -f1)"
wait_for 30 reads a 0
for i in 1 2 3; do reads b 65536; done
n=$(wc -l <args)
write e 0
write f 0
reads f 0
test "$(wc -l <args)" = $n
