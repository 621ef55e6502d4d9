#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# qed-img info says how much of a disk is still in the backing file, while a
# server copies that into the image.  With --backing-chain what is behind the
# end of the backing file does not count; without, no other file is opened, nor
# is a server connected to that the header names.

source ./functions.sh nbd strace

cd $d
"$PYTHON" - <<'END'
with open("base.raw", "wb") as f:
    f.write(bytes(range(1, 251)) * 6000) # 23 clusters, the last one in part
END
size=1500160                    # in whole sectors
qed-img create -q -f qed -b base.raw -F raw x.qed 4M

# left: what the JSON says, or nothing.
left ()
{
    qed-img info --backing-chain --output=json x.qed |
        sed -n 's/.*"bytes-in-backing": *\([0-9]*\).*/\1/p'
}

# becomes VALUE: wait until left says that.
becomes ()
{
    local i
    for i in {1..200}; do
        if [ "$(left)" = "$1" ]; then return; fi
        sleep 0.1
    done
    fail "left: $(left), not $1"
}

test "$(left)" = $size
qed-img info --backing-chain x.qed |
    grep -x "    still in the backing file: 1.43 MiB ($size bytes)"
# Without a look at the backing file all of the disk may be there.
qed-img info x.qed |
    grep -x "    still in the backing file: 4 MiB (4194304 bytes)"

# Two clusters in the middle, and the one at the end, which counts less.
start_nbdkit qed x.qed copy-on-read=true
nbdsh -u "$uri" -c 'h.pread(1, 3 * 65536 + 5)' -c 'h.pread(2, 9 * 65536)' \
      -c 'h.pread(1, 22 * 65536)'
becomes $((22 * 65536 - 2 * 65536))
stop_nbdkit
test "$(left)" = $((22 * 65536 - 2 * 65536))

start_nbdkit qed x.qed stream=true
becomes ''
qed-img info x.qed >info
if grep -i back info; then fail "a backing file is left"; fi
stop_nbdkit

# The header is a stranger's.  (LeakSanitizer doesn't work under strace.)
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0
qed-img create -q -f qed -b base.raw -F raw y.qed 1M
qed-img rebase -u -b "nbd+unix:///?socket=$d/sock" -F raw y.qed
strace -f -o trace -e trace=connect,open,openat qed-img info y.qed |
    grep -x "    still in the backing file: 1 MiB (1048576 bytes)"
if grep -E 'connect|sock' trace; then fail "it connects"; fi
qed-img create -q -f qed -b base.raw -F raw z.qed 1M
strace -f -o trace -e trace=open,openat qed-img info z.qed
grep z.qed trace
if grep base.raw trace; then fail "it opens the backing file"; fi
