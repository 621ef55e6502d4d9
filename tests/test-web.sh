#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# An image on a web server, which nbdkit-curl-plugin reads: its disk is mapped
# and copied.  To open an image of a 1 TiB disk and to read one cluster, or to
# map it, takes few requests.

source ./functions.sh nbd libnbd busybox nbdcopy nbdinfo
requires nbdkit curl --dump-plugin

requests ()
{
    grep -c url: $d/web || :
}

mkdir $d/www
"$PYTHON" - <<'END'
import qedimg, qedtest

img = qedimg.Image(16 << 20)
for cluster in (0, 1, 7, 100, 255):
    img.data(cluster)
img.zero(3)
img.save(qedtest.TMP + "/www/disk.qed")

img = qedimg.Image(1 << 40)
for cluster in (0, 1000000, (1 << 24) - 1):
    img.data(cluster)
img.save(qedtest.TMP + "/www/1t.qed")
END
start_web $d/www
state_of $d/www/* >$d/before

# The disk is the same as when the file is at hand.
nbdkit -r -U - qed $d/www/disk.qed \
       --run 'nbdcopy "$uri" $d/want.raw; nbdinfo --map "$uri" >$d/want.map'
test $(grep -c data $d/want.map) -eq 4
curl=(-r -U - qed command=nbdkit arg=-r arg=curl)
nbdkit "${curl[@]}" arg=$web/disk.qed \
       --run 'nbdcopy "$uri" $d/got.raw; nbdinfo --map "$uri" >$d/got.map'
cmp $d/want.raw $d/got.raw
cmp $d/want.map $d/got.map

# The README's command.
cd $d
ln -s "$abs_top_builddir/nbdkit" nbdkit
words=$(doc_block README 'on a web server,')
bash -e -c "${words/http:\/\/server/$web}"
cmp want.raw disk.raw

# Behind the plugin two servers are started one after the other: one before
# nbdkit forks, one after.  Each sends a request for the size of the file, and
# one for the header.  Then there are a slice of the L1 table, one of an L2
# table, and the cluster.
cat >$d/read.py <<'END'
import qedimg
assert h.get_size() == 1 << 40
want = qedimg.pattern(0, 1000000, 65536)
assert h.pread(65536, 1000000 << 16) == want
END
before=$(requests)
nbdkit "${curl[@]}" arg=$web/1t.qed \
       --run "'$PYTHON' -m nbd -u \"\$uri\" -c - <$d/read.py"
test $(($(requests) - before)) -le 7

# Tables are read ahead: each has 64 slices.
nbdkit -r -U - qed $d/www/1t.qed --run 'nbdinfo --map "$uri"' >$d/want.map
before=$(requests)
nbdkit "${curl[@]}" arg=$web/1t.qed --run 'nbdinfo --map "$uri"' >$d/got.map
cmp $d/want.map $d/got.map
test $(($(requests) - before)) -le 20

state_of $d/www/* >$d/after
cmp $d/before $d/after
