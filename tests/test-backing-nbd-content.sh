#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Unallocated clusters read the export of an NBD server, whatever the two sizes
# are.  Data that is written hides it.

source ./functions.sh nbd nbdcopy libnbd

uri_of ()                       # NAME: of the server started by that name
{
    echo "nbd+unix:///?socket=$d/$1.sock"
}

start_nbdkit -n pattern pattern size=10000001
start_nbdkit -n empty null size=0
start_nbdkit -n data data data='1 @0x200000 2*3000 @0x2fffff 3'
start_nbdkit -n export info mode=exportname

for base in pattern empty data; do
    nbdcopy "$(uri_of $base)" $d/base.raw
    for size in 64k 4M 16M; do
        cp $d/base.raw $d/expected
        truncate -s $size $d/expected
        rm -f $d/x.qed
        qed-img create $d/x.qed $size
        start_nbdkit -n x qed $d/x.qed backing="$(uri_of $base)"
        nbdcopy "$uri" - | cmp - $d/expected
        stop_nbdkit x
    done
done

# The export's name is part of the URI.
rm -f $d/x.qed
qed-img create $d/x.qed 512
start_nbdkit -n x qed $d/x.qed backing="nbd+unix:///some%20name?socket=$d/export.sock"
nbdcopy "$uri" - | tr -d '\0' | grep -x 'some name'
stop_nbdkit x

# Writing: parts of clusters, beyond the end too; and after a restart.
rm -f $d/x.qed
qed-img create $d/x.qed 16M
nbdcopy "$(uri_of pattern)" $d/expected
truncate -s 16M $d/expected
start_nbdkit -n x qed $d/x.qed backing="$(uri_of pattern)"
uri=$uri "$PYTHON" - <<'END'
import os
import qedtest
h = qedtest.connect(os.environ["uri"])
with open(qedtest.TMP + "/expected", "r+b") as f:
    for offset, n in ((0, 1), (70000, 1000), (65536 * 3 - 1, 2), (1 << 20, 65536),
                      (9999999, 5), (12000000, 300), ((16 << 20) - 1, 1)):
        h.pwrite(b"\xa5" * n, offset)
        f.seek(offset)
        f.write(b"\xa5" * n)
    h.zero(100000, 5000000)
    f.seek(5000000)
    f.write(bytes(100000))
h.flush()
h.shutdown()
END
nbdcopy "$uri" - | cmp - $d/expected
stop_nbdkit x
start_nbdkit -n x -r qed $d/x.qed backing="$(uri_of pattern)"
nbdcopy "$uri" - | cmp - $d/expected
stop_nbdkit x

# And over a server that wants one connection only.  (ASan, in a build with it,
# doesn't like dd.)
head -c 1M /dev/urandom > $d/random
start_nbdkit -n one eval get_size='echo 1048576' can_multi_conn='exit 3' \
             can_extents='exit 0' extents='echo 0 1M' \
             pread="LD_PRELOAD= dd if=$d/random skip=\$4 count=\$3 \
                       iflag=skip_bytes,count_bytes status=none"
rm -f $d/x.qed
qed-img create $d/x.qed 1M
cp $d/random $d/expected
for offset in 5000 100000 700001; do
    printf text | dd of=$d/expected bs=1 seek=$offset conv=notrunc status=none
done
start_nbdkit -n x qed $d/x.qed backing="$(uri_of one)"
nbdsh -u "$uri" -c '
text = nbd.Buffer.from_bytearray(bytearray(b"text"))
for offset in (5000, 100000, 700001):
    h.aio_pwrite(text, offset)
while h.aio_in_flight():
    h.poll(-1)
h.flush()
'
nbdcopy "$uri" - | cmp - $d/expected
