#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The exports of dir= are the images in the directory, sorted, as they are when
# a client asks.  Nothing else is listed or opened.

source ./functions.sh nbd nbdinfo

cd $d
mkdir -p dir/sub outside
cd dir
for n in b a-10 a-2 Z 'with space' ü; do qed-img create "$n" 1M; done
qed-img create sub/below 2M
qed-img create ../outside/x 1M
ln -s a-2 link
ln -s sub/below link-below
ln -s ../outside/x link-out
ln -s nowhere dangling
ln -s loop loop
mkfifo fifo
mknod null c 1 3 || :
truncate -s 1M raw
printf 'QED' >short
: >empty
"$PYTHON" -c '
import socket
socket.socket(socket.AF_UNIX).bind("socket")'
cd ..
exports ()
{
    timeout 60 nbdinfo --list --json "$uri" |
        "$PYTHON" -c '
import json, sys
for e in json.load(sys.stdin)["exports"]:
    print(e["export-name"], e["export-size"])'
}
start_nbdkit qed dir=dir
exports >got
cat >want <<END
Z 1048576
a-10 1048576
a-2 1048576
b 1048576
link 1048576
link-below 2097152
with space 1048576
ü 1048576
END
cmp want got

# Images come and go.
rm dir/Z dir/ü dir/a-10
qed-img create dir/new.qed 4M
rm dir/link-below
exports >got
cat >want <<END
a-2 1048576
b 1048576
link 1048576
new.qed 4194304
with space 1048576
END
cmp want got
absent 'error' $log
rm dir/[a-mo-z]* dir/new.qed 2>/dev/null || :
exports >got
test ! -s got
rm -r dir/sub
mv dir elsewhere
if nbdinfo --list "$uri"; then fail "there is no directory"; fi
grep "error: dir=$d/dir: No such file" $log
