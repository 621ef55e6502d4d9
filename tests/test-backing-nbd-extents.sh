#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The server's extents become the disk's, up to the end of the export, and a
# copy does not read the server's holes.  Zeros that take up space are zeros.

source ./functions.sh nbd nbdcopy nbdinfo filter:noextents,log libnbd

data='@0x100000 "x"*65536 @0x500000 "y"*0x8000 @0x3fffffff 1'
start_nbdkit -n base --filter=log data data="$data" size=1G logfile=$d/base.txt
base_uri=$uri
qed-img create $d/x.qed 2G
start_nbdkit -n x qed $d/x.qed backing="$base_uri"
nbdinfo --map "$uri" >$d/map
cat >$d/expected <<'END'
         0     1048576    3  hole,zero
   1048576       65536    0  data
   1114112     4128768    3  hole,zero
   5242880       32768    0  data
   5275648  1068433408    3  hole,zero
1073709056       32768    0  data
1073741824  1073741824    3  hole,zero
END
diff -u $d/expected $d/map
nbdcopy "$uri" $d/copy
nbdcopy "$base_uri" $d/base.raw
truncate -s 2G $d/base.raw
cmp $d/copy $d/base.raw
stop_nbdkit x
stop_nbdkit base
# The two copies read less than a hundredth of the disk.
"$PYTHON" - <<'END'
import re
import qedtest
n = sum(int(m[1], 16) for m in
        re.finditer(r" Read .*count=0x([0-9a-f]+)",
                    open(qedtest.TMP + "/base.txt").read()))
assert 0 < n < 10 << 20, n
END

# A server without block status, a connection without structured replies, and a
# server whose block status fails.
for filter in '--filter=noextents' '--no-sr'; do
    start_nbdkit -n base $filter data data="$data" size=1M
    rm -f $d/x.qed
    qed-img create $d/x.qed 2M
    start_nbdkit -n x qed $d/x.qed backing="nbd+unix:///?socket=$d/base.sock"
    nbdinfo --map "$uri" >$d/map
    cat >$d/expected <<'END'
         0     1048576    0  data
   1048576     1048576    3  hole,zero
END
    diff -u $d/expected $d/map
    stop_nbdkit x
    stop_nbdkit base
done
start_nbdkit -n base eval get_size='echo 1M' pread='head -c $3 /dev/zero' \
             can_extents='exit 0' extents='
    if [ $4 -ge 524288 ]; then echo EIO no extents >&2; exit 1; fi
    echo $4 100
    echo $(($4 + 100)) 65536 zero'
rm -f $d/x.qed
qed-img create $d/x.qed 1M
start_nbdkit -n x qed $d/x.qed backing="nbd+unix:///?socket=$d/base.sock"
"$PYTHON" - "$uri" <<'END'
import sys
import qedtest
h = qedtest.connect(sys.argv[1])
got = qedtest.extents(h)
pos = 0
while pos < 524288:
    want = [(pos, pos + 100, 0), (pos + 100, pos + 65636, 3)]
    assert got[:2] == want, (got, want)
    got = got[2:]
    pos += 65636
assert got == [(pos, 1 << 20, 0)], got
END
stop_nbdkit x
stop_nbdkit base

# A hole alone need not read as zeros.
start_nbdkit -n base eval get_size='echo 1M' \
             pread='head -c $3 /dev/zero | tr "\\0" x' can_extents='exit 0' \
             extents='echo 0 64k hole; echo 64k 64k hole,zero; echo 128k 896k zero'
start_nbdkit -n x qed $d/x.qed backing="nbd+unix:///?socket=$d/base.sock"
nbdinfo --map "$uri" >$d/map
cat >$d/expected <<'END'
         0       65536    0  data
     65536      983040    3  hole,zero
END
diff -u $d/expected $d/map
