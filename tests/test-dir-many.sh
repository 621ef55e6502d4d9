#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A thousand images in the directory cost nothing until they are used: nbdkit
# starts as fast and as small as with one, and lists them all.

source ./functions.sh nbd nbdinfo

"$PYTHON" - <<'END'
import os, time
import nbd, qedimg, qedtest

os.chdir(qedtest.TMP)
def directory(name, n):
    os.mkdir(name)
    for i in range(n):
        qedimg.Image(1 << 20).save(f"{name}/{i:04}.qed")
directory("one", 1)
directory("many", 1000)

def fds(s):
    return len(os.listdir(f"/proc/{s.pid()}/fd"))

seen = []
for name in "one", "many":
    start = time.monotonic()
    with qedtest.Server("qed", "dir=" + name) as s:
        seconds = time.monotonic() - start
        opened = fds(s), s.memory("VmRSS")
        h = nbd.NBD()
        h.set_opt_mode(True)
        h.connect_unix(s.sock)
        names = []
        h.opt_list(lambda n, _: names.append(n))
        h.opt_abort()
        assert names == [f"{i:04}.qed" for i in range(len(names))]
        # A hundred of them, one after the other, leave nothing behind.
        for _ in range(100):
            g = nbd.NBD()
            g.connect_uri(s.uri.replace("///", "///" + names[-1]))
            g.pwrite(b"x" * 512, 0)
            g.shutdown()
        qedtest.wait_until(lambda: fds(s) <= opened[0])
        seen.append((len(names), seconds, *opened))
print(seen)
assert [s[0] for s in seen] == [1, 1000]
if not os.environ.get("NBDKIT_VALGRIND"):
    assert seen[1][1] < seen[0][1] + 2
    assert seen[1][2] == seen[0][2]
    assert seen[1][3] < seen[0][3] + (1 << 20)
END

# Of more than nbdkit can list the first ones are listed, and a message says so.
mkdir $d/more
qed-img create $d/more/00000 1M
"$PYTHON" -c '
import os
for i in range(1, 10003):
    os.link("00000", f"{i:05}", src_dir_fd=3, dst_dir_fd=3)' 3<$d/more
start_nbdkit qed dir=$d/more
nbdinfo --list "$uri" >$d/list
test "$(grep -c 'export="' $d/list)" -eq 10000
grep "dir=.*/more: the first 10000 of 10003 images are listed" $log
nbdsh -u "nbd+unix:///10002?socket=$sock" -c 'assert h.get_size() == 1 << 20'
