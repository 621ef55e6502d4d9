#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# SIGTERM ends nbdkit while it reads all tables of a large image from a storage
# that takes minutes for that.  The image does not change.

source ./functions.sh nbd filter:delay,log fuse

"$PYTHON" - <<'END'
import struct
import qedimg, qedtest

# 256 tables of 256 KiB, no page of which is a hole; marked NEED_CHECK.
img = qedimg.Image(512 << 30, 65536, 4)
for i in range(256):
    img.table(i)
path = qedtest.TMP + "/x.qed"
img.save(path)
with open(path, "r+b") as f:
    f.seek(16)
    f.write(struct.pack("<Q", 2))
    f.seek(img.l1_at * 65536)
    for at in struct.unpack("<256Q", f.read(8 * 256)):
        for page in range(64):
            f.seek(at + 4096 * page)
            f.write(struct.pack("<Q", 1))
END
cp $d/x.qed $d/before.qed

start_nbdkit -n slow --filter=delay --filter=log file $d/x.qed \
             rdelay=1 logfile=$d/reads.txt
start_nbdfuse $d/mnt/x.qed

start_nbdkit qed $d/mnt/x.qed
nbdsh -u "$uri" -c 'h.pread(1, 0)' 2>$d/client.log &
client=$!
reads_tables ()
{
    [ "$(grep -c 'Read.*offset=0x[0-9a-f]\{6\}' $d/reads.txt)" -ge 4 ]
}
wait_for 50 reads_tables || fail "the tables aren't being read"
stop_nbdkit     # waits for a minute, reading would take four at least
if wait $client; then fail "the client was served"; fi
grep 'x.qed: reading its tables was interrupted' $d/nbdkit.log
cmp $d/x.qed $d/before.qed
