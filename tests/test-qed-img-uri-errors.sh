#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# What can't be done with what an NBD server exports is refused, with the
# reason, and nothing is written.

source ./functions.sh nbd libnbd

cd $d
qed-img create -q -o cluster_size=4k,table_size=1 x.qed 1M
"$PYTHON" - <<'END'
import qedimg
img = qedimg.Image(1 << 20, 4096, 1)
img.data(0)
img.alloc()                     # leaked
img.data(1)
img.entry(2, 4097)
img.save("bad.qed")
END

# changes REGEX: all that writes is refused.
changes ()
{
    fails 1 "$1" qed-img create "$uri" 1M
    fails 1 "$1" qed-img check -r all "$uri"
    fails 1 "$1" qed-img check -r leaks "$uri"
    fails 1 "$1" qed-img resize "$uri" 2M
    fails 1 "$1" qed-img rebase -u -b a -F raw "$uri"
    fails 1 "$1" qed-img rebase -b '' "$uri"
}
reads ()
{
    qed-img info "$uri"
    qed-img map "$uri"
    qed-img check "$uri"
}

state_of x.qed >before
start_nbdkit -r file $d/x.qed
changes ': the server exports this read-only$'
reads
stop_nbdkit

# No flush.
cat >noflush <<'END'
case $1 in
    get_size) stat -c %s $d/x.qed;;
    pread) tail -c +$(($4 + 1)) $d/x.qed | head -c $3;;
    can_write) exit 0;;
    pwrite) cat >/dev/null;;
    *) exit 2;;
esac
END
chmod +x noflush
start_nbdkit sh $d/noflush
changes "the server doesn't offer to flush, .*durable"
reads
stop_nbdkit

# No image; too small for one.
head -c 100000 /dev/urandom >noise.raw
start_nbdkit file $d/noise.raw
for v in info check map 'check -r all'; do
    fails 1 "qed-img: nbd.*sock: .*magic" qed-img $v "$uri"
done
fails 1 'magic' qed-img resize "$uri" 1M
fails 1 'magic' qed-img rebase -u -b a -F raw "$uri"
fails 1 'magic' qed-img commit "$uri"
fails 1 'has 100000 bytes: .*header and L1 table need 327680' \
      qed-img create "$uri" 1M
fails 1 'size .*at most' qed-img create -o cluster_size=4k,table_size=1 \
      "$uri" 1T
stop_nbdkit
: >empty.raw
start_nbdkit file $d/empty.raw
fails 1 'nbd.*sock: ' qed-img info "$uri"
fails 1 'has 0 bytes: ' qed-img create "$uri" 1M
stop_nbdkit

# No room for what a rebase copies: the image is as it was, and in order.
head -c 3M /dev/urandom >base.raw
qed-img create -q -b $d/base.raw -F raw full.raw
truncate -s 1M full.raw
start_nbdkit file $d/full.raw
fails 1 'nbd.*sock: no more clusters can be allocated: of the 1048576 bytes' \
      qed-img rebase --backing-dir=$d -b '' "$uri"
ends 0 qed-img check "$uri"
nbdcopy -- [ nbdkit -r qed uri="$uri" backing-dir=$d ] got.raw
cmp base.raw got.raw
stop_nbdkit

# No server; a URI that is none of NBD's is the name of a file.
for v in info check map 'check -r all'; do
    fails 1 'qed-img: nbd.unix:.*nowhere: .*onnect' \
          qed-img $v "nbd+unix:///?socket=$d/nowhere"
    fails 1 'qed-img: http://localhost/x: .*No such file' \
          qed-img $v http://localhost/x
done
fails 1 'onnect' qed-img create "nbd+unix:///?socket=$d/nowhere" 1M
fails 1 'onnect' qed-img resize "nbd+unix:///?socket=$d/nowhere" 1M
fails 1 'onnect' qed-img rebase -u -b '' "nbd+unix:///?socket=$d/nowhere"
fails 1 'onnect' qed-img commit "nbd+unix:///?socket=$d/nowhere"
fails 1 "the name after socket= must begin with '/'" \
      qed-img info 'nbd+unix:///?socket=x'
fails 1 'No such file|open its directory' qed-img create http://localhost/x 1M
state_of x.qed | cmp - before
